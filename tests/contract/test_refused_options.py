"""Options that cannot be used, or not together, are refused before anything is loaded, and the message says which."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from coalign.core.errors import ConfigError
from coalign.core.options import build
from coalign.core.system import load_system

REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "selfie": [
        ({"seed_data": "x", "prompts": "y", "temperature": 0.0}, "gives equal responses"),
        ({"seed_data": "x", "prompts": "y", "samples": 1}, "at least 2"),
        ({"seed_data": "x", "prompts": "y", "extrapolation": []}, "names no round"),
    ],
    "codeultrafeedback": [
        ({"data": "x", "generators": ["a"], "responses": 1}, "at least 2"),
        ({"data": "x", "generators": ["a", "a"]}, "named twice"),
        ({"data": "x", "generators": ["a"], "keep_ties": True, "min_gap": 2}, "exclude each other"),
        ({"data": "x", "generators": ["a"], "reward": ["max_words:3"], "layout": "blocks"}, "layout has no effect"),
        ({"data": "x", "generators": ["a"], "learn": False, "benchmark": "y"}, "benchmark has no effect"),
        ({"data": "x", "generators": ["a"], "benchmark_tokens": 5}, "benchmark_tokens has no effect"),
        ({"data": "x", "generators": ["a"], "code_tasks": "y", "pass_at": [1, 10]}, "more than code_samples"),
        ({"data": "x", "generators": ["a"], "code_tasks": "y", "code_temperature": 0.5}, "written greedily"),
        ({"data": "x", "generators": ["a"], "judge_served": "y"}, "give its address"),
    ],
    "cyclealign": [
        ({"prompts": "x", "reward": ["max_words:3"], "judge": "y"}, "judge has no effect with reward"),
        ({"prompts": "x", "reward": ["max_word:3"]}, "max_words"),
        ({"prompts": "x", "judge_served": "y"}, "give its address"),
        ({"prompts": "x", "ranking": "pro", "margin": 0.1}, "margin has no effect"),
        ({"prompts": "x", "min_agreement": 1}, "at least 2"),
    ],
    "portia": [
        ({"data": "x", "judge": "reward"}, "never sees the order"),
        ({"data": "x", "parts": 0}, "at least 1"),
        ({"data": "x", "judge": "verifiers"}, "never sees"),
    ],
    "dpa-rag": [
        ({"data": "x", "tune_reader": False, "pre_align": False}, "pre_align has no effect without tune_reader"),
        ({"data": "x", "tune_reader": False, "learning_rate": 1e-3}, "learning_rate has no effect without tune_reader"),
        ({"data": "x", "rewrites": ["sparql"]}, "rewrites has no effect without augmenter"),
        ({"data": "x", "retriever": "dense"}, "retriever has no effect without corpus"),
        ({"data": "x", "losses": ["pointwise"], "weights": "equal"}, "weights has no effect with one loss"),
        ({"data": "x", "losses": ["pointwise"], "temperature": 1.0}, "temperature has no effect without the contrastive loss"),
        ({"data": "x", "eval_fraction": 0.1}, "eval_fraction has no effect here: test_fraction says what is held out"),
        ({"data": "x", "endpoint": "http://127.0.0.1:1"}, "say --no-tune-reader"),
    ],
    "rag-rewardbench": [
        ({"data": "x", "judge": "reward"}, "judge has no effect here: --judges and --reward say who judges"),
        ({"data": "x", "model": "y"}, "model has no effect here"),
        ({"data": "x", "generators": ["y"]}, "generators has no effect with mode: rank"),
        ({"data": "x", "criteria": "y"}, "criteria has no effect without judges"),
        ({"data": "x", "mode": "build", "judges": ["y"], "reward": ["max_words:2"]}, "reward has no effect with mode: build"),
        ({"data": "x", "mode": "build"}, "judges is empty"),
        ({"data": "x", "categories": ["nq"]}, "expected SUBSET=CATEGORY"),
    ],
    "alignscore": [
        ({"data": "x", "learning_rate": 1e-3}, "learning_rate has no effect"),
        ({"data": "x", "train": ["y"], "model": "z"}, "model has no effect with train"),
        ({"train": ["y"], "threshold": 0.3}, "threshold has no effect"),
    ],
    "cream": [
        ({"prompts": "x", "seed_data": "x", "initial_model": "y"}, "exclude each other"),
        ({"prompts": "x", "initial_model": "y", "seed_epochs": 2}, "seed_epochs has no effect without seed_data"),
        ({"prompts": "x", "seed_data": "x", "oracle": ["max_words:3"], "consistency": "off"}, "consistency has no effect"),
        ({"prompts": "x", "seed_data": "x", "oracle": ["max_wrods:3"]}, "max_words"),
        ({"prompts": "x", "seed_data": "x", "measure": ["judge:polite"]}, "expected a reward model or verifiers"),
        ({"prompts": "x", "seed_data": "x", "samples": 1}, "at least 2"),
    ],
    "scir": [
        ({"prompts": "x", "seed_epochs": 2}, "seed_epochs has no effect without seed_data or judge_data"),
        ({"prompts": "x", "labels": "judge", "penalty_weight": 0}, "penalty_weight has no effect with labels: judge"),
        ({"prompts": "x", "samples": 1}, "at least 2"),
        ({"prompts": "x", "min_confidence": 0.4}, "min_confidence"),
    ],
    "alignment-faking": [
        ({"labels": "tags"}, "labels: tags does not go with setting: animal-welfare"),
        ({"labels": "judge"}, "needs a judge"),
        ({"setting": "helpful-only", "labels": "words"}, "expected auto, judge, tags"),
        ({"judge": "x", "judge_served": "y"}, "give its address"),
        ({"ablations": ["flag", "flag"]}, "names one twice"),
        ({"reasoning": "none", "ablations": ["scratchpad"]}, "left out already"),
        ({"adapter_rank": 4}, "nothing is trained"),
    ],
    "vif-rag": [
        ({"eval_data": "x", "samples": 2}, "samples has no effect with eval_data"),
        ({"eval_data": "x", "responses": True, "model": "y"}, "model has no effect with responses"),
        ({"query_data": "x", "rag_per_rule": 2}, "rag_per_rule has no effect without rag_data"),
        ({"query_data": "x", "judge": "y"}, "judge has no effect without eval_data"),
        ({"eval_data": "x", "judge": "y", "judge_served": "z"}, "give its address"),
        ({"query_data": "x", "sizes": [1, 2]}, "at least 2"),
        ({"query_data": "x", "query_characters": [9, 3]}, "low and high"),
        ({"query_data": "x", "top_p": 1.5}, "at most 1"),
    ],
    "honesty": [
        ({"data": "x", "method": "prompt", "threshold": 0.5}, "threshold has no effect"),
        ({"data": "x", "equal_updates": False}, "equal_updates has no effect"),
        ({"data": "x", "eval_fraction": 0.1}, "eval_fraction has no effect"),
    ],
    "long-output": [
        ({"data": "x", "general_ratio": 3}, "general_ratio has no effect without general"),
        ({"data": "x", "annealing_rate": 1e-6}, "annealing_rate has no effect without annealing_epochs"),
        ({"data": "x", "judge_model": "m"}, "judge_model has no effect without orders"),
        ({"data": "x", "orders": "o", "missing_quality": 3}, "missing_quality has no effect without judge_model"),
        ({"data": "x", "eval_fraction": 0.1}, "eval_fraction has no effect here"),
        ({"data": "x", "filter_only": True, "epochs": 3}, "epochs has no effect with filter_only"),
        ({"data": "x", "filter_only": True, "orders": "o"}, "orders has no effect with filter_only"),
        ({"data": "x", "filter_only": True, "tuning": "full"}, "tuning has no effect with filter_only"),
    ],
    "wildfeedback": [
        ({"data": "x", "detector_data": "y"}, "detector_data has no effect with detector: judge"),
        ({"data": "x", "detector": "trained", "leave_out": []}, "leave_out has no effect"),
        ({"data": "x", "leave_out": ["magic"]}, "is no sign"),
        ({"data": "x", "personal_kinds": ["NAME"]}, "is not known"),
        ({"data": "x", "personal_kinds": []}, "keep masks nothing"),
        ({"data": "x", "personal_data": "keep", "personal_kinds": ["URL"]}, "personal_kinds"),
        ({"data": "x", "version": "on-policy", "expert": "y"}, "expert has no effect with version: on-policy"),
        ({"data": "x", "expert_endpoint": "http://x/v1"}, "expert_endpoint has no effect"),
        ({"data": "x", "held_out": 1.0}, "leaves nothing"),
        ({"data": "x", "eval_fraction": 0.2}, "eval_fraction has no effect"),
    ],
    "past-tense": [
        ({"data": "x", "reformulator": "y", "reformulations": "z"}, "exclude each other"),
        ({"data": "x", "conditions": ["direct"], "reformulator": "y"}, "reformulator has no effect"),
        ({"data": "x", "conditions": ["direct", "direct"]}, "each once"),
        ({"data": "x", "reformulations": "y", "judges": ["rating"]}, "give judge_model"),
        ({"data": "x", "reformulations": "y", "judge_model": "z"}, "judge_model has no effect"),
        ({"data": "x", "reformulations": "y", "judges": ["safety"], "judge_model": "z", "rating_template": "t"}, "rating_template"),
        ({"data": "x", "reformulations": "y", "past_template": "t"}, "past_template has no effect"),
        ({"data": "x", "reformulations": "y", "shares": [0.5]}, "shares has no effect"),
        ({"data": "x", "reformulations": "y", "learning_rate": 1e-3}, "learning_rate has no effect without chats"),
        ({"data": "x", "conditions": ["direct"], "chats": "c"}, "name past among"),
        ({"data": "x", "reformulations": "y", "chats": "c", "endpoint": "http://x/v1"}, "endpoint"),
        ({"data": "x", "reformulations": "y", "chats": "c", "shares": []}, "shares is empty"),
    ],
    "judge": [
        ({"data": "x", "judge": "reward", "judge_form": "score"}, "judge_form has no effect with judge: reward"),
        ({"data": "x", "judge": "verifiers", "model": "x"}, "model has no effect with judge: verifiers"),
        ({"data": "x", "judge_readout": "logprobs", "judge_form": "score"}, "judge_form has no effect with judge_readout"),
        ({"data": "x", "judge_calibrate": True}, "judge_calibrate has no effect without"),
        ({"data": "x", "judge": "stored"}, "judge: stored needs it"),
        ({"data": "x", "tie_margin": 1}, "tie_margin has no effect with judge: model"),
        ({"data": "x", "scale_low": 5, "scale_high": 5}, "scale_low 5 is not below"),
        ({"data": "x", "judge": "reward", "criteria": "x"}, "criteria has no effect"),
        ({"data": "x", "judge": "reward", "endpoint": "http://x/v1"}, "endpoint has no effect with judge: reward"),
    ],
    "reward-transform": [
        ({"prompts": "x", "reward": ["max_words:3"], "quantile": 1}, "quantile"),
        ({"prompts": "x", "reward": ["max_words:3"], "reference": "constant"}, "constants: 0 for 1 rewards"),
        ({"prompts": "x", "reward": ["max_words:3"], "constants": [1]}, "constants has no effect"),
        ({"prompts": "x", "reward": ["max_words:3"], "combine": "min"}, "combine has no effect"),
        ({"prompts": "x", "reward": ["max_words:3"], "eval_fraction": 0, "eval_samples": 4}, "eval_"),
    ],
    "infalign": [
        ({"prompts": "x", "reward": ["max_words:3", "no_commas"]}, "expected one"),
        ({"prompts": "x", "reward": ["max_words:3"], "n": 9}, "n: 9 is more than"),
        ({"prompts": "x", "reward": ["max_words:3"], "transform": "optimal", "t": 3}, "t has no effect"),
        ({"prompts": "x", "reward": ["max_words:3"], "transform": "optimal", "beta": 0}, "beta: the optimal"),
    ],
    "self-j": [
        ({"data": "x", "eval_fraction": 0}, "eval_fraction"),
        ({"data": "x", "max_prompt_length": 9}, "max_prompt_length has no effect"),
        ({"data": "x", "judge_template": "none.j2"}, "cannot be read"),
    ],
    "varco-arena": [
        ({"mode": "simulation", "data": ["x"]}, "data has no effect with mode: simulation"),
        ({"mode": "simulation", "sim_ratings": [1.0]}, "needs two ratings"),
    ],
    "dmoerm": [
        ({"data": "x", "labeller": "y", "capabilities": "z"}, "labeller has no effect"),
        ({"data": "x", "save": "adapter"}, "save has no effect"),
        ({"data": "x", "eval_steps": 3}, "eval_steps has no effect"),
    ],
    "dga": [
        ({"data": "x", "target": "y", "clusters": 3, "domain_column": "z"}, "domain_column has no effect"),
        ({"data": ["x", "w,weight=2"], "target": "y"}, "weight has no effect"),
        ({"data": ["x", "w"], "target": "y", "reference_tasks": "z"}, "expected two or more"),
        ({"data": ["x", "w"], "target": "y", "weights": "uniform", "average": 0.5}, "average has no effect"),
        ({"data": ["x", "w"], "target": "y", "average": 2}, "expected at most 1"),
        ({"data": ["x", "w"], "target": "y", "weights": "fixed"}, "needs weights_from"),
        ({"data": ["x", "w"], "target": "y", "weights": "uniform", "weights_from": "z"}, "weights_from has no effect"),
        ({"data": ["x", "w"], "target": "y", "reference_logps": "live"}, "reference_logps has no effect"),
    ],
    "more": [
        ({"data": "x", "weights": "uniform", "normalise": "none"}, "normalise has no effect"),
        ({"data": "x", "best_of": 8}, "best_of has no effect"),
        ({"data": "x", "temperature": 0.5}, "temperature has no effect"),
        ({"data": "x", "margin_scale": 2.0}, "margin_scale has no effect"),
    ],
    "janus": [
        ({"data": "x", "collection": True, "teacher": "y"}, "teacher has no effect with collection"),
        ({"data": "x", "collection": True, "unseen": 0.5}, "unseen has no effect with collection"),
        ({"data": "x", "system_messages": 1, "policies": ["dpo"]}, "gives no pairs"),
        ({"data": "x", "policies": ["sft", "sft"]}, "each once"),
        ({"data": "x", "beta": 0.3}, "beta has no effect without policies: dpo"),
        ({"data": "x", "best_of": 2}, "best_of has no effect without reward_model"),
        ({"data": "x", "judge_endpoint": "http://x"}, "judge_model"),
        ({"data": "x", "judge_model": "x", "judge_readout": "logprobs", "judge_rounds": 2}, "judge_rounds has no effect"),
        ({"data": "x", "endpoint": "http://x/v1", "teacher": "y"}, "teacher has no effect with an endpoint"),
        ({"data": "x", "eval_fraction": 0}, "leaves nothing to measure on"),
    ],
    "response-selection": [
        ({"data": "x", "rank_by": "car"}, "car needs a reward"),
        ({"data": "x", "rank_by": "hidden_state"}, "needs hidden_states"),
        ({"data": "x", "examples": 0}, "needs examples"),
        ({"data": "x", "beta": 2.0}, "beta has no effect without reward"),
        ({"data": "x", "reward": "judge:polite"}, "expected a reward model or verifiers"),
        ({"data": "x", "adapter_rank": 4}, "nothing is trained"),
        ({"data": "x", "own_answers": "y", "pool": 4}, "pool has no effect"),
        ({"data": ["x,weight=2"]}, "weight"),
    ],
    "muscle": [
        ({"old": "x", "data": "x", "eval_steps": 3}, "eval_steps has no effect"),
        ({"old": "x", "data": "x", "mask": "token_likelihood", "train_data": "x"}, "needs the cross-entropy"),
        ({"old": "x", "data": "x", "metric": "choice", "margin": 0.1}, "margin has no effect"),
        ({"old": "x", "data": "x", "mask": "other"}, "mask"),
    ],
    "adaptive-mt": [
        ({"data": ["x"], "adapt": True}, "adapt needs a memory"),
        ({"data": ["x"], "shots": []}, "shots is empty"),
        ({"data": ["x"], "interactive": True, "adapt": True}, "no effect with interactive"),
        ({"data": ["x"], "adapter_rank": 3}, "adapter_rank has no effect"),
    ],
    "urial": [
        ({"prompts": "x", "style": "x", "analysis": "token-shift"}, "aligned_model"),
        ({"prompts": "x", "style": "x", "aligned_model": "x"}, "aligned_model"),
        ({"prompts": "x", "style": "x", "analysis": "token-shift", "aligned_model": "x", "compare": True}, "compare"),
        ({"prompts": "x", "style": "x", "judge_endpoint": "http://x"}, "judge_model"),
        ({"prompts": "x", "style": "x", "max_failures": 0.5}, "max_failures has no effect without judge_model"),
        ({"prompts": "x", "style": "x", "analysis": "token-shift", "aligned_model": "x"}, "style has no effect"),
        ({"prompts": "x", "style": "x", "temperature": -1}, "temperature"),
    ],
    "nudging": [
        ({"nudging_model": "x", "prompts": "x", "gamma": -1}, "gamma"),
        ({"nudging_model": "x", "prompts": "x", "combine": "proxy-tuning"}, "plain_model"),
        ({"nudging_model": "x", "prompts": "x", "plain_model": "x"}, "plain_model"),
        ({"nudging_model": "x", "prompts": "x", "combine": "ensemble", "gamma": 0.3}, "gamma has no effect"),
        ({"nudging_model": "x", "prompts": "x", "nudging_chunk_tokens": 0}, "nudging_chunk_tokens"),
    ],
    "cut": [
        ({"data": "a", "prompts": "b"}, "exclude each other"),
        ({"data": "a", "rounds": 2}, "rounds has no effect without prompts"),
        ({"data": "a", "critic": "default"}, "critic has no effect without prompts"),
        ({"data": "a", "temperature": 0.5}, "temperature has no effect without prompts"),
        ({"prompts": "b", "criteria": "x"}, "no effect without critic"),
        ({"prompts": "b", "critic": "default", "critic_served": "x"}, "give its address"),
        ({"prompts": "b", "fine_from": 11}, "fine_from: 11"),
        ({"prompts": "b", "eval_data": "c"}, "eval_data has no effect"),
        ({"prompts": "b", "column": "prompt=q"}, "column has no effect with prompts"),
        ({"data": "x", "threshold": 0.5}, "of at least 1"),
    ],
    "ln-dpo": [
        ({"data": "x", "gamma": 1.0}, "--gamma: ln_dpo has no such constant"),
        ({"data": "x", "objective": "dpo", "tau": 0.1}, "Constants of dpo: beta"),
        ({"data": "x", "objective": "cpo", "label_smoothing": 0.7}, "label_smoothing: 0.7"),
        ({"data": "x", "objective": "asft"}, "expected one of: ln_dpo, dpo"),
        ({"data": "x", "beta": 0}, "above 0"),
        ({"data": "x", "eval_data": "y", "eval_fraction": 0.2}, "eval_fraction has no effect beside eval_data"),
        ({"data": "x", "tuning": "full", "adapter_rank": 2}, "adapter_rank has no effect"),
        ({"data": "x", "seeds": 5}, "seeds has no effect without study"),
        ({"data": "x", "grid": ["beta=1"]}, "grid has no effect without study"),
        ({"data": "x", "study": True, "beta": 1.0}, "--grid beta="),
        ({"data": "x", "study": True, "objective": "dpo"}, "leave --objective out"),
        ({"data": "x", "study": True, "objectives": ["dpo", "dpo"]}, "each once"),
        ({"data": "x", "study": True, "grid": ["bta=1"]}, "Did you mean beta?"),
        ({"data": "x", "study": True, "grid": ["kto.beta=1"]}, "'kto' is not among the objectives"),
        ({"data": "x", "study": True, "grid": ["beta="]}, "expected name=value"),
    ],
    "dpo-insights": [
        ({"data": "x", "starts": ["pretrained"]}, "the default model is instruction-tuned"),
        ({"data": "x", "model": "m", "objectives": ["dpo", "dpo"]}, "each once"),
        ({"data": "x", "model": "m", "objectives": []}, "at least one"),
        ({"data": "x", "model": "m", "starts": ["pretrained"], "sft_data": "x"}, "no effect without the scenario"),
        ({"data": "x", "model": "m", "constants": ["tau=0.1,0.2"]}, "has several values"),
        ({"data": "x", "model": "m", "constants": ["gamma=0.1"]}, "is not a setting of dpo, ipo, kto, cpo"),
    ],
    "bco": [
        ({"data": "x", "encoder": "x"}, "encoder has no effect without match_prompts"),
        ({"data": "x", "max_density_ratio": 3.0}, "max_density_ratio has no effect"),
        ({"data": "x", "match_prompts": True, "min_density_ratio": 20.0}, "is above max_density_ratio"),
    ],
    "aft": [
        ({"data": "x", "temperature": 0}, "same solution every time"),
    ],
    "poft": [
        ({"data": "x"}, "scorers: is required"),
        ({"data": "x", "scorers": ["a", "a"]}, "each once"),
        ({"data": "x", "scorers": []}, "one aligned model or more"),
    ],
    "d2o": [
        ({"data": "x", "resample_warmup": 3}, "resample_warmup has no effect"),
        ({"data": "x", "temperature": 0}, "same self-sample every time"),
    ],
    "reward-augmented": [
        ({"data": "x", "lowest": 5, "highest": 5}, "is empty"),
        ({"data": "x", "share": 2}, "at most 1"),
        ({"data": "x", "label_smoothing": 0.5}, "below 0.5"),
    ],
    "pro": [
        ({"data": "x", "tuning": "full", "adapter_rank": 3}, "adapter_rank has no effect"),
    ],
}  # fmt: skip
"""System, or `judge`, to what its configuration is built of and to words of the message."""


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [(name, values, words) for name, rows in REFUSED.items() for values, words in rows],
)
def test_options_that_cannot_be_used_are_refused(name: str, values: dict[str, Any], words: str) -> None:
    module = importlib.import_module("coalign.judging.run") if name == "judge" else load_system(name)
    with pytest.raises(ConfigError) as caught:
        build(module.Config, values)
    assert words in str(caught.value)
