"""What a round measures about its own labels: told while the run goes on, warned about below a floor, kept.

A system tells what it finds in any of its hooks; whoever reads the round later (the report, a test) finds it in
`measures.json` of the round's folder::

    tell(round, {"consistency": 0.62}, floors={"consistency": Floor(0.5, "the judges agree by chance", "...")})
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.files import write_json
from coalign.core.runs import is_main_process
from coalign.loops.rounds import Round
from coalign.loops.rows import Row


@dataclass(frozen=True)
class Floor:
    """Below which a measure is a sign of failure.

    Attributes:
        least: the lowest value that is fine.
        meaning: what a lower one says, as the end of a sentence.
        advice: what to do.
    """

    least: float
    meaning: str
    advice: str


LABEL_ACCURACY = "label accuracy"
FLOORS = {
    LABEL_ACCURACY: Floor(
        0.5,
        "the labels that the model gives itself are wrong more often than right",
        "Stop: further rounds learn the wrong order. Start from better seed data, or with a lower learning rate.",
    )
}
"""Of what the engine measures itself."""


def tell(
    round: Round, values: Mapping[str, float | None], *, floors: Mapping[str, Floor] = FLOORS
) -> dict[str, Any]:
    """Keep what a round measured, print it, and warn of what lies below its floor.

    A name is kept once: told again (after a kill) it has the later value. None is kept as not measured.

    Returns:
        Everything that the round has told so far.
    """
    known = {**told(round), **values}
    write_json(round.path("measures", ".json"), known)
    measured = {name: value for name, value in values.items() if value is not None}
    round.run.log(
        "measured", round=round.number, **{name.replace(" ", "_"): v for name, v in measured.items()}
    )
    stage = "Before the rounds" if round.number == 0 else f"Round {round.number}"
    if measured and is_main_process():
        said = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
        print(f"{stage}: {said}", file=sys.stderr, flush=True)
    for name, value in measured.items():
        floor = floors.get(name)
        if floor is None or value >= floor.least:
            continue
        text = f"{name} {value:.4g} is below {floor.least:g}: {floor.meaning}."
        round.run.log("warning", stage=stage, key=name, text=text, advice=floor.advice)
        if is_main_process():
            print(f"Warning: {stage}: {text} {floor.advice}", file=sys.stderr, flush=True)
    return known


def told(round: Round) -> dict[str, Any]:
    """What a round has told so far."""
    path = round.path("measures", ".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def label_accuracy(labelled: Sequence[Row], truths: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """Share of ordered pairs of responses whose order is the true one, over those that differ in truth.

    Args:
        labelled: rows to learn from: `chosen` and `rejected`, or `responses` with `scores`; others order nothing.
        truths: id to the true value of each response, by its text; None where it is not known.

    Returns:
        The share; None where no pair has a true order.
    """
    right = counted = 0
    for row in labelled:
        known = truths.get(row["id"], {})
        for better, worse in _ordered(row):
            high, low = known.get(better), known.get(worse)
            if high is not None and low is not None and high != low:
                counted += 1
                right += high > low
    return right / counted if counted else None


def _ordered(row: Row) -> list[tuple[str, str]]:
    if "chosen" in row and "rejected" in row:
        return [(row["chosen"], row["rejected"])]
    scored = [*zip(row.get("responses", ()), row.get("scores", ()), strict=False)]
    return [(one, other) for one, high in scored for other, low in scored if high > low]
