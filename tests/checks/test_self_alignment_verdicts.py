"""Outcomes of the checks of rounds on self-made labels follow from their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.checks.test_verdicts import Rows, no_training, plus, rows_of, verdict_of

assert no_training  # a fixture


def cream_rows(gaps: Sequence[float]) -> Rows:
    rates: dict[str, Any] = {f"consistency, round {number}": 0.7 for number in (1, 2, 3)}
    scores: dict[str, Any] = {
        "self-rewarding": 0.6, "CREAM, set level": 0.9, "CREAM, sample level": plus(0.6, gaps)
    }  # fmt: skip
    arms = {arm: {"task score": score, **rates} for arm, score in scores.items()}
    return rows_of({"M1": {"task score": 0.7}, **arms})


def scir_rows(agreement: Sequence[float], kept: Sequence[float] = (0.02,) * 5, task: float = 0.0) -> Rows:
    plain = {"agreement": 0.7, "accuracy, all": 0.6, "accuracy, kept": 0.6, "task score": 0.6}
    ours: dict[str, Any] = {
        "agreement": plus(0.7, agreement), "accuracy, all": 0.6, "accuracy, kept": plus(0.6, kept), "task score": 0.6 + task
    }  # fmt: skip
    return rows_of(
        {"M1": {"task score": 0.5}, "self-rewarding": plain, "selection alone": plain, "SCIR": ours}
    )


def expert_rows(
    gaps: Sequence[float], *, base: float = 0.3, generic: float = 0.0, seeds: float = 0.0, own: float = 290.0
) -> Rows:
    """Gaps of the self-specialised model to the base; `generic` and `seeds` are the other arms' gaps to it."""

    def arm(values: Any, rows: float = 0.0) -> dict[str, Any]:
        shares = ("domain, 5-shot", "domain, 0-shot", "held-out type, 5-shot", "general, 5-shot")
        return {**dict.fromkeys(shares, values), "own rows of the domain": rows}

    return rows_of(
        {
            "base": arm(base),
            "generic": arm(base + generic),
            "seeds alone": arm(base + seeds),
            "self-specialised": arm(plus(base, gaps), own),
        }
    )


CASES: dict[str, list[tuple[Rows, str]]] = {
    "self-specialization": [
        (expert_rows([0.06] * 5), "seen"),
        (expert_rows([0.06] * 4 + [-0.2]), "seen"),
        (expert_rows([0.06] * 3 + [0.04] * 2), "not seen"),
        (expert_rows([0.06] * 5, generic=0.02), "not seen"),
        (expert_rows([0.06] * 5, seeds=0.07), "not seen"),
        (expert_rows([0.06] * 5, base=0.1), "mixed"),
        (expert_rows([-0.06] * 5, base=0.7), "mixed"),
        (expert_rows([0.06] * 5, own=100.0), "mixed"),
    ],
    "cream": [
        (cream_rows([0.03] * 5), "seen"),
        (cream_rows([0.1, 0.1, 0.1, 0.1, -0.1]), "seen"),
        (cream_rows([0.5, 0.5, 0.5, -0.01, -0.01]), "not seen"),
        (cream_rows([0.019] * 5), "not seen"),
    ],
    "scir": [
        (scir_rows([0.06] * 5), "seen"),
        (scir_rows([0.06] * 4 + [-0.5], [0.02] * 4 + [-0.5], -0.009), "seen"),
        (scir_rows([0.06] * 3 + [0.04] * 2), "not seen"),
        (scir_rows([0.06] * 5, [0.02] * 3 + [-0.01] * 2), "not seen"),
        (scir_rows([0.06] * 5, task=-0.02), "not seen"),
    ],
}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("slug", "rows", "outcome"), [(slug, *case) for slug, cases in CASES.items() for case in cases]
)
def test_the_outcome_follows_from_the_rows(slug: str, rows: Rows, outcome: str, tmp_path: Path) -> None:
    assert verdict_of(slug, rows, tmp_path).outcome == outcome
