"""Every sign on a made-up history that shows it, and none on a healthy one."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coalign.checks.steps import example
from coalign.core.runs import Run
from coalign.models.options import ModelOptions
from coalign.report.page import warning_section
from coalign.training.examples import Prepared
from coalign.training.trainer import _all_equal
from coalign.training.watch import monitor as watching


def history(count: int = 200, seed: int = 0, **columns: Any) -> list[dict[str, float]]:
    """A healthy preference training; `columns` are functions of the step that replace a column."""
    draw = random.Random(seed)
    rows = []
    for step in range(1, count + 1):
        done = step / count
        row = {
            "step": float(step),
            "loss": 0.69 - 0.3 * done + 0.05 * draw.random(),
            "grad_norm": 1 + draw.random(),
            "learning_rate": 1e-4,
            "rewards/margins": 2 * done + 0.3 * draw.random(),
            "rewards/accuracies": min(1.0, 0.5 + 0.4 * done + 0.1 * draw.random()),
            "logps/chosen": -120 - 15 * done + 20 * draw.random(),
            "values/all_equal": 0.1,
        }
        rows.append(row | {name: float(value(step)) for name, value in columns.items()})
    return rows


def keys(found: list[watching.Sign]) -> list[str]:
    return [one.key for one in found]


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_training_shows_no_sign_at_any_moment(seed: int) -> None:
    rows = history(seed=seed)
    for length in range(0, 201, 10):
        assert watching.signs(rows[:length]) == []


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        ("chosen_falls", {"logps/chosen": lambda step: -100 - step}),
        ("margin_explodes", {"rewards/margins": lambda step: step / 4}),
        ("accuracy_stuck", {"rewards/accuracies": lambda step: 0.5 + 0.2 * (-1) ** step}),
        ("nothing_to_learn", {"values/all_equal": lambda step: 0.9}),
        ("gradient_spikes", {"grad_norm": lambda step: 100 if step in (60, 120, 180) else 1}),
        ("gradient_spikes", {"grad_norm": lambda step: math.inf if step == 3 else 1}),
        ("loss_constant", {"loss": lambda step: 0.6931}),
    ],
)
def test_each_sign_is_seen_and_only_it(key: str, columns: dict[str, Any]) -> None:
    found = watching.signs(history(**columns))
    assert keys(found) == [key]
    assert found[0].text
    assert found[0].advice


def test_what_looks_alike_is_no_sign() -> None:
    fell_with_the_margin = history(
        **{"logps/chosen": lambda step: -100 - step, "rewards/margins": lambda step: 1 - step / 200}
    )
    assert "chosen_falls" not in keys(watching.signs(fell_with_the_margin))
    warming_up = history(loss=lambda step: 0.6931, learning_rate=lambda step: 0.0)
    assert watching.signs(warming_up) == []
    one_spike = history(grad_norm=lambda step: 1000 if step == 50 else 1)
    assert watching.signs(one_spike) == []
    early = history(40, **{"rewards/accuracies": lambda step: 0.5})
    assert watching.signs(early) == []
    missing = history(**{"rewards/accuracies": lambda step: math.nan})
    assert watching.signs(missing) == []


def test_evaluations_are_not_read() -> None:
    rows = history()
    rows.insert(100, {"step": 100.0, "eval_loss": math.nan, "eval_rewards/margins": 1e9})
    assert watching.signs(rows) == []


@pytest.mark.parametrize(
    ("rate", "adapter", "high"),
    [(1e-3, True, False), (2e-3, True, True), (5e-5, False, False), (1e-4, False, True), (1e-4, True, False)],
)
def test_learning_rate(rate: float, adapter: bool, high: bool) -> None:
    assert (watching.learning_rate_high(rate, adapter=adapter) is not None) == high


def test_lengths() -> None:
    assert watching.length_grows([40]) is None
    assert watching.length_grows([40, 55]) is None
    sign = watching.length_grows([40, 50, 90])
    assert sign is not None
    assert "from 40 to 90 tokens over 3 rounds" in sign.text
    assert watching.much_cut(1, 10) is None
    assert watching.much_cut(2, 10) is not None


def test_better_responses_that_are_much_longer_are_told() -> None:
    assert watching.length_biased((150, 100)) is None
    assert watching.length_biased((100, 400)) is None
    assert watching.length_biased(None) is None
    sign = watching.length_biased((151, 100))
    assert sign is not None
    assert "151 tokens on average, the worse ones 100" in str(sign)


def test_lengths_of_better_and_worse_responses() -> None:
    nan = float("nan")
    pair = example([1], [[2, 3], [4]], [1.0, 0.0])
    ranking = example([1], [[2], [3] * 9, [4] * 4, [5] * 7], [0.0, 0.2, 1.0, nan])
    assert Prepared([pair, ranking]).valued_lengths() == (3.0, 1.0)
    thumbs = [example([1], [[2, 3]], [1.0]), example([1], [[2] * 5, [9] * 9], [0.0, nan])]
    assert Prepared(thumbs).valued_lengths() == (2.0, 5.0)
    assert Prepared(thumbs[:1]).valued_lengths() is None
    assert Prepared([example([1], [[2], [3]], [1.0, 1.0]), example([1], [[2]])]).valued_lengths() is None


def test_a_sign_is_told_once_also_after_a_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.start(tmp_path / "run", "test", ModelOptions())
    state: Any = SimpleNamespace(is_world_process_zero=True, global_step=0)
    for _ in range(2):
        monitor = watching.Monitor(run, "train")
        for row in history(**{"rewards/margins": lambda step: step / 4}):
            state.global_step = row["step"]
            monitor.on_log(None, state, None, logs={k: v for k, v in row.items() if k != "step"})  # type: ignore[arg-type]
    assert [event["key"] for event in run.events("warning")] == ["margin_explodes"]
    assert capsys.readouterr().err.count("Warning: The reward margin grew") == 1
    (section,) = warning_section(run)
    assert section.title == "Warnings"
    assert "Lower the learning rate" in section.paragraphs[0]


def test_rounds_before_this_one(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", "test", ModelOptions())
    for stage, tokens in (("round-1", 100), ("round-2", 300), ("round-2", 400)):
        run.log("plan", stage=stage, response_tokens=tokens, responses=10)
    assert watching.earlier_lengths(run, "round-2") == [10.0]
    assert watching.earlier_lengths(run, "round-3") == [10.0, 40.0]
    for stage, objective in (("round-0", "sft"), ("round-4", "dpo"), ("round-5", "dpo")):
        run.log("plan", stage=stage, response_tokens=500, responses=10, objective=objective)
    assert watching.earlier_lengths(run, "round-5") == [50.0], "demonstrations are not the model's own"


def test_all_equal_by_record() -> None:
    nan = math.nan
    values = torch.tensor([1.0, 1.0, 1.0, 2.0, nan, 3.0, 3.0, nan])
    records = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    assert _all_equal(values, records).tolist() == [1.0, 0.0, 1.0]
