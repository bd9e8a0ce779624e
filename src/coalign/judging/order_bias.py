"""How far a judge's verdicts depend on the order: consistency and the share of its margins that is due to the place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from coalign.judging.protocol import PairVerdict
from coalign.measures.statistics import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

OrderValues: TypeAlias = "NDArray[np.float64]"
"""[pairs, columns]: |d12 + d21|, |d12 - d21|, whether both orders agree, and columns of the caller's own.

d12 is the margin for the answer that is shown first, d21 the same with the answers swapped: what the place adds to a
margin is in their sum, what the answers add is in their difference.
"""

RESAMPLES = 10_000


def order_values(comparison: PairVerdict) -> list[float]:
    """The first three columns for a pair; an order without a margin counts as 0.

    Raises:
        ValueError: the pair was judged in one order only.
    """
    if len(comparison.opinions) != 2:
        raise ValueError(f"item {comparison.id} was judged in {len(comparison.opinions)} orders, expected 2")
    # Margins are kept by answer, so that of the swapped order has its sign turned.
    first, second = (one.margin or 0.0 for one in comparison.opinions)
    return [abs(first - second), abs(first + second), float(comparison.consistent is True)]


def bias_share(values: OrderValues) -> float:
    """mean |d12 + d21| / (mean |d12 + d21| + mean |d12 - d21|): 0 where only the answers count, 1 where only the place."""
    return float(_shares(values.mean(0)))


def bias_difference(before: OrderValues, after: OrderValues, *, seed: int = 0) -> Interval:
    """Bias share of `after` less that of `before`, the same pairs, with a 95 % bootstrap interval over pairs."""
    rows = np.random.default_rng(seed).integers(0, len(before), (RESAMPLES, len(before)))
    drawn = _shares(after[rows].mean(1)) - _shares(before[rows].mean(1))
    low, high = (float(one) for one in np.quantile(drawn, [0.025, 0.975]))
    mean = bias_share(after) - bias_share(before)
    return Interval(mean, min(low, mean), max(high, mean), None, 0.95, len(before))


def paired_gain(before: NDArray[np.float64], after: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Mean of `after - before` over pairs, a 95 % interval, and the one-sided bootstrap p-value of no gain."""
    gaps = after - before
    drawn = gaps[np.random.default_rng(seed).integers(0, len(gaps), (RESAMPLES, len(gaps)))].mean(1)
    low, high = (float(one) for one in np.quantile(drawn, [0.025, 0.975]))
    p_value = float((np.sum(drawn <= 0) + 1) / (RESAMPLES + 1))
    return Interval(float(gaps.mean()), low, high, p_value, 0.95, len(gaps))


def _shares(means: Any) -> Any:
    position, content = means[..., 0], means[..., 1]
    return position / np.maximum(position + content, 1e-12)
