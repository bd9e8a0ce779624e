"""What the check of the line from fine-tuning to a merged model says follows from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from coalign.checks.papers.platform.baichuan_alignment import FIGURES
from tests.checks.test_verdicts import plus, rows_of, verdict_of

PACKED = dict(zip(FIGURES, (0.9, 0.35, 1.8, 9.9e-5), strict=True))
CLEAR = [0.06, 0.07, 0.08, 0.06, 0.07]


@pytest.mark.parametrize(
    ("packing", "gaps", "outcome"),
    [
        ({}, CLEAR, "seen"),
        ({"share, packed": 0.89}, CLEAR, "not seen"),
        ({"share, padded": 0.36}, CLEAR, "not seen"),
        ({"padded time over packed": 1.79}, CLEAR, "not seen"),
        ({"largest difference": 1e-4}, CLEAR, "not seen"),
        ({}, [0.05] * 5, "not seen"),
        ({}, [0.5, -0.3, 0.5, -0.3, 0.5], "not seen"),
        ({}, [0.3], "not seen"),
    ],
)
def test_the_outcome_follows_from_the_rows(
    packing: dict[str, float], gaps: Sequence[float], outcome: str, tmp_path: Path
) -> None:
    arms = {
        name: {"kept": kept, "characters": 30.0}
        for name, kept in (("fine-tuned", 0.5), ("the line", plus(0.5, gaps)))
    }
    items = [{"arm": "packing", "seed": 0, **PACKED, **packing}]
    rows = rows_of(arms, len(gaps))
    assert verdict_of("baichuan-alignment", rows, tmp_path, items).outcome == outcome
