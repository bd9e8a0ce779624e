"""`run` of the systems that prepare their own records: what they make of data, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import CoalignError, DataError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.records import Ranking
from coalign.preference import d2o
from coalign.preference.data import prompt_matching, solutions
from coalign.preference.data.parts import segments
from tests.data.tokenizers import GEMMA
from tests.preference.tiny_runs import (
    Rows,
    assert_complete,
    demonstrations,
    feedback,
    judgments,
    notes,
    pairs,
    rankings,
    save_tiny_model,
)

D2O: dict[str, Any] = {"samples": 2, "max_new_tokens": 6, "eval_fraction": 0.25}
SHORT = {"max_steps": 1}


@pytest.mark.parametrize("slug", ["pro", "aft"])
def test_rankings_pairs_and_feedback(slug: str, start: Callable[..., Run]) -> None:
    group = [
        {"prompt": row["prompt"], "completion": text, "label": score == 1}
        for row in rankings(4)
        for text, score in zip(row["responses"], row["scores"], strict=True)
    ]
    for kind, rows in {"rankings": rankings(), "pairs": pairs(), "feedback": group}.items():
        run = start(slug, rows, folder=kind, **SHORT)
        assert_complete(run)
        assert ("were read as" in notes(run)) == (kind != "rankings")
    assert "12 feedback records were read as 4 ranking records" in notes(run)


@pytest.mark.parametrize(
    ("slug", "rows", "options", "told"),
    [
        ("pro", rankings(), SHORT, ["between 0 and 1"]),
        ("bco", feedback(), {"eval_fraction": 0.25, "batch_size": 1}, ["thumbs-down to train on"]),
        ("bco", pairs(), SHORT, ["8 preference records were read as 16 feedback records"]),
        ("d2o", pairs(), D2O, ["8 human negatives, 2 of them held out", "12 self-samples to 6 of 6 negatives"]),
        ("cut", judgments(), {"eval_fraction": 0.0}, ["4 criticised answers and 1 of 4 fine ones are trained on"]),
        ("cut", judgments(fine=0), SHORT, ["can diverge"]),
    ],
)  # fmt: skip
def test_what_became_of_the_data_is_told(
    slug: str, rows: Rows, options: dict[str, Any], told: list[str], start: Callable[..., Run]
) -> None:
    run = start(slug, rows, **options)
    assert_complete(run)
    assert all(one in notes(run) for one in told)
    assert ("can diverge" in notes(run)) == ("can diverge" in told)


@pytest.mark.parametrize(
    ("slug", "rows", "options", "message"),
    [
        ("poft", demonstrations(), {"scorers": ["/no/such/model"]}, "does not exist"),
        ("d2o", [{**row, "label": True} for row in feedback()], {}, "no negative"),
        ("cut", [{**row, "judgment": None} for row in judgments()], {}, "null in every record counts as missing"),
        ("cut", judgments(fine=8), {"model": "/nowhere"}, "nothing to unlearn"),
        ("cut", [{**row, "label": False} for row in judgments()], {"model": "/nowhere"}, "verdict without words"),
        ("reward-augmented", pairs(), {}, "have no scores to aim at"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_is_refused(
    slug: str, rows: Rows, options: dict[str, Any], message: str, start: Callable[..., Run]
) -> None:
    with pytest.raises(CoalignError, match=message):
        start(slug, rows, **options)


def test_aft_imitates_the_reference_solution(start: Callable[..., Run]) -> None:
    rows = rankings(solution="The answer.")
    assert_complete(start("aft", rows, reference_column="solution", **SHORT))
    prompt: Any = [{"role": "user", "content": "?"}]
    record = Ranking(prompt=prompt, responses=("a", "b"), scores=(1.0, 0.0), extra={"solution": "c"})
    found = solutions.with_reference([record], "solution")[0]
    assert isinstance(found, Ranking)
    assert found.responses == ("a", "b", "c")
    assert found.scores[2] != found.scores[2]
    with pytest.raises(DataError, match="1 of 1 records have no reference solution"):
        solutions.with_reference([record], "answer")


def test_bco_matches_the_prompts(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        def encode(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    monkeypatch.setattr(prompt_matching, "load_encoder", lambda name, device: Encoder())
    run = start("bco", pairs(), match_prompts=True, eval_fraction=0.25)
    assert_complete(run)
    assert "Thumbs-down records weigh between 1.00 and 1.00" in notes(run), (
        "each prompt has both labels, so there is nothing to match"
    )


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_d2o_draws_again_and_keeps_the_start_as_reference(tuning: str, start: Callable[..., Run]) -> None:
    rows = [{**row, "label": False} for row in feedback()]
    options = {**D2O, "tuning": tuning, "resample_every": 2, "epochs": 2.0, "warmup_ratio": 0.0}
    run = start("d2o", rows, **options)
    report = assert_complete(run)
    samples = [read_rows(run.artefacts / f"round-{n}" / "samples.jsonl") for n in (1, 2)]
    assert samples[0] != samples[1], "another seed, another policy"
    assert [event["step"] for event in run.events("train") if "loss" in event] == [1, 2, 1, 2]
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


def test_d2o_leaves_out_prompts_without_room_before_it_samples(start: Callable[..., Run]) -> None:
    """A bug: a prompt beyond the context stopped sampling, and the message named no line of the file."""
    rows = [*pairs(6), {**pairs(7)[6], "prompt": "long " * 200}]
    options = {"samples": 2, "max_new_tokens": 4, "max_steps": 1}
    told = notes(start("d2o", rows, **options))
    assert "6 human negatives" in told
    assert "1 negatives are left out: their prompts leave no room" in told
    assert "run.jsonl:7: prompt:" in told
    with pytest.raises(DataError, match="prompts of all 1 negatives leave no room") as caught:
        start("d2o", rows[6:], folder="none", eval_fraction=0, **options)
    assert "none.jsonl:1: prompt:" in str(caught.value)


def test_reward_augmented_tells_how_to_ask(start: Callable[..., Run]) -> None:
    rows = pairs(chosen_score=9, rejected_score=4.5)
    rows[0] |= {"rejected_score": 9}
    run = start("reward-augmented", rows, eval_fraction=0.25)
    report = assert_complete(run)
    goal = json.loads((run.artefacts / "goal.json").read_text())
    assert (goal["placement"], goal["goal"]) == ("system", 10)
    assert "Overall score: 10" in json.dumps(report)
    assert "Overall score: 10" in (run.model / "README.md").read_text()
    assert "1 left out: equal scores" in notes(run)
    assert "score-conditioned pairs from 2 held-out records" in notes(run)


def test_reward_augmented_without_a_system_role_and_from_rankings(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    model = str(save_tiny_model(tmp_path / "gemma", template=GEMMA))
    rows = [{**row, "scores": [2, 8, 5]} for row in rankings()]
    run = start("reward-augmented", rows, model=model, **SHORT)
    assert "before the user's first message" in json.dumps(assert_complete(run))
    assert "14 score-conditioned pairs from 7 training records" in notes(run)
