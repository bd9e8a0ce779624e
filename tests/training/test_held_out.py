"""Held-out losses before and after a training: the change of their mean has an interval, and few records tell nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coalign.core.runs import Run
from coalign.report.html import read_report
from coalign.training.job import FitResult
from coalign.training.learning import learner
from coalign.training.watch.held_out import RecordLosses, loss_change, read_losses, write_losses
from tests.preference.tiny_runs import run_system, write


def test_the_change_is_that_of_the_mean_over_tokens() -> None:
    before, after = [(6.0, 3), (1.0, 1), (0.0, 0)], [(3.0, 3), (1.5, 1), (0.0, 0)]
    change = loss_change(FitResult(1, [], 0.0, before_losses=before, after_losses=after))
    assert change is not None
    assert change.mean == pytest.approx(4.5 / 4 - 7 / 4)
    assert change.n == 2
    assert loss_change(FitResult(1, [], 0.0, before_losses=before)) is None
    assert loss_change(FitResult(1, [], 0.0)) is None
    assert (
        loss_change(FitResult(1, [], 0.0, before_losses=before, after_losses=[(np.nan, 3), (1, 1), (0, 0)]))
        is None
    )


def test_losses_are_those_of_the_step_they_were_measured_after(tmp_path: Path) -> None:
    path = tmp_path / "losses.json"
    assert read_losses(path, 3) == []
    write_losses(path, 3, [(0.1, 1), (2.5, 7)])
    assert read_losses(path, 3) == [(0.1, 1), (2.5, 7)]
    assert read_losses(path, 4) == []


def test_records_of_several_processes_are_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [RecordLosses(process, 2) for process in (0, 1)]
    parts[0].add(torch.tensor([[0.0, 1], [2.0, 1], [4.0, 1]]))
    parts[1].add(torch.tensor([[1.0, 1], [3.0, 1]]))
    sent: list[Any] = []
    monkeypatch.setattr("accelerate.utils.gather_object", lambda rows: sent.extend(rows) or sent)
    parts[1].gathered()
    assert parts[0].gathered() == [(float(number), 1) for number in range(5)]
    sent.clear()
    parts[1].add(None)
    parts[1].gathered()
    assert parts[0].gathered() is None


@pytest.mark.parametrize("name", ["sft", "kto", "simpo"])
def test_a_verdict_follows_from_the_interval_of_the_loss(name: str, tiny_model: str, tmp_path: Path) -> None:
    run = trained(name, tiny_model, tmp_path, records=60, eval_fraction=0.5)
    verdict = read_report(run.report).verdict
    result = FitResult(**json.loads((run.artefacts / "train.json").read_text()))
    change = loss_change(result)
    assert change is not None
    assert change.n == len(result.before_losses) >= 20
    last = next(row for row in reversed(result.history) if "eval_loss" in row)
    assert change.mean == pytest.approx(last["eval_loss"] - result.before["loss"], abs=1e-6)
    assert "95 % interval" in verdict.text
    assert verdict.outcome == ("improved" if change.high < 0 else "worse" if change.low > 0 else "neutral")
    (row,) = [
        one
        for part in read_report(run.report).sections
        for one in getattr(part, "rows", [])
        if getattr(one, "name", "") == "Loss"
    ]
    assert row.difference.interval == (change.low, change.high)


def test_of_few_records_nothing_is_told(tiny_model: str, tmp_path: Path) -> None:
    run = trained("sft", tiny_model, tmp_path, records=12, eval_fraction=0.5)
    verdict = read_report(run.report).verdict
    assert verdict.outcome == "neutral"
    assert "Too few to tell" in verdict.text


def trained(name: str, model: str, folder: Path, *, records: int, **options: Any) -> Run:
    """A short training at a rate at which the tiny model moves."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"Count to {number}.", "completion": " ".join(map(str, range(number % 9 + 1)))}
        for number in range(records)
    ]
    if name == "kto":
        rows = [{**one, "label": place % 2 == 0} for place, one in enumerate(rows)]
    if name == "simpo":
        rows = [{"prompt": one["prompt"], "chosen": one["completion"], "rejected": "No."} for one in rows]
    data = write(folder / "rows.jsonl", rows)
    given = {"save_steps": 0, "max_steps": 4, "learning_rate": 3e-3, "show_answers": 0, **options}
    return run_system(name, learner(name), folder / "run", model=model, data=str(data), **given)
