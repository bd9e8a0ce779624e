"""Outcomes of the checks of d2o, cut, reward-augmented and dpo-insights follow from their rows alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coalign.checks.options import CheckOptions
from coalign.checks.papers.preference import cut, d2o, dpo_insights, reward_augmented
from coalign.checks.worlds import flagged_world, marked_world, preference_world, scored_world
from coalign.core.files import append_rows
from coalign.core.runs import Run
from coalign.core.verdict import Verdict

SEEDS = range(5)


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is missing is an error, not minutes of training."""
    for world in (flagged_world, marked_world, preference_world, scored_world):
        monkeypatch.delattr(world, "trained")


def verdict_of(system: ModuleType, rows: list[dict[str, Any]], folder: Path) -> Verdict:
    run = Run.start(folder / "run", "check", CheckOptions())
    append_rows(run.artefacts / "measures.jsonl", rows)
    return system.check(run, seeds=5)


def outcome_of(system: ModuleType, rows: list[dict[str, Any]], folder: Path) -> str:
    return verdict_of(system, rows, folder).outcome


@pytest.mark.parametrize(
    ("marked", "nll", "gold", "ascent_gold", "outcome"),
    [
        ([0.1] * 5, 2.0, 0.7, 0.1, "seen"),
        ([0.1, 0.1, 0.1, 0.1, 0.2], 2.0, 0.7, 0.1, "not seen"),
        ([0.1] * 5, 9.0, 0.7, 0.1, "not seen"),
        ([0.1] * 5, 2.0, 0.6, 0.1, "mixed"),
        ([0.1] * 5, 2.0, 0.7, 0.5, "mixed"),
    ],
)
def test_d2o(
    marked: list[float], nll: float, gold: float, ascent_gold: float, outcome: str, tmp_path: Path
) -> None:
    rows = []
    for seed in SEEDS:
        arms = {
            "start": (0.4, 1.5, 0.8),
            "gradient ascent": (0.0, 8.0, ascent_gold),
            "DPO, one self-sample": (0.0, 1.9, 0.8),
            "D2O": (marked[seed], nll, gold),
            "gradient ascent, 100 steps": (0.0, 5.0, 0.5),
            "D2O, 100 steps": (0.1 if seed else 0.3, 2.0, 0.75),
            "D2O, 11 anchors": (0.0, 2.0, 0.7),
        }
        rows += [
            {"arm": arm, "seed": seed, "marked": one, "nll": two, "gold": three}
            for arm, (one, two, three) in arms.items()
        ]
    verdict = verdict_of(d2o, rows, tmp_path)
    assert verdict.outcome == outcome
    assert "half the start's in 4 of 5 seeds; nll, D2O - gradient ascent -3.000" in verdict.tried[0]
    assert "gold lost, D2O +0.050, gradient ascent +0.300" in verdict.tried[0]
    assert "marked 0.000, below half the start's in 5 of 5 seeds" in verdict.tried[1]


@pytest.mark.parametrize(
    ("precision", "recall", "strict", "golds", "outcome"),
    [
        (0.6, 0.8, 0.95, [0.9, 0.95, 0.9, 0.92, 0.9], "seen"),
        (0.6, 0.6, 0.95, [0.9] * 5, "mixed"),
        (0.6, 0.8, 0.8, [0.9] * 5, "mixed"),
        (0.3, 0.8, 0.95, [0.9] * 5, "not seen"),
        (0.6, 0.8, 0.95, [0.5] * 5, "not seen"),
        (0.6, 0.8, 0.95, [0.9, 0.9, 0.3, 0.5, 0.61], "mixed"),
    ],
)
def test_cut(
    precision: float, recall: float, strict: float, golds: list[float], outcome: str, tmp_path: Path
) -> None:
    def gold(value: float) -> dict[str, float]:
        return {f"gold, {steps} steps": value for steps in flagged_world.STEPS}

    rows = []
    for seed in SEEDS:
        rows += [{"arm": arm, "seed": seed, **gold(0.6)} for arm in ("start", "likelihood", "hindsight")]
        rows += [
            {
                "arm": arm,
                "seed": seed,
                **gold(golds[seed]),
                "precision": one,
                "recall": recall,
                "base rate": 0.38,
            }
            for arm, one in (("CUT", precision), ("CUT, threshold 3", strict))
        ]
    assert outcome_of(cut, rows, tmp_path) == outcome


@pytest.mark.parametrize(
    ("changes", "rise", "outcome"),
    [
        ([-2.0] * 5, 0.2, "seen"),
        ([-2.0, -2.0, -2.0, -2.0, -9.0], 0.2, "seen"),
        ([-2.0, -2.0, -2.0, -9.0, -9.0], 0.2, "not seen"),
        ([-2.0] * 5, 0.05, "not seen"),
    ],
)
def test_reward_augmented(changes: list[float], rise: float, outcome: str, tmp_path: Path) -> None:
    def measures(change: float, rise: float) -> dict[str, float]:
        goals = {f"quality, goal {goal}": 0.5 + (rise if goal >= 4 else 0.0) for goal in scored_world.GOALS}
        return {"good rejected, change": change, **goals, "quality, no goal": 0.5}

    rows = []
    for seed in SEEDS:
        arms = {
            "base": (0.0, 0.0),
            "DPO": (-5.0, 0.0),
            "DPO, as many steps": (-8.0, 0.0),
            "reward-augmented": (changes[seed], rise),
            "reward-augmented, half": (-3.0, 0.1),
        }
        rows += [{"arm": arm, "seed": seed, **measures(*one)} for arm, one in arms.items()]
        rows[-2]["good rejected, change, goal 5"] = -6.0 if seed == 2 else -4.0
    verdict = verdict_of(reward_augmented, rows, tmp_path)
    assert verdict.outcome == outcome
    assert "both trainings of DPO in 4 of 5 seeds" in verdict.tried[0]
    assert "reward-augmented - DPO +0.600" in verdict.tried[0]


@pytest.mark.parametrize(
    ("late", "undertrained", "outcome"),
    [
        ([0.01, 0.01, 0.01, 0.3], [0.8, 0.8, 0.8, 0.95], "seen"),
        ([0.01, 0.01, 0.3, 0.3], [0.8, 0.8, 0.8, 0.8], "not seen"),
        ([0.01, 0.01, 0.01, 0.01], [0.8, 0.8, 0.95, 0.95], "not seen"),
    ],
)
def test_dpo_insights(late: list[float], undertrained: list[float], outcome: str, tmp_path: Path) -> None:
    rows = []
    for seed in SEEDS:
        rows += [{"arm": arm, "seed": seed, "gold": 0.6} for arm in ("SFT", "undertrained")]
        for method, gain, other in zip(("DPO", "IPO", "KTO", "CPO"), late, undertrained, strict=True):
            golds = {"300": 0.7, "1200": 0.9, "3600": 0.9 + gain, "1200, undertrained": other}
            rows += [{"arm": f"{method} {cell}", "seed": seed, "gold": gold} for cell, gold in golds.items()]
    assert outcome_of(dpo_insights, rows, tmp_path) == outcome
