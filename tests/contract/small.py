"""A tiny run of every system: what the contract tests run. A new system is a row here before it is a test file.

Names of files and of models are relative: a run is made inside a folder that `furnish` has filled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.contract import (
    asked,
    curated,
    generated,
    guided,
    judged_pictures,
    lines,
    paired,
    pictured,
    rows,
    shown,
    spoken,
    staged,
    tabled,
    video,
)
from tests.preference.tiny_runs import (
    WORDS,
    Rows,
    demonstrations,
    feedback,
    judgments,
    pairs,
    rankings,
    save_tiny_model,
    write,
)
from tests.selfalign.writer import SEEDS
from tests.video.tiny import save_image_text_model

PARTS = (
    asked,
    curated,
    generated,
    guided,
    judged_pictures,
    lines,
    paired,
    pictured,
    shown,
    spoken,
    staged,
    video,
    tabled,
)
"""Modules with rows of their own."""
MODEL = {"model": "models/tiny", "device": "cpu"}
FIT = {"batch_size": 4, "learning_rate": 1e-2, "max_length": 200}
LEARN = {**MODEL, **FIT, "eval_fraction": 0.25, "save_steps": 1}
ONLINE = {"prompts": "prompts.jsonl", "samples": 2, "prompts_per_step": 2, "max_new_tokens": 5, "base_samples": 4, "eval_samples": 4,
          "eval_fraction": 0.34, "max_steps": 1, "learning_rate": 1e-2, "save_steps": 1, "batch_size": 4}  # fmt: skip
JUDGE = {**MODEL, "judge_readout": "logprobs", "judge_template": "short.j2", "max_failures": 1.0}


FRUITS = [{"text": f"{one} {fruit} and {other}", "fruit": fruit} for one in WORDS[:4] for other in WORDS[4:6]
          for fruit in ("plums", "pears")]  # fmt: skip


@dataclass(frozen=True)
class Small:
    """A tiny run.

    Attributes:
        options: what the system's `Config` is built of.
        files: file name to its rows, or to a function that makes it at a path.
    """

    options: Mapping[str, Any]
    files: Mapping[str, Rows | Callable[[Path], object]] = field(default_factory=dict)


_WRITTEN: dict[Path, object] = {}


def furnish(folder: Path, small: Small) -> None:
    """Put the files and the models of a tiny run into `folder`, unless they are there. Runs share it: a file of the same name
    that another run put there is replaced.
    """
    for name, content in small.files.items():
        path = folder / name
        if not path.exists() or _WRITTEN.get(path, content) != content:
            _ = content(path) if callable(content) else write(path, content)
            _WRITTEN[path] = content
    for value in small.options.values():
        for name in value if isinstance(value, list) else [value]:
            path = folder / str(name)
            if str(name).startswith("models/") and not path.exists():
                path.parent.mkdir(exist_ok=True)
                MODELS[path.name](path)


def _alignment_model(path: Path) -> object:
    from coalign.evaluation.factuality.model import save_pair_classifier
    from tests.evaluation.encoders import pair_classifier, pair_tokenizer

    return save_pair_classifier(pair_classifier(), pair_tokenizer(), path, max_length=64)


def _encoder(path: Path) -> object:
    from coalign.evaluation.factuality.model import new_encoder
    from tests.evaluation.encoders import encoder_config, pair_tokenizer

    new_encoder(encoder_config()).save_pretrained(path)
    return pair_tokenizer().save_pretrained(path)


def _writer(path: Path) -> object:
    from coalign.selfalign import i_sheep
    from coalign.selfalign.synthesis.grading import GRADE, GRADES
    from tests.selfalign.writer import save_writer

    grades = [GRADE.replace("{grades}", one) for one in GRADES.values()]
    return save_writer(
        path,
        [i_sheep.BRIEF.format(n=20)],
        grades,
    )


def _asker(path: Path) -> object:
    from coalign.selfalign.self_specialization import BRIEF
    from tests.selfalign.writer import save_writer

    return save_writer(path, [BRIEF.format(n=20, domain="colours", topics="")], [])


def _answerer(path: Path) -> object:
    from tests.curation.answerer import save_answerer

    return save_answerer(path)


MODELS: dict[str, Callable[[Path], object]] = {
    "tiny": save_tiny_model,
    "other": lambda path: save_tiny_model(path, seed=5),
    "base": lambda path: save_tiny_model(path, seed=1, template=None),
    "wide": lambda path: save_tiny_model(path, context=2048),
    "varied": lambda path: save_tiny_model(path, context=1024, scale=4.0),
    "scoring": lambda path: save_tiny_model(path, seed=34, context=2048),
    "alignment": _alignment_model,
    "encoder": _encoder,
    "writer": _writer,
    "asker": _asker,
    "answerer": _answerer,
    "image-text": save_image_text_model,
    **generated.MODELS,
    **pictured.MODELS,
    **paired.MODELS,
    **shown.MODELS,
    **spoken.MODELS,
}

PREFERENCES = '{"brevity": {"criteria": "Rate how brief it is.", "levels": {"1": "long", "5": "brief"}, "principles": ["Be brief.", "Say it in one word."]}}'


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


def _prompts(n: int, **columns: Any) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "prompt": f"the sky is {WORDS[i % 8]}", **columns} for i in range(n)]


def _limited(n: int) -> list[dict[str, Any]]:
    """Limits that random text meets about half of the time."""
    limit = {"verifier": "max_characters"}
    return [
        {"id": f"p{i}", "prompt": f"Say {i}.", "constraints": [{**limit, "n": 6 + i % 3}, {"verifier": "no_commas"}],
         "split": "train" if i < n - 3 else "heldout"}
        for i in range(n)
    ]  # fmt: skip


def _strict(n: int) -> list[dict[str, Any]]:
    limits = [{"verifier": "max_words", "n": 1}, {"verifier": "must_include", "keywords": ["sky"]}]
    return [{"prompt": f"Say {i}.", "constraints": limits} for i in range(n)]


SENTENCES = [
    {"source": "wash your hair", "target": "lávese el pelo"},
    {"source": "stay at work", "target": "quédese en el trabajo"},
]
TEMPLATE = (
    "{% for one in parts or [answers] %}A: {{ one[0] }}\nB: {{ one[-1] }}\n{% endfor %}Reply with A or B."
)
GRADE = "{{ answers[0] }}{% if reference %} ({{ reference }}){% endif %} 0 to 9?"
UNITS = (
    "wash your hands\tlávese las manos\nstay at home\tquédese en casa\ncover your mouth\tcúbrase la boca\n"
)

SMALL: dict[str, Small] = {
    "bco": Small({**LEARN, "data": "feedback.jsonl"}, {"feedback.jsonl": feedback()}),
    "asft": Small({**LEARN, "data": "pairs.jsonl"}, {"pairs.jsonl": pairs()}),
    "pro": Small({**LEARN, "data": "rankings.jsonl"}, {"rankings.jsonl": rankings()}),
    "ln-dpo": Small({**LEARN, "data": "pairs.jsonl"}, {"pairs.jsonl": pairs()}),
    "dpo-insights": Small(
        {**LEARN, "data": "pairs.jsonl", "instruct_model": "models/tiny", "starts": ["instruction-tuned"],
         "objectives": ["dpo", "kto"], "sizes": [4], "seeds": 1, "answers": 3, "answer_tokens": 4},
        {"pairs.jsonl": pairs()},
    ),
    "aft": Small({**LEARN, "data": "rankings.jsonl"}, {"rankings.jsonl": rankings()}),
    "poft": Small(
        {**LEARN, "data": "demonstrations.jsonl", "scorers": ["models/other"]},
        {"demonstrations.jsonl": demonstrations()},
    ),
    "d2o": Small(
        {**LEARN, "data": "feedback.jsonl", "samples": 2, "max_new_tokens": 6}, {"feedback.jsonl": feedback()}
    ),
    "cut": Small({**LEARN, "data": "judgments.jsonl"}, {"judgments.jsonl": judgments()}),
    "dmoerm": Small(
        {**LEARN, "data": "named.jsonl", "capabilities": "capabilities.jsonl", "points": "points.yaml", "batch_size": 8, "save_steps": 0},
        {"named.jsonl": [{**row, **({"category": "ab"[at % 2]} if at < 12 else {})} for at, row in enumerate(pairs(16))],
         "capabilities.jsonl": [{**row, "category": "ab"[at % 2], "point": "xy"[at % 2]} for at, row in enumerate(pairs(8))],
         "points.yaml": _text("a: [x]\nb: [y]\n")},
    ),
    "more": Small(
        {**LEARN, "data": "tagged.jsonl", "batch_size": 2, "prompts": "asked.jsonl", "policy": "models/tiny",
         "best_of": 2, "max_new_tokens": 6},
        {"tagged.jsonl": [{**row, "tag": "ab"[at % 2]} for at, row in enumerate(pairs(12))], "asked.jsonl": _prompts(3)},
    ),
    "reward-augmented": Small(
        {**LEARN, "data": "scored.jsonl"},
        {"scored.jsonl": pairs(chosen_score=9, rejected_score=4)},
    ),
    "act": Small(
        {**MODEL, **FIT, "prompts": "limited.jsonl", "samples": 4, "max_new_tokens": 10, "epochs": 1, "eval_samples": 2,
         "unfinished": "as is", "save_steps": 1},
        {"limited.jsonl": _limited(9)},
    ),
    "cyclealign": Small(
        {**MODEL, **FIT, "prompts": "open.jsonl", "rounds": 2, "max_new_tokens": 6, "top_p": 1.0, "learning_rate": 1e-3,
         "reward": ["max_characters:8"], "queue": 2, "min_agreement": 2, "eval_fraction": 0.25,
         "measure": ["max_words:1"], "save_steps": 1, "batch_size": 2},
        {"open.jsonl": _prompts(8)},
    ),
    "selfie": Small(
        {**MODEL, **FIT, "seed_data": "pairs.jsonl", "prompts": "open.jsonl", "rounds": 2, "max_new_tokens": 6,
         "learning_rate": 1e-3, "seed_epochs": 1, "seed_held_out": 0.25, "eval_fraction": 0.25, "margin_window": 2,
         "measure": ["max_words:1"], "save_steps": 1, "batch_size": 2},
        {"pairs.jsonl": pairs(), "open.jsonl": _prompts(8)},
    ),
    "reward-transform": Small(
        {**MODEL, **ONLINE, "reward": ["max_characters:5", "must_include:e@0.5"]},
        {"prompts.jsonl": _prompts(6)},
    ),
    "infalign": Small(
        {**MODEL, **ONLINE, "reward": ["max_characters:5"], "n": 2}, {"prompts.jsonl": _prompts(6)},
    ),
    "self-j": Small(
        {**MODEL, **FIT, "data": "demonstrations.jsonl", "max_new_tokens": 6, "eval_fraction": 0.4, "epochs": 1.0, "save_steps": 1,
         "encoder": "models/encoder", "label_cut": "equal_frequency", "judge_template": "grade.j2", "max_failures": 1.0},
        {"demonstrations.jsonl": demonstrations(), "grade.j2": _text(GRADE)},
    ),
    "cream": Small(
        {**MODEL, **FIT, "prompts": "prompts.jsonl", "seed_data": "demonstrations.jsonl", "samples": 3, "rounds": 2,
         "max_new_tokens": 6, "seed_epochs": 1, "measure": ["max_characters:12"], "eval_fraction": 0.3, "save_steps": 1,
         "consistency": "sample"},
        {"prompts.jsonl": _prompts(7), "demonstrations.jsonl": demonstrations()},
    ),
    "i-sheep": Small(
        {**FIT, "model": "models/writer", "device": "cpu", "data": "seeds.jsonl", "tasks": 4, "requests": 5, "shown": 1,
         "request_batch": 2, "novelty": 0.95, "threshold": 6, "rounds": 2, "max_new_tokens": 48, "grade_tokens": 8, "adapter_rank": 4,
         "epochs": 1, "save_steps": 1, "learning_rate": 1e-4},
        {"seeds.jsonl": SEEDS},
    ),
    "scir": Small(
        {**MODEL, **FIT, "max_length": 700, "prompts": "prompts.jsonl", "judge_data": "pairs.jsonl",
         "seed_data": "demonstrations.jsonl", "samples": 2, "rounds": 1, "max_new_tokens": 6, "measure": ["max_characters:5"],
         "eval_fraction": 0.3, "save_steps": 1, "warmup_batches": 1, "batch_size": 2, "judge_templates": ["short.j2"]},
        {"prompts.jsonl": _prompts(7), "demonstrations.jsonl": demonstrations(), "pairs.jsonl": pairs(),
         "short.j2": _text(TEMPLATE)},
    ),
    "self-specialization": Small(
        {**FIT, "model": "models/asker", "device": "cpu", "data": "seeds.jsonl", "domain": "colours", "tasks": 3,
         "requests": 5, "shown": 1, "request_batch": 2, "novelty": 0.95, "demonstrations": 1, "task_tokens": 48,
         "max_new_tokens": 10, "rules": ["empty"], "eval_data": "colours.jsonl", "shots": [0, 1], "rounds": 2,
         "epochs": 1, "save_steps": 1, "learning_rate": 1e-4, "gradient_accumulation": 1},
        {"seeds.jsonl": SEEDS,
         "colours.jsonl": [{"prompt": f"Name the colour of the {one}.", "completion": "It is blue."} for one in WORDS[6:]]},
    ),
    "dga": Small(
        {**MODEL, **FIT, "data": "fruits.jsonl", "domain_column": "fruit", "target": "wanted.jsonl", "initial": "importance",
         "update_every": 1, "alignment_batch": 3, "max_steps": 3, "eval_fraction": 0.25, "save_steps": 1, "encoder": "models/encoder"},
        {"fruits.jsonl": FRUITS, "wanted.jsonl": FRUITS[:6]},
    ),
    "codeultrafeedback": Small(
        {**MODEL, **FIT, "data": "instructions.jsonl", "generators": ["models/tiny", "models/other"], "responses": 2,
         "reward": ["max_characters:7"], "preferences": "preferences.json", "max_new_tokens": 5, "eval_fraction": 0.25, "epochs": 1,
         "save_steps": 1, "adapter_rank": 4, "sandbox": "none", "benchmark": "benchmark.jsonl", "benchmark_tokens": 5,
         "code_tasks": "tasks.jsonl", "code_tokens": 5},
        {"instructions.jsonl": [{**row, **({"tests": "assert True"} if n == 0 else {})} for n, row in enumerate(_prompts(10))],
         "preferences.json": _text(PREFERENCES),
         "benchmark.jsonl": [{**row, "preference": "brevity", "reference": "Yes."} for row in _prompts(2)],
         "tasks.jsonl": [{"task_id": "one", "prompt": "def one():\n", "entry_point": "one",
                          "test": "def check(f):\n    assert f() == 1", "canonical_solution": "    return 1"}]},
    ),
    "urial": Small(
        {"model": "models/base", "device": "cpu", "prompts": "prompts.jsonl", "style": "style.txt", "max_new_tokens": 8,
         "compare": True},
        {"prompts.jsonl": _prompts(4), "style.txt": _text("Be kind.\n")},
    ),
    "nudging": Small(
        {"model": "models/base", "nudging_model": "models/tiny", "device": "cpu", "prompts": "prompts.jsonl",
         "max_new_tokens": 12, "gamma": 0.005, "base_chunk_tokens": 5, "nudging_chunk_tokens": 5},
        {"prompts.jsonl": _prompts(4)},
    ),
    "deal": Small(
        {**MODEL, "prompts": "prompts.jsonl", "reward": ["max_words:2@2", "no_commas"], "candidates": 4,
         "lookahead": 2, "max_new_tokens": 6, "best_of": 2},
        {"prompts.jsonl": _prompts(4)},
    ),
    "adaptive-mt": Small(
        {**MODEL, "data": ["sentences.jsonl"], "memory": ["memory.tsv"], "retrieval": "edit", "bleu_tokens": "13a",
         "shots": [0, 1]},
        {"sentences.jsonl": SENTENCES,
         "memory.tsv": _text(UNITS)},
    ),
    "alignscore": Small(
        {"model": "models/alignment", "device": "cpu", "data": "claims.jsonl"}, {"claims.jsonl": rows.claims()}
    ),
    "portia": Small(
        {**JUDGE, "data": "judged.jsonl"}, {"judged.jsonl": rows.judged_pairs(), "short.j2": _text(TEMPLATE)}
    ),
    "aligning-llms-survey": Small(
        {**JUDGE, "data": "probed.jsonl", "own": "me", "sheet": 4, "answers": "filled.csv"},
        {"probed.jsonl": [{**row, "model_a": "me", "model_b": "you"} for row in rows.judged_pairs()],
         "short.j2": _text(TEMPLATE), "filled.csv": _text("id,verdict\nq0,left\nq1,\n")},
    ),
    "dpa-rag": Small(
        {**FIT, "model": "models/varied", "device": "cpu", "data": "read.jsonl", "reranker": "models/encoder", "tried": 2, "top_k": 2, "max_new_tokens": 12, "epochs": 1.0,
         "augmenter": "self", "rewrites": ["sparql"], "reranker_epochs": 1.0, "reranker_max_length": 60, "max_length": 400, "save_steps": 1,
         "match": "substring", "test_fraction": 0.25},
        {"read.jsonl": rows.read(4)},
    ),
    "rag-rewardbench": Small(
        {"data": "answered.jsonl", "judges": ["models/tiny"], "device": "cpu", "judge_readout": "logprobs", "judge_template": "short.j2",
         "max_failures": 1.0, "reward": ["likelihood:models/tiny,device=cpu,reference=models/other", "max_words:2"]},
        {"answered.jsonl": rows.answered_pairs(), "short.j2": _text(TEMPLATE), "models/other": MODELS["other"]},
    ),
    "varco-arena": Small(
        {**JUDGE, "data": ["outputs.jsonl"], "resamples": 20},
        {"outputs.jsonl": rows.outputs(), "short.j2": _text(TEMPLATE)},
    ),
    "honesty": Small(
        {**MODEL, **FIT, "data": "questions.jsonl", "samples": 3, "max_new_tokens": 4, "epochs": 1.0,
         "match": "substring", "save_steps": 1},
        {"questions.jsonl": rows.questions()},
    ),
    "muscle": Small(
        {**MODEL, **FIT, "old": "models/other", "data": "choices.jsonl", "train_data": "demonstrations.jsonl",
         "adapter_rank": 4, "epochs": 1},
        {"choices.jsonl": rows.choices(), "demonstrations.jsonl": demonstrations()},
    ),
    **{slug: Small(*one) for part in PARTS for slug, one in part.SMALL.items()},
    "alignment-faking": Small(
        {**MODEL, "data": "goals.jsonl", "system_prompt": "system.txt", "samples": 2, "max_new_tokens": 6, "ablations": ["flag"],
         "least_valid": 0.5},
        {"goals.jsonl": [{"text": f"Name the {one}."} for one in WORDS[:3]],
         "system.txt": _text("".join(f"[{one}]\nSay it.\n" for one in ("role", "objective", "training", "tiers", "scratchpad", "format")))},
    ),
    "vif-rag": Small(
        {"model": "models/writer", "device": "cpu", "data": "rules.jsonl", "query_data": "prompts.jsonl", "rag_data": "rag.jsonl", "requests": 0, "sizes": [2],
         "composites": 2, "composition_score": 0, "samples": 2, "ratings": 0, "queries_per_rule": 3, "query_characters": [1, 300],
         "max_new_tokens": 48, "request_batch": 2},
        {"rules.jsonl": [{"rule": "No commas", "constraints": [{"verifier": "no_commas"}]},
                         {"rule": "Be short", "verifiers": [["def evaluate(response):\n    return len(response) < 900", 1.0]]}],
         "prompts.jsonl": _prompts(7),
         "rag.jsonl": [{"question": f"What of the {one}?", "passages": [f"The {one} is here."]} for one in WORDS[:4]]},
    ),
}  # fmt: skip
"""System to its tiny run; a test asserts that no available system is missing."""

VARIANTS: dict[str, tuple[str, Small]] = {
    **{
        name: (slug, Small(*one))
        for part in PARTS
        for name, (slug, one) in part.VARIANTS.items()
    },
    "dga over clusters": (
        "dga",
        Small(
            {**MODEL, **FIT, "data": "fruits.jsonl", "clusters": 3, "target": "wanted.jsonl", "update_every": 2, "max_steps": 4,
             "reference_tasks": ["wanted.jsonl", "others.jsonl"], "alignment": "cosine", "floor": 0.1, "gradient_accumulation": 2,
             "batch_size": 2, "save_steps": 1, "encoder": "models/encoder", "max_length": 8},
            {"fruits.jsonl": FRUITS, "wanted.jsonl": FRUITS[:6], "others.jsonl": FRUITS[6:12]},
        ),
    ),
    "cut over rounds": (
        "cut",
        Small(
            {**MODEL, **FIT, "prompts": "strict.jsonl", "rounds": 2, "max_new_tokens": 6, "eval_fraction": 0.0,
             "learning_rate": 1e-3, "save_steps": 1},
            {"strict.jsonl": _strict(6)},
        ),
    ),
    "ln-dpo as a study": (
        "ln-dpo",
        Small(
            {**LEARN, "data": "pairs.jsonl", "study": True, "objectives": ["ln_dpo", "simpo"], "answers": 3,
             "grid": ["beta=1", "simpo.gamma=0.5"], "seeds": 1, "keep": "all", "answer_tokens": 4, "max_steps": 2},
            {"pairs.jsonl": pairs()},
        ),
    ),
    "alignscore that learns": (
        "alignscore",
        Small(
            {"train": ["snli=snli.jsonl"], "encoder": "models/encoder", "device": "cpu", "data": "claims.jsonl",
             "epochs": 1, "batch_size": 4, "max_length": 40, "held_out": 0.2, "save_steps": 1},
            {"claims.jsonl": rows.claims(),
             "snli.jsonl": [{"premise": f"it rains {i}", "hypothesis": "it snows", "label": i % 3} for i in range(12)]},
        ),
    ),
    "vif-rag on a benchmark": (
        "vif-rag",
        Small(
            {**MODEL, "eval_data": "rules-bench.jsonl", "max_new_tokens": 6},
            {"rules-bench.jsonl": [
                {"prompt": f"Name the {one}.", "instruction_id_list": ["format_no_commas"], "kwargs": [{}], "answer_gold": one}
                for one in WORDS[:5]]},
        ),
    ),
    "rag-rewardbench that builds": (
        "rag-rewardbench",
        Small(
            {"mode": "build", "data": "grounded.jsonl", "generators": ["models/scoring"], "judges": ["models/scoring"],
             "device": "cpu", "judge_readout": "logprobs", "judge_template": "short.j2", "max_failures": 1.0, "max_spread": 9.0,
             "min_mean_gap": 0.0, "scenarios": ["helpful", "citation", "conflict"], "max_new_tokens": 6, "samples": 2},
            {"grounded.jsonl": rows.grounded(), "short.j2": _text(TEMPLATE)},
        ),
    ),
}  # fmt: skip
"""Other ways to run a system, killed and resumed like the rows of `SMALL`: name to the system and its tiny run."""
