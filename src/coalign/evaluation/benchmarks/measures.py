"""What a task measured on a model, and the difference of two models on the same items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from coalign.measures.statistics import Interval, paired_bootstrap

_TWO_SIDED_95 = 1.959964
_SAME = 1e-6


@dataclass(frozen=True)
class Measure:
    """A figure of a task.

    Attributes:
        task, metric: as the library names them; a filter other than `none` stands behind the metric.
        stderr: standard error, None where the library gives none.
        n: items.
        better: the direction that is a gain.
        items: the figure of each item, where `value` is their mean; empty elsewhere (perplexity, BLEU, F1 of a whole).
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int | None
    better: Literal["higher", "lower", "neither"]
    items: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return self.task, self.metric

    @property
    def percent(self) -> bool:
        """Whether it is a share, by every item."""
        return bool(self.items) and all(0 <= one <= 1 for one in self.items.values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What a task gave: its measures, and a row for each item with what was asked and answered."""

    measures: Sequence[Measure]
    rows: Sequence[Mapping[str, Any]]
    version: str


def measured(
    task: str,
    metric: str,
    value: float,
    stderr: Any,
    *,
    n: int | None,
    better: Any,
    items: Mapping[str, float],
) -> Measure:
    """A measure; its items are kept only where their mean is its value, so that a difference may be taken over them."""
    mean = math.fsum(items.values()) / len(items) if items else math.nan
    kept = dict(items) if abs(mean - value) <= _SAME * max(1.0, abs(value)) else {}
    error = float(stderr) if isinstance(stderr, int | float) and math.isfinite(stderr) else None
    return Measure(task, metric, float(value), error, n, better, kept)


def difference(before: Measure, after: Measure, *, seed: int = 0) -> tuple[Interval, bool] | None:
    """After minus before with a 95 % interval, and whether it is paired.

    Over the same items it is a bootstrap over their differences, which keeps what is hard or easy for both out of the
    interval. Elsewhere the standard errors of both are added as of independent samples, which is too wide where the items
    are the same. None where there is neither.
    """
    if before.items and before.items.keys() == after.items.keys():
        pairs = [(before.items[one], after.items[one]) for one in before.items]
        return paired_bootstrap(*zip(*pairs, strict=True), seed=seed), True
    if before.stderr is None or after.stderr is None:
        return None
    change = after.value - before.value
    width = _TWO_SIDED_95 * math.hypot(before.stderr, after.stderr)
    n = min(before.n or 0, after.n or 0)
    return Interval(change, change - width, change + width, None, 0.95, n), False
