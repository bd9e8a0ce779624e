"""`run` of the systems that prepare their own records: whole runs on a tiny model, and their continuation after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file as load_tensors

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.records import Ranking
from coalign.loops import rows as rows_of_loops
from coalign.models.generation import generator as generation
from coalign.preference import aft, asft, bco, cut, d2o, poft, pro, reward_augmented
from coalign.preference.data import aligned_scores, prompt_matching, solutions
from coalign.preference.data.parts import segments
from tests.data.tokenizers import GEMMA
from tests.preference.tiny_runs import (
    assert_complete,
    feedback,
    notes,
    pairs,
    run_system,
    save_tiny_model,
    write,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def pair_file(tmp_path: Path) -> str:
    return str(write(tmp_path / "pairs.jsonl", pairs()))


def rankings(n: int = 8, **columns: Any) -> list[dict[str, Any]]:
    return [
        {
            "prompt": row["prompt"],
            "responses": [row["rejected"], row["chosen"], "Hm."],
            "scores": [0, 1, 0],
            **columns,
        }
        for row in pairs(n)
    ]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_tensors(next(run.model.glob("*.safetensors")))


def assert_same_weights(one: Run, other: Run) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class KilledError(Exception):
    """Stands for a kill: nothing catches it."""


def test_asft(model: str, pair_file: str, tmp_path: Path) -> None:
    assert_complete(
        run_system("asft", asft, tmp_path / "run", data=pair_file, model=model, eval_fraction=0.25)
    )


@pytest.mark.parametrize(("name", "system"), [("pro", pro), ("aft", aft)])
def test_rankings_pairs_and_feedback(name: str, system: Any, model: str, tmp_path: Path) -> None:
    group = [
        {"prompt": row["prompt"], "completion": text, "label": score == 1}
        for row in rankings(4)
        for text, score in zip(row["responses"], row["scores"], strict=True)
    ]
    sources = {"rankings": rankings(), "pairs": pairs(), "feedback": group}
    for kind, rows in sources.items():
        data = str(write(tmp_path / f"{kind}.jsonl", rows))
        run = run_system(name, system, tmp_path / kind, data=data, model=model, max_steps=1)
        assert_complete(run)
        assert ("were read as" in notes(run)) == (kind != "rankings")
    assert "12 feedback records were read as 4 ranking records" in notes(run)


def test_pro_tells_the_range_of_the_scores(model: str, tmp_path: Path) -> None:
    data = str(write(tmp_path / "r.jsonl", rankings()))
    assert "between 0 and 1" in notes(
        run_system("pro", pro, tmp_path / "run", data=data, model=model, max_steps=1)
    )


def test_aft_imitates_the_reference_solution(model: str, tmp_path: Path) -> None:
    data = str(write(tmp_path / "r.jsonl", rankings(solution="The answer.")))
    options = {"data": data, "model": model, "reference_column": "solution", "max_steps": 1}
    assert_complete(run_system("aft", aft, tmp_path / "run", **options))
    prompt: Any = [{"role": "user", "content": "?"}]
    record = Ranking(prompt=prompt, responses=("a", "b"), scores=(1.0, 0.0), extra={"solution": "c"})
    found = solutions.with_reference([record], "solution")[0]
    assert isinstance(found, Ranking)
    assert found.responses == ("a", "b", "c")
    assert found.scores[2] != found.scores[2]
    with pytest.raises(DataError, match="1 of 1 records have no reference solution"):
        solutions.with_reference([record], "answer")


def test_bco_on_feedback_and_on_pairs(model: str, pair_file: str, tmp_path: Path) -> None:
    data = str(write(tmp_path / "feedback.jsonl", feedback()))
    run = run_system("bco", bco, tmp_path / "run", data=data, model=model, eval_fraction=0.25, batch_size=1)
    assert_complete(run)
    assert "thumbs-down to train on" in notes(run)
    run = run_system("bco", bco, tmp_path / "pairs", data=pair_file, model=model, max_steps=1)
    assert "8 preference records were read as 16 feedback records" in notes(run)


def test_bco_matches_the_prompts(
    model: str, pair_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Encoder:
        def encode(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    monkeypatch.setattr(prompt_matching, "load_encoder", lambda name, device: Encoder())
    options = {"data": pair_file, "model": model, "match_prompts": True, "eval_fraction": 0.25}
    run = run_system("bco", bco, tmp_path / "run", **options)
    assert_complete(run)
    assert "Thumbs-down records weigh between 1.00 and 1.00" in notes(run), (
        "each prompt has both labels, so there is nothing to match"
    )


@pytest.mark.parametrize(
    ("system", "options", "message"),
    [
        (bco, {"encoder": "x"}, "encoder has no effect without match_prompts"),
        (bco, {"max_density_ratio": 3.0}, "max_density_ratio has no effect"),
        (bco, {"match_prompts": True, "min_density_ratio": 20.0}, "is above max_density_ratio"),
        (aft, {"temperature": 0}, "same solution every time"),
        (poft, {}, "scorers: is required"),
        (poft, {"scorers": ["a", "a"]}, "each once"),
        (poft, {"scorers": []}, "one aligned model or more"),
        (d2o, {"resample_warmup": 3}, "resample_warmup has no effect"),
        (d2o, {"temperature": 0}, "same self-sample every time"),
        (reward_augmented, {"lowest": 5, "highest": 5}, "is empty"),
        (reward_augmented, {"share": 2}, "at most 1"),
        (reward_augmented, {"label_smoothing": 0.5}, "below 0.5"),
        (cut, {"threshold": 0.5}, "of at least 1"),
        (pro, {"tuning": "full", "adapter_rank": 3}, "adapter_rank has no effect"),
    ],
)
def test_options_that_do_not_fit_are_refused(system: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(system.Config, {"data": "x", **options})
    assert message in str(caught.value)


def test_poft_scores_once_and_goes_on_after_a_kill(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = str(save_tiny_model(tmp_path / "scorer", seed=5))
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs()]
    options = {
        "data": str(write(tmp_path / "demos.jsonl", rows)),
        "model": model,
        "scorers": [scorer],
        "eval_fraction": 0.25,
    }
    whole = run_system("poft", poft, tmp_path / "whole", **options)
    assert_complete(whole)
    assert "nats per token" in notes(whole)

    monkeypatch.setattr(aligned_scores, "CHUNK", 2)
    calls: list[int] = []
    original = aligned_scores.mean_content_logps

    def counted(records: Any, *rest: Any, **more: Any) -> list[float]:
        if len(calls) == 2:
            raise KilledError
        calls.append(len(records))
        return original(records, *rest, **more)

    monkeypatch.setattr(aligned_scores, "mean_content_logps", counted)
    with pytest.raises(KilledError):
        run_system("poft", poft, tmp_path / "run", **options)
    assert calls == [2, 2]
    monkeypatch.setattr(aligned_scores, "mean_content_logps", original)
    run = run_system("poft", poft, tmp_path / "run", **options)
    assert_complete(run)
    scores = [read_rows(next((one.artefacts / "scores").glob("*.jsonl"))) for one in (run, whole)]
    assert len(scores[0]) == 8
    for one, other in zip(*scores, strict=True):
        assert one["key"] == other["key"]
        assert one["logp"] == pytest.approx(other["logp"], abs=1e-5)


def test_poft_names_a_scorer_that_is_not_there_before_anything_loads(model: str, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs()]
    data = str(write(tmp_path / "demos.jsonl", rows))
    with pytest.raises(Exception, match="does not exist"):
        run_system("poft", poft, tmp_path / "run", data=data, model=model, scorers=["/no/such/model"])


D2O: dict[str, Any] = {"samples": 2, "max_new_tokens": 6, "eval_fraction": 0.25}


def test_d2o_samples_and_goes_on_after_a_kill(
    model: str, pair_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**D2O, "data": pair_file, "model": model}
    whole = run_system("d2o", d2o, tmp_path / "whole", **options)
    assert_complete(whole)
    assert "8 human negatives, 2 of them held out" in notes(whole)
    assert "12 self-samples to 6 of 6 negatives" in notes(whole)

    monkeypatch.setattr(generation, "CPU_ROWS", 4)
    append = rows_of_loops.append_rows

    def killed(path: Path, rows: Any) -> None:
        append(path, rows)
        if path.name == "samples.jsonl":
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(rows_of_loops, "append_rows", killed)
        with pytest.raises(KilledError):
            run_system("d2o", d2o, tmp_path / "run", **options)
    kept = read_rows(tmp_path / "run" / "artefacts" / "round-1" / "samples.jsonl")
    assert 0 < len(kept) < 6
    run = run_system("d2o", d2o, tmp_path / "run", **options)
    assert_complete(run)
    rows = read_rows(run.artefacts / "round-1" / "samples.jsonl")
    assert rows == read_rows(whole.artefacts / "round-1" / "samples.jsonl")
    assert_same_weights(run, whole)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_d2o_draws_again_and_keeps_the_start_as_reference(
    tuning: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(write(tmp_path / "bad.jsonl", [{**row, "label": False} for row in feedback()]))
    options = {**D2O, "data": data, "model": model, "tuning": tuning, "resample_every": 2, "epochs": 2.0}
    options["warmup_ratio"] = 0.0
    run = run_system("d2o", d2o, tmp_path / "run", **options)
    report = assert_complete(run)
    samples = [read_rows(run.artefacts / f"round-{n}" / "samples.jsonl") for n in (1, 2)]
    assert samples[0] != samples[1], "another seed, another policy"
    steps = [event["step"] for event in run.events("train") if "loss" in event]
    assert steps == [1, 2, 1, 2]
    assert "Part 2: " in json.dumps(report)
    assert len(run.events("plan")) == 2
    first = {event["stage"]: event for event in reversed(run.events("train")) if "rewards/margins" in event}
    assert first["train-1"]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert abs(first["train-2"]["rewards/margins"]) > 1e-6, "the start model is still the reference"


def test_d2o_parts() -> None:
    config = build(d2o.Config, {"data": "x", "batch_size": 2})
    assert segments(config, 20, every=3, warmup=4) == [4, 3, 3]
    assert segments(config, 20, every=None) == [None]
    assert segments(build(d2o.Config, {"data": "x", "max_steps": 5}), 20, every=5) == [5]


def test_d2o_leaves_out_prompts_without_room_before_it_samples(model: str, tmp_path: Path) -> None:
    """A bug: a prompt beyond the context stopped sampling, and the message named no line of the file."""
    rows = [*pairs(6), {**pairs(7)[6], "prompt": "long " * 200}]
    data = str(write(tmp_path / "pairs.jsonl", rows))
    options = {"data": data, "model": model, "samples": 2, "max_new_tokens": 4, "max_steps": 1}
    run = run_system("d2o", d2o, tmp_path / "run", **options)
    assert "6 human negatives" in notes(run)
    assert "1 negatives are left out: their prompts leave no room" in notes(run)
    assert "pairs.jsonl:7: prompt:" in notes(run)
    data = str(write(tmp_path / "long.jsonl", rows[6:]))
    with pytest.raises(DataError, match="prompts of all 1 negatives leave no room") as caught:
        run_system("d2o", d2o, tmp_path / "none", **{**options, "data": data, "eval_fraction": 0})
    assert "long.jsonl:1: prompt:" in str(caught.value)


def test_d2o_without_negatives(model: str, tmp_path: Path) -> None:
    data = str(write(tmp_path / "good.jsonl", [{**row, "label": True} for row in feedback()]))
    with pytest.raises(DataError, match="no negative"):
        run_system("d2o", d2o, tmp_path / "run", data=data, model=model)


def judgments(n: int = 8, fine: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "prompt": row["prompt"],
            "response": row["rejected"],
            "judgment": "None" if i < fine else "Too short.",
        }
        for i, row in enumerate(pairs(n))
    ]


def test_cut_without_any_judgment_says_that_null_is_missing(model: str, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "completion": row["rejected"], "judgment": None} for row in pairs()]
    with pytest.raises(DataError, match="null in every record counts as missing"):
        run_system("cut", cut, tmp_path / "run", data=str(write(tmp_path / "j.jsonl", rows)), model=model)


def test_cut_keeps_some_of_the_fine_answers(model: str, tmp_path: Path) -> None:
    data = str(write(tmp_path / "j.jsonl", judgments()))
    run = run_system("cut", cut, tmp_path / "run", data=data, model=model, eval_fraction=0.0)
    assert_complete(run)
    assert "4 criticised answers and 1 of 4 fine ones are trained on" in notes(run)
    assert "can diverge" not in notes(run)


def test_cut_warns_without_fine_answers_and_refuses_praise(model: str, tmp_path: Path) -> None:
    data = str(write(tmp_path / "j.jsonl", judgments(fine=0)))
    run = run_system("cut", cut, tmp_path / "run", data=data, model=model, max_steps=1)
    assert "can diverge" in notes(run)
    data = str(write(tmp_path / "fine.jsonl", judgments(fine=8)))
    with pytest.raises(DataError, match="nothing to unlearn"):
        run_system("cut", cut, tmp_path / "fine", data=data, model="/nowhere")
    rows = [{**row, "label": False} for row in judgments()]
    data = str(write(tmp_path / "mute.jsonl", rows))
    with pytest.raises(DataError, match="negative verdict without words"):
        run_system("cut", cut, tmp_path / "mute", data=data, model="/nowhere")


def test_reward_augmented_tells_how_to_ask(model: str, tmp_path: Path) -> None:
    rows = pairs(chosen_score=9, rejected_score=4.5)
    rows[0] |= {"rejected_score": 9}
    data = str(write(tmp_path / "scored.jsonl", rows))
    run = run_system(
        "reward-augmented", reward_augmented, tmp_path / "run", data=data, model=model, eval_fraction=0.25
    )
    report = assert_complete(run)
    goal = json.loads((run.artefacts / "goal.json").read_text())
    assert goal["placement"] == "system"
    assert goal["goal"] == 10
    assert "Overall score: 10" in json.dumps(report)
    assert "Overall score: 10" in (run.model / "README.md").read_text()
    assert "1 left out: equal scores" in notes(run)
    assert "score-conditioned pairs from 2 held-out records" in notes(run)
    assert run.status()["headline"]


def test_reward_augmented_without_a_system_role_and_from_rankings(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "gemma", template=GEMMA))
    data = str(write(tmp_path / "r.jsonl", [{**row, "scores": [2, 8, 5]} for row in rankings()]))
    run = run_system(
        "reward-augmented", reward_augmented, tmp_path / "run", data=data, model=model, max_steps=1
    )
    report = assert_complete(run)
    assert "before the user's first message" in json.dumps(report)
    assert "14 score-conditioned pairs from 7 training records" in notes(run)


def test_reward_augmented_needs_scores(model: str, pair_file: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="have no scores to aim at"):
        run_system("reward-augmented", reward_augmented, tmp_path / "run", data=pair_file, model=model)
