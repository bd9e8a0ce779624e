"""How well verdicts agree: accuracy, Cohen's and Fleiss' kappa, rank correlation, with bootstrap intervals over items.

Categories are any hashable values (`first`, `second`, `tie`). NumPy only; every result is deterministic by its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coalign.measures.statistics import Interval, percentile_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 2000


def accuracy(verdicts: Sequence[Hashable | None], labels: Sequence[Hashable], **bootstrap: Any) -> Interval:
    """Share of items whose verdict is the label; an item without a verdict (None) counts as wrong.

    Args:
        verdicts, labels: one an item.
        bootstrap: see `bootstrap_statistic`.

    Raises:
        ValueError: different lengths, or no item.
    """
    _check_pairs(verdicts, labels)
    hits = np.array([one == other for one, other in zip(verdicts, labels, strict=True)], dtype=np.float64)
    return bootstrap_statistic(lambda weights: weights @ hits / weights.sum(-1), len(hits), **bootstrap)


def cohen_kappa(
    first: Sequence[Hashable | None], second: Sequence[Hashable | None], **bootstrap: Any
) -> Interval:
    """Cohen's kappa (1960): (p_o - p_e) / (1 - p_e), the agreement of two raters beyond chance.

    p_o is the share of items on which they agree, p_e the same for raters who keep their own shares of categories but
    rate at random. 1 where both always agree, also when they use one category only; None counts as a category of its
    own that agrees with nothing but itself.

    Raises:
        ValueError: different lengths, or no item.
    """
    _check_pairs(first, second)
    names = {one: place for place, one in enumerate(dict.fromkeys([*first, *second]))}
    size = len(names)
    cells = np.zeros((len(first), size * size))
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        cells[row, names[one] * size + names[other]] = 1

    def kappa(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        table = (weights @ cells).reshape(*weights.shape[:-1], size, size)
        table = table / table.sum((-2, -1), keepdims=True)
        observed = np.trace(table, axis1=-2, axis2=-1)
        expected = (table.sum(-1) * table.sum(-2)).sum(-1)
        return _beyond_chance(observed, expected)

    return bootstrap_statistic(kappa, len(first), **bootstrap)


def fleiss_kappa(ratings: Sequence[Sequence[Hashable]], **bootstrap: Any) -> Interval:
    """Fleiss' kappa (1971): the agreement beyond chance of several raters an item.

    (P - P_e) / (1 - P_e); P is the mean over items of the share of agreeing pairs of raters, P_e the sum of squared
    shares of the categories over all ratings. Items may have different numbers of raters; those with fewer than two
    say nothing of agreement and are left out.

    Args:
        ratings: for each item what its raters said.

    Raises:
        ValueError: no item has two ratings.
    """
    rated = [row for row in ratings if len(row) > 1]
    if not rated:
        raise ValueError("no item has two ratings, expected at least one")
    names = {one: place for place, one in enumerate(dict.fromkeys(each for row in rated for each in row))}
    counts = np.zeros((len(rated), len(names)))
    for place, row in enumerate(rated):
        for one in row:
            counts[place, names[one]] += 1
    raters = counts.sum(1)
    pairs = ((counts**2).sum(1) - raters) / (raters * (raters - 1))

    def kappa(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = weights @ counts
        shares = shares / shares.sum(-1, keepdims=True)
        return _beyond_chance(weights @ pairs / weights.sum(-1), (shares**2).sum(-1))

    return bootstrap_statistic(kappa, len(rated), **bootstrap)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values sharing the mean of their ranks; NaN where one side is constant.

    Raises:
        ValueError: different lengths, fewer than two values, or a value that is not finite.
    """
    ranks = [midranks(np.asarray(one, dtype=np.float64)) for one in (first, second)]
    if len(ranks[0]) != len(ranks[1]) or len(ranks[0]) < 2:
        raise ValueError(f"{len(ranks[0])} and {len(ranks[1])} values, expected the same number, at least 2")
    return float(rank_correlations(ranks[0][None], ranks[1])[0])


def kendall_tau(
    first: Sequence[float], second: Sequence[float], *, ties: Literal["zero", "order"] = "zero"
) -> float:
    """Kendall's rank correlation: pairs of items in the same order less those in opposite order, over all pairs (tau-a).

    Args:
        ties: what a pair says that is equal on a side: nothing (`zero`), or that the earlier item is the lower one
            (`order`, ordinal ranks by position).

    Raises:
        ValueError: different lengths, fewer than two values, or a value that is not finite.
    """
    sides = [np.asarray(one, dtype=np.float64) for one in (first, second)]
    if len(sides[0]) != len(sides[1]) or len(sides[0]) < 2:
        raise ValueError(f"{len(sides[0])} and {len(sides[1])} values, expected the same number, at least 2")
    if not all(np.isfinite(one).all() for one in sides):
        raise ValueError("a value is not finite, expected finite numbers")
    if ties == "order":
        sides = [one.argsort(kind="stable").argsort() for one in sides]
    earlier, later = np.triu_indices(len(sides[0]), k=1)
    signs = [np.sign(one[later] - one[earlier]) for one in sides]
    return float((signs[0] * signs[1]).mean())


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., n] values to ranks 1..n along the last axis; equal values share the mean of their ranks.

    Raises:
        ValueError: a value that is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite, expected finite numbers")
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return below + (equal + 1) / 2


def rank_correlations(ranks: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """[trials, n] ranks against [n] ranks: [trials] Pearson correlations; NaN where one side is constant."""
    a = ranks - ranks.mean(-1, keepdims=True)
    b = truth - truth.mean()
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a @ b) / scale


def bootstrap_statistic(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    items: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """A statistic of items with its percentile bootstrap interval over items.

    Args:
        statistic: [..., items] weights (how often each item was drawn) to [...] values.
        items: how many there are.
        resamples: draws; values that are not finite are left out of the interval.

    Returns:
        The interval without a p-value; one item gives infinite ends.

    Raises:
        ValueError: no item.
    """
    if items < 1:
        raise ValueError("there are no items, expected at least one")
    value = float(statistic(np.ones(items)))
    rng = np.random.default_rng(seed)
    rows = max(1, 2_000_000 // items)
    shares = np.full(items, 1 / items)
    found = [
        statistic(rng.multinomial(items, shares, size=min(rows, resamples - start)).astype(np.float64))
        for start in range(0, resamples, rows)
    ]
    values = np.concatenate(found)
    return percentile_interval(value, values[np.isfinite(values)], items, confidence=confidence)


def _beyond_chance(observed: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """(o - e) / (1 - e); 1 where chance alone always agrees and so did the raters."""
    room = 1 - expected
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(room > 1e-12, (observed - expected) / np.where(room > 1e-12, room, 1), 1.0)


def _check_pairs(first: Sequence[Any], second: Sequence[Any]) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} verdicts for {len(second)} labels, expected as many")
    if not first:
        raise ValueError("there are no items, expected at least one")
