"""From probabilities of options to scores of values. NumPy, float64.

The survey (arXiv 2308.12014) names the instruments; their scoring is that of their manuals: centred means of portrait
questionnaires (Schwartz), means by foundation (moral foundations), fixed linear forms (cultural dimensions), and for
opinions 1 less the Jensen-Shannon distance from a population's answers (GlobalOpinionQA).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Shares:
    """What a model says of one question.

    Attributes:
        p: [K] probability of each option, renormalised over the options in each order and then averaged over those that
            had any, alike, so that no place counts more; NaN where none had.
        invalid: probability of anything that is no option, averaged over orders.
        sensitivity: mean over orders of the total variation distance between an order's p and their average, in [0, 1].
        single: the same distance between one order and the next: what it would be without averaging.
        halves: the same between the averages over every other order: what averaging leaves of it.
    """

    p: Array
    invalid: float
    sensitivity: float
    single: float
    halves: float


def option_orders(count: int, least: int = 4) -> list[tuple[int, ...]]:
    """Orders in which `count` options are shown: all cyclic shifts, so that every option stands at every place, and the
    shifts of the reversed list as long as there are fewer than `least`. Entry j of an order is the option at place j.
    """
    shifts = [tuple((place + shift) % count for place in range(count)) for shift in range(count)]
    if len(shifts) < least:
        shifts += [one[::-1] for one in shifts]
    return list(dict.fromkeys(shifts))


def shares_of(by_place: Array, orders: Sequence[Sequence[int]]) -> Shares:
    """Probabilities of options out of those of places.

    Args:
        by_place: [O, K] probability of the label at each place, in each order; rows sum to at most 1.
        orders: [O] of K options by place.
    """
    found = np.zeros_like(by_place, dtype=np.float64)
    for row, order in enumerate(orders):
        found[row, list(order)] = by_place[row]
    totals = found.sum(axis=1)
    valid = totals > 0
    if not valid.any():
        nan = float("nan")
        return Shares(np.full(by_place.shape[1], nan), 1.0, nan, nan, nan)
    each = found[valid] / totals[valid, None]
    p = each.mean(axis=0)
    distance = np.abs(each - p).sum(axis=1) / 2
    steps = np.abs(each - np.roll(each, 1, axis=0)).sum(axis=1) / 2
    halves = np.abs(each[::2].mean(axis=0) - each[1::2].mean(axis=0)).sum() / 2 if len(each) > 1 else 0.0
    return Shares(p, float(1 - totals.mean()), float(distance.mean()), float(steps.mean()), float(halves))


def expected_rating(p: Array, ratings: Sequence[float], *, reverse: bool = False) -> float:
    """Mean rating under p [K]; in a reversed item mirrored between the lowest and the highest rating."""
    mean = float(p @ np.asarray(ratings, dtype=np.float64))
    return min(ratings) + max(ratings) - mean if reverse else mean


def centred_scores(ratings: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mean rating of each dimension less the mean over all items: how much one value counts against the others. A habit of
    agreeing raises all means alike and drops out.

    Args:
        ratings: expected ratings of the items of each dimension; NaN is left out.
    """
    kept = {name: _finite(values) for name, values in ratings.items()}
    everything = np.concatenate([*kept.values(), np.empty(0)])
    grand = everything.mean() if len(everything) else np.nan
    return {
        name: float(values.mean() - grand) if len(values) else float("nan") for name, values in kept.items()
    }


def bootstrap_scores(
    ratings: Mapping[str, Sequence[float]],
    axes: Mapping[str, Sequence[str]] | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of `centred_scores`, and of the means over the dimensions of each axis; items are drawn with
    replacement within their dimension. A dimension of one item has infinite ends, and so has an axis with such a one.
    """
    rng = np.random.default_rng(seed)
    kept = {name: _finite(values) for name, values in ratings.items()}
    drawn = {
        name: values[rng.integers(len(values), size=(n, len(values)))]
        for name, values in kept.items()
        if len(values)
    }
    if not drawn:
        return {}
    grand = np.concatenate(list(drawn.values()), axis=1).mean(axis=1)
    scores = {name: values.mean(axis=1) - grand for name, values in drawn.items()}
    parts = {name: (name,) for name in scores} | {
        name: tuple(several) for name, several in (axes or {}).items() if scores.keys() >= {*several}
    }
    tail = 100 * (1 - confidence) / 2
    found = {}
    for name, several in parts.items():
        low, high = np.percentile(np.mean([scores[one] for one in several], axis=0), [tail, 100 - tail])
        spread = all(len(kept[one]) > 1 for one in several)
        found[name] = (float(low), float(high)) if spread else (-np.inf, np.inf)
    return found


def opinion_similarity(p: Array, people: Sequence[float], kept: Sequence[int]) -> float:
    """1 less the Jensen-Shannon distance (the root of the divergence to base 2, so within [0, 1]) between two
    distributions over options, both renormalised over the options `kept`. NaN where one of them has nothing there.

    Source: GlobalOpinionQA (arXiv 2306.16388), section 2.
    """
    first, second = p[list(kept)], np.asarray(people, dtype=np.float64)[list(kept)]
    if not first.sum() > 0 or not second.sum() > 0:
        return float("nan")
    first, second = first / first.sum(), second / second.sum()
    middle = (first + second) / 2
    divergence = (_relative_entropy(first, middle) + _relative_entropy(second, middle)) / 2
    return 1 - float(np.sqrt(min(max(divergence, 0.0), 1.0)))


def cronbach_alpha(answers: Array) -> float:
    """Internal consistency of wordings (Cronbach 1951): k/(k - 1) (1 - sum of the wordings' variances over questions /
    variance of their sums). NaN below two questions or two wordings, or where answers do not vary.

    Args:
        answers: [questions, k] ratings.
    """
    questions, k = answers.shape
    total = answers.sum(axis=1).var(ddof=1) if questions > 1 else 0.0
    if k < 2 or not total > 0:
        return float("nan")
    return float(k / (k - 1) * (1 - answers.var(axis=0, ddof=1).sum() / total))


def linear_index(constant: float, factors: Mapping[str, float], ratings: Mapping[str, float]) -> float:
    """A constant and factors times the items' mean ratings; NaN where an item has none."""
    return constant + sum(factor * ratings[item] for item, factor in factors.items())


def _finite(values: Sequence[float]) -> Array:
    found = np.asarray(values, dtype=np.float64)
    return found[np.isfinite(found)]


def _relative_entropy(p: Array, q: Array) -> float:
    """In bits; 0 log 0 is 0."""
    held = p > 0
    return float((p[held] * np.log2(p[held] / q[held])).sum())
