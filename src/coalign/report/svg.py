"""Parts of a chart: axes and the frame of three SVGs around a plot.

Positions are percentages of the box, so that a chart stretches with it while its text keeps its size; colours,
strokes and fonts come from the style sheet by class name, so that charts follow the theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from coalign.report.format import tick_texts
from coalign.report.model import Estimate, Unit


@dataclass(frozen=True)
class Axis:
    """A mapping of values to 0..100 percent of a box, and its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    unit: Unit = "number"

    def at(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        value = math.log10(value) if self.log else value
        return round(100 * (value - low) / (high - low), 3) if high > low else 50.0

    def labels(self) -> list[tuple[float, str]]:
        """Place and text of each tick."""
        texts = tick_texts(self.ticks, self.unit, log=self.log)
        return [(self.at(tick), text) for tick, text in zip(self.ticks, texts, strict=True)]


def frame(x_axis: Axis, y_axis: Axis, plot: Markup, label: str) -> Markup:
    """A plot with its grid and labels; `label` is what a screen reader says of it."""
    grid = [line("grid", 0, 100 - place, 100, 100 - place) for place, _ in y_axis.labels()]
    y_labels = [
        Markup('<text x="100%" y="{}%" dy="0.32em">{}</text>').format(round(100 - place, 3), text)
        for place, text in y_axis.labels()
    ]
    return Markup(
        '<div class="chart" role="img" aria-label="{}"><svg class="y" aria-hidden="true">{}</svg>'
        '<svg class="plot" aria-hidden="true">{}{}</svg>{}</div>'
    ).format(label, join(y_labels), join(grid), plot, x_labels(x_axis))


def x_labels(axis: Axis) -> Markup:
    """Tick labels below a box; the outermost ones stay inside it."""
    texts = []
    for place, text in axis.labels():
        css = "start" if place < 3 else "end" if place > 97 else "mid"
        texts.append(Markup('<text class="{}" x="{}%" y="14">{}</text>').format(css, place, text))
    return Markup('<svg class="x" height="20" aria-hidden="true">{}</svg>').format(join(texts))


def join(parts: Iterable[Markup]) -> Markup:
    """Elements one after the other."""
    return Markup("").join(parts)


def stretched(paths: Sequence[Markup]) -> Markup:
    """Paths in a 100 by 100 box that is stretched to the plot; strokes keep their width by style sheet."""
    return Markup(
        '<svg class="stretch" viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">{}</svg>'
    ).format(join(paths))


def whisker(axis: Axis, estimate: Estimate, y: float) -> Markup:
    """The interval of an estimate at height `y` (pixels), or nothing."""
    if estimate.interval is None:
        return Markup("")
    left, right = map(axis.at, estimate.interval)
    parts = [Markup('<line x1="{}%" x2="{}%" y1="{}" y2="{}"/>').format(left, right, y, y)]
    parts += [
        Markup('<line x1="{}%" x2="{}%" y1="{}" y2="{}"/>').format(x, x, y - 3, y + 3) for x in (left, right)
    ]
    return Markup('<g class="whisker">{}</g>').format(join(parts))


def line(css: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A line between two places given in percent."""
    return Markup('<line class="{}" x1="{}%" y1="{}%" x2="{}%" y2="{}%"/>').format(
        css, *(f"{one:g}" for one in (x1, y1, x2, y2))
    )
