"""`coalign run aft` on questions: fine-tune, sample solutions, mark them, align; and its continuation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import ConfigError, DataError
from coalign.models.types import Generation
from coalign.preference import aft
from coalign.preference.data import own_solutions
from tests.preference.tiny_runs import assert_complete, notes, pairs, run_system, weights, write


class Solver:
    """Answers every question with sums in turn right and wrong, in place of a model."""

    def __init__(self, *, always: str | None = None) -> None:
        self.always = always
        self.calls: list[int] = []

    def generate(self, prompts: Any, sampling: Any, *, done: Any = (), on_batch: Any, label: str) -> Any:
        self.calls.append(len(prompts) - len(done))
        for index, prompt in enumerate(prompts):
            if index not in done:
                number = re.findall(r"\d+", prompt[-1]["content"])[0]
                texts = [self.always or f"Is it {number if k % 2 else 99}?" for k in range(sampling.n)]
                on_batch({index: [Generation(text, finish_reason="stop") for text in texts]})


RANKINGS = [
    {"prompt": row["prompt"], "responses": [row["chosen"], "Hm."], "scores": [1, 0]} for row in pairs()
]


def questions(n: int = 8) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {i} + 0?", "completion": f"It is {i}.\n#### {i}"} for i in range(n)]


def test_aft_samples_and_marks_solutions(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = Solver()
    monkeypatch.setattr(own_solutions, "open_generator", lambda options: solver)
    data = str(write(tmp_path / "questions.jsonl", questions()))
    options = {"data": data, "model": model, "samples": 3, "eval_fraction": 0.25, "max_steps": 2}
    run = run_system("aft", aft, tmp_path / "run", **options)
    report = assert_complete(run)
    assert solver.calls == [6, 2, 2, 2], "training, held out, answers before and after"
    assert (
        "6 of 18 sampled solutions to 6 questions are right; 6 questions have right and wrong ones"
        in notes(run)
    )
    assert "Right final answers" in json.dumps(report)
    assert {event["stage"] for event in run.events("plan")} == {"vft", "train"}
    before = weights(run)
    (run.artefacts / "round-1" / "answers-after.jsonl").unlink()
    again = run_system("aft", aft, tmp_path / "run", **options)
    assert_complete(again)
    assert solver.calls[4:] == [2], "only what is missing is done again"
    assert all(
        torch.equal(one, two) for one, two in zip(before.values(), weights(again).values(), strict=True)
    )


def test_aft_from_a_fine_tuned_model(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_solutions, "open_generator", lambda options: Solver())
    data = str(write(tmp_path / "q.jsonl", [{**row, "result": row["completion"][-1]} for row in questions()]))
    options = {"data": data, "model": model, "vft_epochs": 0, "answer_column": "result", "eval_fraction": 0}
    run = run_system("aft", aft, tmp_path / "run", max_steps=1, **options)
    assert_complete(run)
    assert {event["stage"] for event in run.events("plan")} == {"train"}


def test_aft_without_a_contrast_says_what_was_sampled(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_solutions, "open_generator", lambda options: Solver(always="No idea."))
    data = str(write(tmp_path / "q.jsonl", questions()))
    with pytest.raises(DataError, match=r"(?s)0 of 48 sampled .* give no final answer .*--samples"):
        run_system("aft", aft, tmp_path / "run", data=data, model=model, vft_epochs=0, eval_fraction=0)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (RANKINGS, {"samples": 3}, "samples has no effect on such data: the responses are given"),
        (RANKINGS, {"temperature": 0.5}, "temperature has no effect"),
        (questions(), {"reference_column": "x"}, "reference_column has no effect"),
    ],
)
def test_aft_refuses_what_the_data_does_not_need(
    rows: list[dict[str, Any]], options: dict[str, Any], message: str, model: str, tmp_path: Path
) -> None:
    data = str(write(tmp_path / "data.jsonl", rows))
    with pytest.raises(ConfigError, match=message):
        run_system("aft", aft, tmp_path / "run", data=data, model=model, **options)
