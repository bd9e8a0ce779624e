"""What rounds tell of their labels: kept, printed, warned about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coalign.core.options import option
from coalign.core.runs import Run
from coalign.loops.readings import Floor, label_accuracy, tell, told
from coalign.loops.rounds import Round


@dataclass(kw_only=True)
class Config:
    seed: int = option(0, "seed")


@pytest.fixture
def round(tmp_path: Path) -> Round:
    return Round(Run.start(tmp_path / "run", "act", Config()), 2)


def test_what_is_told_is_kept_and_the_later_value_counts(round: Round, capsys: Any) -> None:
    tell(round, {"agreement": 0.25, "kept": 3})
    tell(round, {"agreement": 0.75, "unknown": None})
    assert told(round) == {"agreement": 0.75, "kept": 3, "unknown": None}
    assert told(Round(round.run, 1)) == {}
    assert "Round 2: agreement 0.25, kept 3" in capsys.readouterr().err


def test_what_lies_below_its_floor_is_a_warning(round: Round, capsys: Any) -> None:
    floors = {"agreement": Floor(0.5, "the judges agree by chance", "Stop.")}
    tell(round, {"agreement": 0.5}, floors=floors)
    assert not round.run.events("warning")
    tell(round, {"agreement": 0.25}, floors=floors)
    (warning,) = round.run.events("warning")
    assert warning["text"] == "agreement 0.25 is below 0.5: the judges agree by chance."
    assert warning["stage"] == "Round 2"
    assert "Warning: Round 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "share"),
    [
        ({"chosen": "best", "rejected": "worst"}, 1.0),
        ({"chosen": "worst", "rejected": "best"}, 0.0),
        ({"chosen": "best", "rejected": "as good"}, None),
        ({"chosen": "best", "rejected": "never measured"}, None),
        ({"responses": ["best", "middle", "worst"], "scores": [3, 1, 2]}, 2 / 3),
        ({"responses": ["best", "middle"], "scores": [1, 1]}, None),
        ({"completion": "best"}, None),
    ],
)
def test_label_accuracy(row: dict[str, Any], share: float | None) -> None:
    truth = {"a": {"best": 3.0, "as good": 3.0, "middle": 2.0, "worst": 1.0}}
    assert label_accuracy([{"id": "a", **row}], truth) == share
    assert label_accuracy([{"id": "of another prompt", **row}], truth) is None
