"""Answering only what a score calls good enough: quality against coverage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = "NDArray[np.float64]"


@dataclass(frozen=True)
class SelectiveCurve:
    """Quality of what is answered, by how much is.

    Attributes:
        coverage: [n] share answered, 1/n, 2/n, ... 1: the items of the highest scores first, equal scores in their order.
        mean_quality: [n] mean quality of these.
        thresholds: [n] the lowest score among these.
        area: mean of `mean_quality`.
    """

    coverage: Array
    mean_quality: Array
    thresholds: Array
    area: float


def selective_curve(scores: ArrayLike, quality: ArrayLike) -> SelectiveCurve:
    """The curve of items that are answered in the order of a score.

    Args:
        scores: [n] of each item, finite.
        quality: [n] what each item is worth.

    Raises:
        ValueError: different lengths, no item, or a score that is not finite.
    """
    values, worth = np.asarray(scores, np.float64), np.asarray(quality, np.float64)
    if values.shape != worth.shape or not len(values):
        raise ValueError(f"{len(values)} scores for {len(worth)} items, expected as many, at least one")
    if not np.isfinite(values).all():
        raise ValueError("a score is not finite, expected finite numbers")
    order = np.argsort(-values, kind="stable")
    counts = np.arange(1, len(values) + 1)
    means = worth[order].cumsum() / counts
    return SelectiveCurve(counts / len(values), means, values[order], float(means.mean()))


def threshold_for(curve: SelectiveCurve, target: float) -> tuple[float, float] | None:
    """The lowest threshold at which the mean quality of what is answered reaches a target, and the coverage there.

    Items of one score are answered together. None where no threshold reaches it.
    """
    last = np.append(curve.thresholds[1:] < curve.thresholds[:-1], True)
    reached = np.flatnonzero(last & (curve.mean_quality >= target))
    if not len(reached):
        return None
    return float(curve.thresholds[reached[-1]]), float(curve.coverage[reached[-1]])
