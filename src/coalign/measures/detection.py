"""How well a score tells two classes apart, or orders items as people do. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from coalign.measures.statistics import Interval, percentile_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float64]"


def roc_auc(labels: Sequence[bool] | Array, scores: Sequence[float] | Array) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Raises:
        ValueError: different lengths, or one class is missing.
    """
    positive, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if positive.shape != values.shape:
        raise ValueError(f"{positive.shape} labels for {values.shape} scores")
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        raise ValueError("one of the two classes is missing")
    return float((ranks(values)[positive].sum() - n * (n + 1) / 2) / (n * m))


def balanced_accuracy(labels: Sequence[bool] | Array, predicted: Sequence[bool] | Array) -> float:
    """Mean of the shares of positives and of negatives that are found.

    Raises:
        ValueError: one class is missing.
    """
    positive, said = np.asarray(labels, dtype=bool), np.asarray(predicted, dtype=bool)
    if positive.all() or not positive.any():
        raise ValueError("one of the two classes is missing")
    return float((said[positive].mean() + (~said[~positive]).mean()) / 2)


def best_threshold(labels: Sequence[bool] | Array, scores: Sequence[float] | Array) -> tuple[float, float]:
    """The threshold with the highest balanced accuracy on these items, and that accuracy.

    An item is positive at `score >= threshold`. The lowest of equally good thresholds is taken, halfway to the next
    lower score. The accuracy is that of the items that chose the threshold, so it is optimistic.
    """
    values = np.unique(np.asarray(scores, dtype=np.float64))
    data = np.asarray(scores, dtype=np.float64)
    cuts = [float(values[0]), *((values[1:] + values[:-1]) / 2).tolist()]
    found = [(balanced_accuracy(labels, data >= cut), -cut) for cut in cuts]
    accuracy, negative = max(found)
    return -negative, accuracy


def pearson(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float:
    """Linear correlation; 0 where one side is constant."""
    a, b = (np.asarray(one, dtype=np.float64) for one in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def spearman(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float:
    """Rank correlation, ties with their mean rank; 0 where one side is constant."""
    return pearson(ranks(np.asarray(first, np.float64)), ranks(np.asarray(second, np.float64)))


def ranks(values: Array) -> Array:
    """Ranks from 1, ties with their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts - 1) / 2)[place]


def bootstrap_of(
    statistic: Callable[[Array, Array], float],
    first: Sequence[float] | Array,
    second: Sequence[float] | Array,
    *,
    n: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """A statistic of paired values with a percentile bootstrap interval over items.

    Resamples for which the statistic does not exist (one class only) are drawn again, at most ten times as often as
    asked for. No p-value belongs to the interval.
    """
    a, b = (np.asarray(one, dtype=np.float64) for one in (first, second))
    value, rng, found = statistic(a, b), np.random.default_rng(seed), []
    for _ in range(10 * n):
        rows = rng.integers(0, len(a), len(a))
        try:
            found.append(statistic(a[rows], b[rows]))
        except ValueError:
            continue
        if len(found) == n:
            break
    return percentile_interval(value, found, len(a), confidence=confidence)
