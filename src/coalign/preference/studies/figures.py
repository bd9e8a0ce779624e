"""Figures of a study: spreads over seeds, sensitivity to settings, and lines for charts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from coalign.preference.studies.cells import START, Rows
from coalign.preference.studies.examination import MEASURES
from coalign.report.format import number
from coalign.report.model import Chart, Series, Unit

Row = Mapping[str, Any]
MAX_SERIES = 6
"""Lines of different colour in one chart."""


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of a group.

    Attributes:
        deviation: standard deviation over seeds, 0 for one.
        n: seeds with a value.
    """

    mean: float
    deviation: float
    n: int

    def text(self, unit: Unit = "number") -> str:
        shown = number(self.mean, unit)
        return f"{shown} ± {number(self.deviation, unit)}" if self.n > 1 else shown


def spread(rows: Iterable[Row], metric: str) -> Spread | None:
    """Mean and deviation of a metric, None where no row has it."""
    values = [float(row[metric]) for row in rows if row.get(metric) is not None]
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Trained rows by key, in order of first appearance; start models are left out."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        if row["objective"] != START:
            groups.setdefault(key(row), []).append(row)
    return groups


def settings_text(row: Row) -> str:
    """`beta 0.1, learning_rate 1e-05`."""
    return ", ".join(f"{name} {value:g}" for name, value in row["settings"].items()) or "defaults"


def measured(rows: Sequence[Row]) -> list[str]:
    """The metrics that at least one trained row has, in the order of reports."""
    trained = [row for row in rows if row["objective"] != START]
    return [name for name in MEASURES if any(row.get(name) is not None for row in trained)]


def of_start(rows: Iterable[Row], metric: str) -> float | None:
    """A metric of the first start model among the rows; None where it was not measured."""
    return next((row.get(metric) for row in rows if row["objective"] == START), None)


def line(
    name: str, rows: Iterable[Row], metric: str, place: Callable[[Row], float], *, band: bool = True
) -> Series | None:
    """The mean of a metric at every place, with a band of one standard deviation over seeds."""
    groups: dict[float, list[Row]] = {}
    for row in rows:
        groups.setdefault(place(row), []).append(row)
    points = [(x, found) for x in sorted(groups) if (found := spread(groups[x], metric)) is not None]
    if not points:
        return None
    several = band and any(one.n > 1 for _, one in points)
    return Series(
        name=name,
        steps=[x for x, _ in points],
        values=[one.mean for _, one in points],
        low=[one.mean - one.deviation for _, one in points] if several else None,
        high=[one.mean + one.deviation for _, one in points] if several else None,
    )


def charts(
    title: str, series: Iterable[Series | None], x_label: str, *, x_log: bool | None = None
) -> list[Chart]:
    """Charts of at most six lines each; the axis is logarithmic where all places are above zero and spread widely."""
    lines = [one for one in series if one is not None]
    places = [x for one in lines for x in one.steps]
    if x_log is None:
        x_log = bool(places) and min(places) > 0 and max(places) >= 4 * min(places)
    pieces = [lines[start : start + MAX_SERIES] for start in range(0, len(lines), MAX_SERIES)]
    return [
        Chart(
            title=title + (f" ({number_} of {len(pieces)})" if len(pieces) > 1 else ""),
            series=piece,
            x_label=x_label,
            x_log=x_log,
            marks=True,
        )
        for number_, piece in enumerate(pieces, start=1)
    ]


def spread_of_best(rows: Rows, metric: str) -> Spread | None:
    """The best group of seeds: equal in all but the seed."""
    groups = grouped(rows, lambda row: (row["objective"], row["start"], row["size"], settings_text(row)))
    found = [one for group in groups.values() if (one := spread(group, metric)) is not None]
    pick = max if MEASURES[metric].better == "higher" else min
    return pick(found, key=lambda one: one.mean, default=None)


def sensitivity(rows: Rows, main: str) -> list[dict[str, Any]]:
    """One summary an objective: how much its results depend on its settings, every setting averaged over seeds.

    `best`, `mean`, `worst`, `spread` (best - worst) and `deviation` (over settings) of the main metric; `settings` of
    the best; `kl` and `length` there, `mean_length` and `length_spread` over settings; `tried` and `diverged`
    (settings of which at least one training diverged; they have no part in the figures unless another seed of them
    was trained).
    """
    higher = MEASURES[main].better == "higher"
    found = []
    for objective, own in grouped(rows, lambda row: row["objective"]).items():
        by_setting = list(grouped(own, settings_text).values())
        values = [(one, group) for group in by_setting if (one := spread(group, main)) is not None]
        lengths = [one.mean for group in by_setting if (one := spread(group, "length")) is not None]
        summary: dict[str, Any] = {
            "objective": objective,
            "tried": len(by_setting),
            "diverged": sum(any(row["diverged"] for row in group) for group in by_setting),
        }
        if values:
            ordered = sorted(values, key=lambda one: one[0].mean, reverse=higher)
            means = [one.mean for one, _ in ordered]
            best = ordered[0]
            summary |= {
                "best": best[0],
                "settings": settings_text(best[1][0]),
                "mean": statistics.fmean(means),
                "worst": means[-1],
                "spread": abs(means[0] - means[-1]),
                "deviation": statistics.pstdev(means),
                "kl": spread(best[1], "kl"),
                "length": spread(best[1], "length"),
                "mean_length": statistics.fmean(lengths),
                "length_spread": max(lengths) - min(lengths),
            }
        found.append(summary)
    return found


def size_findings(rows: Rows, main: str) -> list[str]:
    """What the figures say, in sentences: the best of each scenario, more data, the start model."""
    title, unit = MEASURES[main].title, MEASURES[main].unit
    by_cell = {
        key: found
        for key, group in grouped(rows, lambda row: (row["start"], row["objective"], row["size"])).items()
        if (found := spread(group, main)) is not None
    }
    if not by_cell:
        return ["No training came to an end: all diverged. Lower --learning-rate."]
    best = max(by_cell, key=lambda key: by_cell[key].mean)
    said = [f"Best: {best[1]} from {best[0]} with {best[2]} pairs. {title}: {by_cell[best].text(unit)}."]
    for start in dict.fromkeys(key[0] for key in by_cell):
        own = {key: one for key, one in by_cell.items() if key[0] == start}
        top = max(own, key=lambda key: own[key].mean)
        before = of_start([row for row in rows if row["start"] == start], main)
        said.append(
            f"From {start}: {top[1]} with {top[2]} pairs is best, {own[top].text(unit)}"
            + (f" (start model {number(before, unit)})." if before is not None else ".")
        )
        sizes = sorted({key[2] for key in own})
        means = [statistics.fmean(one.mean for key, one in own.items() if key[2] == size) for size in sizes]
        if len(sizes) > 1:
            steps = ", ".join(
                f"{after - mean:+.3f} from {size} to {larger} pairs"
                for (size, mean), (larger, after) in pairwise(zip(sizes, means, strict=True))
            )
            said.append(f"More data from {start}, mean over the objectives: {steps}.")
    return [*said, *_diverged(rows)]


def sensitivity_findings(rows: Rows, main: str) -> list[str]:
    """What a sweep says, in sentences: the best setting, spreads in ascending order, lengths, what diverged."""
    title, unit = MEASURES[main].title, MEASURES[main].unit
    found = [one for one in sensitivity(rows, main) if "best" in one]
    if not found:
        return ["No training came to an end: all diverged. Lower the learning rates."]
    top = max(found, key=lambda one: one["best"].mean)
    said = [f"Best: {top['objective']} with {top['settings']}. {title}: {top['best'].text(unit)}."]
    steady = sorted((one for one in found if one["tried"] > 1), key=lambda one: one["spread"])
    if steady:
        spreads = ", ".join(f"{one['objective']} {number(one['spread'], unit)}" for one in steady)
        said.append(f"Spread between best and worst setting, smallest first: {spreads}.")
    before = of_start(rows, "length")
    lengths = ", ".join(f"{one['objective']} {one['mean_length']:.1f}" for one in found)
    said.append(
        f"Mean response length over the settings, tokens: {lengths}"
        + (f" (start model {before:.1f})." if before is not None else ".")
    )
    return [*said, *_diverged(rows)]


def _diverged(rows: Rows) -> list[str]:
    diverged = sum(row["diverged"] for row in rows)
    return [f"{diverged} trainings diverged and have no part in the figures."] if diverged else []
