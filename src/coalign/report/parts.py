"""What many reports say, said once: the outcome, estimates, rows of a comparison, training curves, tables of counts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coalign.measures.statistics import bootstrap_mean, paired_bootstrap
from coalign.report import model as doc

if TYPE_CHECKING:
    from coalign.measures.statistics import Interval

    Measured = Interval | Mapping[str, Any] | doc.Estimate | float | None
    """An interval, the same as read back from JSON (`mean`, `low`, `high`), or a value without one."""

_OUTCOMES: dict[doc.Effect, doc.Outcome] = {
    "better": "improved",
    "worse": "worse",
    "unclear": "neutral",
    "unknown": "neutral",
}


def effect(difference: doc.Estimate | None, better: doc.Better) -> doc.Effect:
    """What an interval says: `better` or `worse` only when it excludes zero, `unclear` when it holds zero."""
    if difference is None or difference.interval is None or better == "neither":
        return "unknown"
    low, high = difference.interval
    if low <= 0 <= high:
        return "unclear"
    return "better" if (low > 0) == (better == "higher") else "worse"


FEWEST = 20
"""Held-out records below which a change is not judged: of so few, one record turns the sentence around."""


def too_few(n: int) -> str:
    """What a sentence about so few held-out records ends with; nothing where there are enough."""
    return f" Too few to tell: {n} held out, of at least {FEWEST}." if n < FEWEST else ""


def outcome_of(
    change: Measured, better: doc.Better = "higher", *, n: int | None, guard: bool = True
) -> doc.Outcome:
    """The one rule by which a report's verdict follows from an interval.

    Args:
        change: after minus before, or a value minus what it is held against, with its interval.
        better: the direction that is a gain.
        n: held-out records that it was measured on; None where nothing was measured.
        guard: whether what must not suffer held (fluency, word errors).

    Returns:
        `improved` or `worse` where the interval excludes zero in that direction, `mixed` for a gain whose guard broke,
        `neutral` where the interval holds zero or there is none, or n is below `FEWEST`.
    """
    if n is not None and n < FEWEST:
        return "neutral"
    outcome = _OUTCOMES[effect(estimate(change), better)]
    return "mixed" if outcome == "improved" and not guard else outcome


def judged(
    change: Measured,
    text: str,
    figures: Sequence[doc.Figure] = (),
    *,
    n: int | None,
    better: doc.Better = "higher",
    guard: bool = True,
) -> doc.Headline:
    """The verdict of a report by `outcome_of`, whose arguments these are: a text about too few records ends by saying so."""
    more = "" if n is None else too_few(n)
    return doc.Headline(outcome_of(change, better, n=n, guard=guard), f"{text}{more}", figures)


def estimate(measured: Measured) -> doc.Estimate:
    """A value as a report shows it; an end that is not finite (of one item alone) is none."""
    if isinstance(measured, doc.Estimate):
        return measured
    if measured is None or isinstance(measured, float | int):
        return doc.Estimate(measured)
    one = measured if isinstance(measured, Mapping) else measured.to_dict()
    return doc.Estimate(one["mean"], *(_finite(one[end]) for end in ("low", "high")))


def compared(
    name: str,
    before: Measured,
    after: Measured,
    difference: Measured = None,
    *,
    n: int | None = None,
    unit: doc.Unit = "percent",
    better: doc.Better = "higher",
    emphasis: bool = False,
) -> doc.ComparisonRow:
    """A row of a comparison. Of two values without an interval the difference is their difference, without one too."""
    if difference is None and isinstance(before, float | int) and isinstance(after, float | int):
        difference = after - before
    change = None if difference is None else estimate(difference)
    return doc.ComparisonRow(
        name, estimate(before), estimate(after), change, n=n, unit=unit, better=better, emphasis=emphasis
    )


def paired(
    name: str,
    before: Sequence[float],
    after: Sequence[float],
    *,
    unit: doc.Unit = "percent",
    better: doc.Better = "higher",
    emphasis: bool = False,
) -> doc.ComparisonRow:
    """A row with bootstrap intervals over items: of both means, and of their difference, paired by item.

    Args:
        before, after: [items] values, in the same order; without any, nothing is measured.
    """
    first = second = change = None
    if before:
        first, second, change = bootstrap_mean(before), bootstrap_mean(after), paired_bootstrap(before, after)
    return compared(name, first, second, change, n=len(before), unit=unit, better=better, emphasis=emphasis)


def figure_of(row: doc.ComparisonRow, note: str = "") -> doc.Figure:
    """A row of a comparison as a headline number."""
    return doc.Figure(
        row.name,
        row.after.value,
        before=row.before.value,
        difference=row.difference,
        unit=row.unit,
        better=row.better,
        note=note,
    )


def curves(
    charts: Sequence[tuple[str, str]],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    title: str = "Training",
    note: str = "",
) -> list[doc.Curves]:
    """A chart for each logged quantity and in it a line for each history that has it; nothing where none has any.

    Args:
        charts: (key of the rows, title).
        histories: name of a line to logged rows with `step`.
    """
    drawn = []
    for key, name in charts:
        series = [
            doc.Series(label, [float(row["step"]) for row in found], [row[key] for row in found])
            for label, rows in histories.items()
            if (found := [row for row in rows if key in row])
        ]
        if series:
            drawn.append(doc.Chart(name, series))
    return [doc.Curves(title=title, note=note, charts=drawn)] if drawn else []


def held_out(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a history that measure held-out records, under the names of the training rows."""
    return [
        {key.removeprefix("eval_"): value for key, value in row.items() if key.startswith(("eval_", "step"))}
        for row in history
        if any(key.startswith("eval_") for key in row)
    ]


def median_row(section: doc.Samples) -> int | None:
    """The row whose gain is the median of all that have one, None where none has."""
    gains = sorted(
        (gain, index) for index, row in enumerate(section.rows) if (gain := section.gain(row)) is not None
    )
    return gains[len(gains) // 2][1] if gains else None


def median_first(section: doc.Samples) -> doc.Samples:
    """The same samples, that with the median gain at the head: what is read first is what to expect."""
    middle = median_row(section)
    if middle is None:
        return section
    rows = [section.rows[middle], *section.rows[:middle], *section.rows[middle + 1 :]]
    return dataclasses.replace(section, rows=rows)


def with_start(before: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A history that begins with what was measured before the first step, where anything was."""
    return [*([{"step": 0, **before}] if before else []), *history]


def counted(
    title: str, columns: tuple[str, str], counts: Mapping[str, int], *, note: str = ""
) -> doc.TableSection:
    """How often each thing was, in the order of `counts`.

    Args:
        columns: what is counted, and what of.
    """
    rows = [[name, count] for name, count in counts.items()]
    return doc.TableSection(title=title, note=note, columns=columns, rows=rows, units={columns[1]: "integer"})


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
