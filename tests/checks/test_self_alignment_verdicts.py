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


CASES: dict[str, list[tuple[Rows, str]]] = {
    "cream": [
        (cream_rows([0.03] * 5), "seen"),
        (cream_rows([0.1, 0.1, 0.1, 0.1, -0.1]), "seen"),
        (cream_rows([0.5, 0.5, 0.5, -0.01, -0.01]), "not seen"),
        (cream_rows([0.019] * 5), "not seen"),
    ]
}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("slug", "rows", "outcome"), [(slug, *case) for slug, cases in CASES.items() for case in cases]
)
def test_the_outcome_follows_from_the_rows(slug: str, rows: Rows, outcome: str, tmp_path: Path) -> None:
    assert verdict_of(slug, rows, tmp_path).outcome == outcome
