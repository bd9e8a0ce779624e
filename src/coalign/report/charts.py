"""The charts of a report: paired bars with intervals, differences around zero, line charts, histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median

from markupsafe import Markup

from coalign.report.format import difference_texts, number, ticks
from coalign.report.model import Chart, Comparison, ComparisonRow, Distribution, Series
from coalign.report.svg import Axis, frame, join, line, stretched, whisker
from coalign.report.text import visible

MAX_POINTS = 400
"""Longer series are drawn as the minimum and maximum of equal buckets, so that spikes stay visible."""


# -- comparison -------------------------------------------------------------------------------------------------


def comparison_axis(rows: Sequence[ComparisonRow]) -> Axis:
    """From zero (or the lowest value below it) to the largest value or interval end; a share ends at 100%."""
    ends = [end for row in rows for one in (row.before, row.after) for end in one.measured]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if all(row.unit == "percent" for row in rows) and high <= 1 and low == 0:
        return Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), unit="percent")
    if high == low:
        high = low + 1.0
    span = (high - low) * 0.04
    low, high = low - span * (low < 0), high + span * (high > 0)
    return Axis(low, high, tuple(ticks(low, high, 4)), unit=rows[0].unit if rows else "number")


def difference_axis(rows: Sequence[ComparisonRow]) -> Axis:
    """Symmetric about zero."""
    ends = [abs(end) for row in rows if row.difference for end in row.difference.measured]
    reach = max(ends, default=0.0) * 1.08 or 1.0
    return Axis(-reach, reach, (0.0,))


def drawn_as_change(section: Comparison, row: ComparisonRow) -> bool:
    """Whether one bar shows the change in place of two for the levels: of negative levels on an axis of their own, such as
    log-probabilities, the bar of the better one would be the shorter.
    """
    levels = [one.value for one in (row.before, row.after) if one.value is not None]
    return section.scale == "row" and len(levels) == 2 and min(levels) < 0 and row.difference is not None


def bars(row: ComparisonRow, axis: Axis, names: tuple[str, str], *, change: bool = False) -> Markup:
    """The two bars of a row with their intervals, or with `change` the one of their difference from zero."""
    parts = [_across("grid", axis.at(tick)) for tick in axis.ticks]
    zero = axis.at(0.0)
    if change and row.difference is not None and row.difference.value is not None:
        end = axis.at(row.difference.value)
        text = difference_texts(row.difference, row.unit)[0]
        shape = (
            '<rect class="bar after" x="{}%" width="{}%" y="11" height="10" rx="2"><title>{}</title></rect>'
        )
        parts += [
            Markup(shape).format(min(zero, end), round(abs(end - zero), 3), f"Difference: {text}"),
            whisker(axis, row.difference, 16),
        ]
        return Markup('<svg class="bars" height="32" aria-hidden="true">{}</svg>').format(join(parts))
    for name, css, estimate, y in zip(
        names, ("before", "after"), (row.before, row.after), (4, 18), strict=True
    ):
        if estimate.value is None:
            continue
        end = axis.at(estimate.value)
        parts.append(
            Markup(
                '<rect class="bar {}" x="{}%" width="{}%" y="{}" height="10" rx="2"><title>{}</title></rect>'
            ).format(
                css,
                min(zero, end),
                round(abs(end - zero), 3),
                y,
                f"{visible(name)}: {number(estimate.value, row.unit)}",
            )
        )
        parts.append(whisker(axis, estimate, y + 5))
    return Markup('<svg class="bars" height="32" aria-hidden="true">{}</svg>').format(join(parts))


def difference(row: ComparisonRow, axis: Axis, css: str) -> Markup:
    """The difference of a row as a point with its interval around the zero line."""
    parts = [_across("zero", 50)]
    estimate = row.difference
    if estimate is not None and estimate.value is not None:
        parts.append(whisker(axis, estimate, 16))
        parts.append(
            Markup('<circle cx="{}%" cy="16" r="4.5"><title>{}</title></circle>').format(
                axis.at(estimate.value), difference_texts(estimate, row.unit)[0]
            )
        )
    return Markup('<svg class="forest {}" height="32" aria-hidden="true">{}</svg>').format(css, join(parts))


def _across(css: str, place: float) -> Markup:
    """A vertical line that reaches through the padding of its row to the next row's."""
    return Markup('<line class="{}" x1="{}%" x2="{}%" y1="-11" y2="43"/>').format(css, place, place)


def axes(section: Comparison) -> list[tuple[Axis, Axis]]:
    """The axes of each row, shared or its own."""
    if section.scale == "shared":
        return [(comparison_axis(section.rows), difference_axis(section.rows))] * len(section.rows)
    return [
        (
            difference_axis([row]) if drawn_as_change(section, row) else comparison_axis([row]),
            difference_axis([row]),
        )
        for row in section.rows
    ]


# -- line charts ------------------------------------------------------------------------------------------------


def line_chart(chart: Chart) -> Markup:
    """Named series over steps; hovering or tapping a step reads its values."""
    series = [_drawable(one, chart.log) for one in chart.series]
    points = [(x, y) for one in series for x, y in one if y is not None]
    if not points:
        return Markup('<p class="empty">No values to draw.</p>')
    bands = [_band(one, chart.log) for one in chart.series]
    reach = [y for _, y in points] + [end for band in bands for _, *ends in band for end in ends]
    x_axis = _log_steps_axis([x for x, _ in points]) if chart.x_log else _span_axis([x for x, _ in points])
    y_axis = _log_axis(reach) if chart.log else _value_axis(reach)
    drawn = [
        Markup('<path class="band s{}" d="{}"/>').format(index % 6, _outline(one, x_axis, y_axis))
        for index, one in enumerate(bands)
        if len(one) > 1
    ]
    drawn += [
        Markup('<path class="series s{}" d="{}"/>').format(index % 6, _path(one, x_axis, y_axis))
        for index, one in enumerate(series)
    ]
    lone = [
        _dot(index, x_axis.at(x), 100 - y_axis.at(y), 3)
        for index, one in enumerate(series)
        if len(one) == 1 or chart.marks
        for x, y in one
        if y is not None
    ]
    plot = stretched(drawn) + join(lone) + _readouts(chart, series, x_axis, y_axis)
    return frame(x_axis, y_axis, plot, describe_chart(chart))


def describe_chart(chart: Chart) -> str:
    """One sentence a series: where it starts, ends and is lowest. Read by screen readers."""
    sentences = []
    for one in chart.series:
        pairs = [
            (step, value) for step, value in zip(one.steps, one.values, strict=True) if value is not None
        ]
        if pairs:
            (first, start), (last, end) = pairs[0], pairs[-1]
            sentences.append(
                f"{visible(one.name)}: {number(start)} at {visible(chart.x_label)} {number(first)}, {number(end)} at {number(last)}, "
                f"between {number(min(value for _, value in pairs))} and {number(max(value for _, value in pairs))}."
            )
    return f"Line chart, {visible(chart.title)}. " + " ".join(sentences)


def chart_note(chart: Chart) -> str:
    """What the drawing leaves out, if anything."""
    notes = []
    hidden = sum(1 for one in chart.series for value in one.values if value is not None and value <= 0)
    if chart.log and hidden:
        what = "value" if hidden == 1 else "values"
        notes.append(f"{hidden:,} {what} at or below zero cannot be drawn on the logarithmic axis.")
    longest = max((len(one.values) for one in chart.series), default=0)
    if longest > MAX_POINTS:
        notes.append(f"{longest:,} points, drawn as the minimum and maximum of {MAX_POINTS // 2} buckets.")
    return " ".join(notes)


Point = tuple[float, float | None]


def _drawable(series: Series, log: bool) -> list[Point]:
    points: list[Point] = [
        (step, None if value is None or not math.isfinite(value) or (log and value <= 0) else value)
        for step, value in zip(series.steps, series.values, strict=True)
    ]
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(len(points) / (MAX_POINTS // 2))
    thinned: list[Point] = []
    for start in range(0, len(points), size):
        bucket = [(x, y) for x, y in points[start : start + size] if y is not None]
        extremes = (
            {min(bucket, key=lambda one: one[1]), max(bucket, key=lambda one: one[1])} if bucket else set()
        )
        thinned += sorted(extremes) or [(points[start][0], None)]
    return thinned


def _band(series: Series, log: bool) -> list[tuple[float, float, float]]:
    """(step, low, high) where both ends can be drawn."""
    if series.low is None or series.high is None:
        return []
    return [
        (step, low, high)
        for step, low, high in zip(series.steps, series.low, series.high, strict=True)
        if low is not None and high is not None and math.isfinite(high - low) and not (log and low <= 0)
    ]


def _outline(band: Sequence[tuple[float, float, float]], x_axis: Axis, y_axis: Axis) -> str:
    """Along the low ends and back along the high ones."""
    corners = [(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)]
    return _path(list(corners), x_axis, y_axis) + "Z"


def _path(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    commands, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        commands.append(f"{pen}{x_axis.at(x):g} {100 - y_axis.at(y):g}")
        pen = "L"
    return "".join(commands)


def _dot(series: int, x: float, y: float, radius: float) -> Markup:
    """A dot of a series at a place given in percent."""
    return Markup('<circle class="dot s{}" cx="{}%" cy="{}%" r="{}"/>').format(series % 6, x, y, radius)


def _tip(text: str) -> Markup:
    """What is read where a part of a chart is pointed at."""
    return Markup('<text class="tip" x="100%" y="-8">{}</text>').format(text)


def _readouts(chart: Chart, series: Sequence[Sequence[Point]], x_axis: Axis, y_axis: Axis) -> Markup:
    """A hover target for each drawn step: its own slice of the plot, a rule, dots and the values in words."""
    at: dict[float, list[tuple[int, float]]] = {}
    for index, one in enumerate(series):
        for x, y in one:
            if y is not None:
                at.setdefault(x, []).append((index, y))
    steps = sorted(at)
    places = [x_axis.at(step) for step in steps]
    edges = [0.0, *((left + right) / 2 for left, right in pairwise(places)), 100.0]
    groups = []
    for step, place, left, right in zip(steps, places, edges[:-1], edges[1:], strict=True):
        values = " · ".join(f"{visible(chart.series[index].name)} {number(y)}" for index, y in at[step])
        dots = join(_dot(index, place, 100 - y_axis.at(y), 3.5) for index, y in at[step])
        target = Markup('<rect x="{}%" width="{}%" height="100%"/>').format(
            round(left, 3), round(right - left, 3)
        )
        shown = number(step, "integer" if step == int(step) else "number")
        tip = _tip(f"{visible(chart.x_label)} {shown} · {values}")
        groups.append(
            Markup('<g class="hit">{}{}{}{}</g>').format(
                target, line("rule", place, 0, place, 100), dots, tip
            )
        )
    return join(groups)


# -- histograms -------------------------------------------------------------------------------------------------


def histogram(section: Distribution) -> Markup:
    """Steps of the share of each sample in each bin."""
    samples = [_measured(one.values) for one in section.samples]
    edges = bin_edges([value for one in samples for value in one])
    if not edges:
        return Markup('<p class="empty">No values to draw.</p>')
    shares = [_shares(one, edges) for one in samples]
    x_axis = Axis(edges[0], edges[-1], tuple(ticks(edges[0], edges[-1], 6)))
    top = max(max(one) for one in shares) or 1.0
    y_axis = Axis(0.0, top * 1.05, tuple(ticks(0.0, top * 1.05, 4)), unit="percent")
    areas = [
        Markup('<path class="area s{}" d="{}"/>').format(index % 6, _steps(one, edges, x_axis, y_axis))
        for index, one in enumerate(shares)
    ]
    targets = []
    for bin_index, (low, high) in enumerate(pairwise(edges)):
        values = " · ".join(
            f"{visible(sample.name)} {number(one[bin_index], 'percent')}"
            for sample, one in zip(section.samples, shares, strict=True)
        )
        place, width = x_axis.at(low), round(x_axis.at(high) - x_axis.at(low), 3)
        tip = _tip(f"{number(low)} to {number(high)}: {values}")
        targets.append(
            Markup('<g class="hit"><rect class="column" x="{}%" width="{}%" height="100%"/>{}</g>').format(
                place, width, tip
            )
        )
    label = f"Histogram of {visible(section.x_label)}. " + " ".join(
        f"{visible(one.name)}: {summary(one.values)}." for one in section.samples
    )
    return frame(x_axis, y_axis, stretched(areas) + join(targets), label)


def summary(values: Sequence[float | None]) -> str:
    """Size, mean and median in words, and how many were not measured."""
    measured = _measured(values)
    missing = f" ({len(values) - len(measured):,} not measured)" if len(measured) < len(values) else ""
    if not measured:
        return f"no values{missing}"
    return (
        f"n = {len(measured):,}{missing}, mean {number(fmean(measured))}, median {number(median(measured))}"
    )


def bin_edges(values: Sequence[float]) -> list[float]:
    """Edges of 8 to 40 equal bins of round width, by the Freedman-Diaconis rule; whole numbers get whole widths."""
    if not values:
        return []
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-300):  # of less, no width is a number above zero
        return [low - 0.5, low + 0.5]
    spread = ordered[(3 * len(ordered)) // 4] - ordered[len(ordered) // 4]
    width = 2 * spread / len(ordered) ** (1 / 3) or (high - low) / 20
    width = min(max(width, (high - low) / 40), (high - low) / 8)
    power = 10 ** math.floor(math.log10(width))
    width = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9))
    if all(value == int(value) for value in values):
        width = max(1, round(width))
    first, last = math.floor(low / width), math.floor(high / width) + 1
    first -= first * width > low  # the quotient of the smallest numbers is 0
    return [index * width for index in range(first, last + 1)]


def _measured(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    counts = [0] * (len(edges) - 1)
    width = edges[1] - edges[0]
    for value in values:
        counts[min(max(int((value - edges[0]) / width + 1e-9), 0), len(counts) - 1)] += 1
    return [count / len(values) for count in counts] if values else [0.0] * len(counts)


def _steps(shares: Sequence[float], edges: Sequence[float], x_axis: Axis, y_axis: Axis) -> str:
    path = f"M{x_axis.at(edges[0]):g} 100"
    for share, high in zip(shares, edges[1:], strict=True):
        path += f"V{100 - y_axis.at(share):g}H{x_axis.at(high):g}"
    return path + "V100"


# -- axes of values and steps --------------------------------------------------------------------------------


def _span_axis(values: Sequence[float]) -> Axis:
    """From the lowest to the highest; between whole numbers (steps, rounds) there is nothing to mark."""
    low, high = min(values), max(values)
    whole = all(float(one).is_integer() for one in values)
    return Axis(low, high, tuple(one for one in ticks(low, high, 6) if one.is_integer() or not whole))


def _log_steps_axis(values: Sequence[float]) -> Axis:
    """From the lowest to the highest step; the steps themselves are the ticks where they are few."""
    steps = sorted(set(values))
    low, high = steps[0], steps[-1]
    return Axis(low, high, tuple(steps) if len(steps) <= 7 else tuple(steps[:: len(steps) // 6]), log=True)


def _value_axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if low > 0 and low < 0.4 * high:
        low = 0.0
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = low - margin * (low != 0), high + margin
    return Axis(low, high, tuple(ticks(low, high, 4)))


def _log_axis(values: Sequence[float]) -> Axis:
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = max(last, first + 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    marks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return Axis(10.0**first, 10.0**last, tuple(mark for mark in marks if mark <= 10.0**last), log=True)
