"""Whether probabilities can be trusted: calibration errors, and the temperature that mends them. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float64]"
BINS = (5, 10, 20)
"""Bin counts of published calibration errors; few bins hide errors of opposite sign."""
SHARPEST, FLATTEST = 1e-3, 1e3
"""Limits of a temperature: without them it would be 0 where every pair is in order, infinite where order is chance."""


@dataclass(frozen=True)
class CalibrationError:
    """How far probabilities are from frequencies.

    Attributes:
        ece: expected calibration error, the mean over items of the gap of their bin.
        ace: average calibration error, the mean over bins with items.
        mce: maximum calibration error, the largest of these.
    """

    ece: float
    ace: float
    mce: float


def calibration_error(
    probabilities: Sequence[float] | Array, labels: Sequence[float] | Array, *, bins: int = 10
) -> CalibrationError:
    """Gaps between mean probability and share of positives in bins of equal width over [0, 1].

    A value on an edge belongs to the bin below it. Bins without items are left out; without any item all errors are 0.
    Guo et al. 2017 (arXiv 1706.04599), section 2.

    Args:
        probabilities: [n] of the positive label.
        labels: [n] 1 or 0.

    Raises:
        ValueError: different lengths, fewer than one bin, or a value outside [0, 1].
    """
    p, y = _checked(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins is {bins}, expected at least 1")
    place = np.searchsorted(np.arange(1, bins) / bins, p, side="left")
    counts = np.bincount(place, minlength=bins)
    gaps = np.abs(np.bincount(place, p, bins) - np.bincount(place, y, bins))
    filled = counts > 0
    if not filled.any():
        return CalibrationError(0.0, 0.0, 0.0)
    means = gaps[filled] / counts[filled]
    return CalibrationError(float(gaps.sum() / len(p)), float(means.mean()), float(means.max()))


@dataclass(frozen=True)
class ReliabilityBin:
    """Items whose probability lies in one bin.

    Attributes:
        probability: their mean.
        share: of positives among them.
        n: how many they are.
    """

    probability: float
    share: float
    n: int


def reliability(
    probabilities: Sequence[float] | Array, labels: Sequence[float] | Array, *, bins: int = 10
) -> list[ReliabilityBin]:
    """The bins of `calibration_error` that hold items, lowest first: the points of a reliability diagram."""
    p, y = _checked(probabilities, labels)
    place = np.searchsorted(np.arange(1, bins) / bins, p, side="left")
    return [
        ReliabilityBin(float(p[rows].mean()), float(y[rows].mean()), int(rows.sum()))
        for bin in range(bins)
        if (rows := place == bin).any()
    ]


def both_orders(margins: Sequence[float] | Array) -> tuple[Array, Array]:
    """([2P], [2P]) probabilities `sig(d)` and labels of pairs looked at from either side: the better response over the
    worse (label 1), and the worse over the better (label 0). No order of a pair is special, so errors of opposite sign
    do not hide each other.

    Args:
        margins: [P] reward of the better response of each pair minus that of the worse.
    """
    d = np.asarray(margins, dtype=np.float64)
    p = _sigmoid(d)
    return np.concatenate([p, 1 - p]), np.concatenate([np.ones_like(d), np.zeros_like(d)])


def fitted_temperature(margins: Sequence[float] | Array) -> float:
    """The temperature T that minimises `-mean log sig(d / T)`: temperature scaling (Guo et al. 2017, section 4.2) of pairs.

    The loss is convex in 1 / T. T lies between `SHARPEST` and `FLATTEST`.

    Args:
        margins: [P] reward of the better response of each pair minus that of the worse.

    Raises:
        ValueError: no pair, or a margin that is not finite.
    """
    d = np.asarray(margins, dtype=np.float64)
    if not d.size or not np.isfinite(d).all():
        raise ValueError("a temperature is fitted to one or more finite margins")

    def slope(scale: float) -> float:
        return -float((d * _sigmoid(-scale * d)).mean())

    low, high = 1 / FLATTEST, 1 / SHARPEST
    if slope(low) >= 0:
        return FLATTEST
    if slope(high) <= 0:
        return SHARPEST
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def cross_fitted(margins: Sequence[float] | Array) -> Array:
    """[P] margins divided by a temperature that was fitted on the other half of the pairs (every second one), so that
    the calibration error after scaling is not measured on what chose the temperature. Fewer than two pairs stay as they
    are.
    """
    d = np.asarray(margins, dtype=np.float64)
    if len(d) < 2:
        return d
    scaled = d.copy()
    for half in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - (half.start or 0), None, 2)
        scaled[half] = d[half] / fitted_temperature(d[other])
    return scaled


def _sigmoid(values: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -values))


def _checked(probabilities: Sequence[float] | Array, labels: Sequence[float] | Array) -> tuple[Array, Array]:
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if p.shape != y.shape:
        raise ValueError(f"{p.shape} probabilities for {y.shape} labels")
    for name, values in (("probabilities", p), ("labels", y)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} lie outside [0, 1]")
    return p, y
