"""What the page of a run shows while it works and afterwards: where it is, its curves, and what happened, folded."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from markupsafe import Markup

from coalign.core.progress import duration
from coalign.report import model as doc
from coalign.report.compare import logged_curves
from coalign.report.format import number
from coalign.report.html import render_curves

FOLDED = 4
"""Events of one kind in a row from which on they are folded."""
GROUPS = 200
"""Groups of events that the page shows."""
INSIDE = 50
"""Events of a group that it shows."""
_HELD_OUT = ", held out"

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        text: in words: stage, steps, last loss, time left.
        done, total: optimizer steps.
    """

    text: str
    done: int
    total: int


def progress_of(events: Sequence[Event]) -> Progress | None:
    """Of the last training that announced its steps, None where none did."""
    plans = [place for place, one in enumerate(events) if one.get("event") == "plan"]
    if not plans:
        return None
    plan = events[plans[-1]]
    total, stage = plan.get("steps"), plan.get("stage")
    if not _whole(total) or total < 1:
        return None
    rows = [
        one
        for one in events[plans[-1] :]
        if one.get("event") == "train" and one.get("stage") == stage and _whole(one.get("step"))
    ]
    begun = plan.get("done")
    done = max([one["step"] for one in rows], default=begun if _whole(begun) else 0)
    losses = [one["loss"] for one in rows if isinstance(one.get("loss"), int | float)]
    parts = [f"{stage}: step {done:,} of {total:,}"]
    parts += [f"loss {number(losses[-1])}"] if losses else []
    left = _seconds_left(rows, total)
    parts += [f"about {duration(left)} left"] if left is not None and done < total else []
    return Progress(", ".join(parts), min(done, total), total)


def _seconds_left(rows: Sequence[Event], total: int) -> float | None:
    timed = [one for one in rows if isinstance(one.get("time"), int | float)]
    if len(timed) < 2 or timed[-1]["step"] <= timed[0]["step"]:
        return None
    rate = (timed[-1]["time"] - timed[0]["time"]) / (timed[-1]["step"] - timed[0]["step"])
    return max(0.0, rate * (total - timed[-1]["step"]))


def curves_of(events: Sequence[Event]) -> Markup:
    """The charts of everything that was logged so far; held-out values are drawn with those of the training."""
    charts: dict[str, list[doc.Series]] = {}
    for title, (steps, values) in logged_curves(
        [one for one in events if one.get("event") == "train"]
    ).items():
        name = "held out" if _HELD_OUT in title else "training"
        charts.setdefault(title.replace(_HELD_OUT, ""), []).append(doc.Series(name, steps, values))
    drawn = [doc.Chart(title, series) for title, series in charts.items()]
    return render_curves(doc.Curves(title="Training", charts=drawn)) if drawn else Markup()


def groups_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Events as the page shows them, the latest first: `name`, `count`, `rows` (`time`, `details`); events of one kind that
    follow each other are one group, of which the last are shown.
    """
    found = []
    for name, group in itertools.groupby(events, key=lambda one: str(one.get("event", "?"))):
        rows = list(group)
        pieces = [rows] if len(rows) >= FOLDED else [[one] for one in rows]
        found += [
            {"name": name, "count": len(piece), "rows": [_shown(one) for one in piece[-INSIDE:]][::-1]}
            for piece in pieces
        ]
    return found[-GROUPS:][::-1]


def _shown(row: Event) -> dict[str, str]:
    details = {key: value for key, value in row.items() if key not in ("time", "event")}
    try:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.get("time", 0)))
    except (TypeError, ValueError, OverflowError, OSError):
        when = str(row.get("time"))
    return {"time": when, "details": ", ".join(f"{key} {_value(value)}" for key, value in details.items())}


def _value(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
