"""Intervals for before/after comparisons: bootstrap and Wilson. NumPy only; every result is deterministic by its seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Resampled values held at once: 8 MB of indices.
_CHUNK = 1_000_000
MOST_RESAMPLED = 100_000
"""Items above which intervals are those that resampling tends to: drawing a million ten thousand times takes minutes."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        mean: the estimate (a mean, a mean difference or a proportion).
        low: lower end; -inf where one value says nothing of the spread.
        high: upper end; inf likewise.
        p_value: two-sided, against an estimate of 0; None where no test belongs to the interval.
        confidence: nominal coverage, 0.95 for a 95 % interval.
        n: number of values or pairs.
    """

    mean: float
    low: float
    high: float
    p_value: float | None
    confidence: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite end becomes None."""
        return {
            name: None if isinstance(value, float) and math.isinf(value) else value
            for name, value in asdict(self).items()
        }


def paired_bootstrap(
    before: Sequence[float] | NDArray[Any],
    after: Sequence[float] | NDArray[Any],
    *,
    n: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Mean of `after - before` with a percentile bootstrap interval over pairs.

    Pairs are drawn with replacement, so the dependence within a pair is kept. The unit of a pair must be what was
    sampled independently: one value a prompt, the mean over its responses where there are several.

    The p-value is two-sided against a mean difference of 0: 2 min(P(m* <= 0), P(m* >= 0)) over the resampled means
    m*, each count plus one over n + 1 (Davison & Hinkley 1997, chapter 4), at most 1. It is never below
    2^(1 - pairs), the least that any exact paired sign-flip test can give, so that two or three equal differences do
    not look like proof. Percentile intervals are somewhat too narrow below about 20 pairs.

    Above 100,000 pairs nothing is drawn: the interval and the p-value, never below 2 / (n + 1), are those of the normal
    distribution that the resampled means then have.

    Args:
        before: [pairs] values of the first condition.
        after: [pairs] values of the second, in the same order.
        n: bootstrap resamples.
        seed: of the resampling.
        confidence: nominal coverage, between 0 and 1.

    Returns:
        The interval. One pair gives infinite ends and a p-value of 1.

    Raises:
        ValueError: different lengths, no pair, a value that is not finite, or n or confidence out of range.
    """
    first, second = _checked(before, "before"), _checked(after, "after")
    if len(first) != len(second):
        raise ValueError(f"before has {len(first)} values and after {len(second)}, expected pairs")
    return bootstrap_mean(second - first, n=n, seed=seed, confidence=confidence)


def bootstrap_mean(
    values: Sequence[float] | NDArray[Any], *, n: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Mean with a percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13) and a p-value against 0.

    Arguments, p-value, the cases of one and of many values and errors are those of `paired_bootstrap`.
    """
    data = _checked(values, "values")
    return bootstrap_ratio(data, np.ones_like(data), n=n, seed=seed, confidence=confidence)


def bootstrap_ratio(
    totals: Sequence[float] | NDArray[Any],
    counts: Sequence[float] | NDArray[Any],
    *,
    n: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """`sum(totals) / sum(counts)` with a percentile bootstrap interval over items: a mean per token, say, where an item is
    a text with the sum over its tokens and their number. With counts of 1 it is the mean.

    Args:
        totals: [items] sums.
        counts: [items] what they are divided by, each above 0.

    Other arguments, p-value, the cases of one and of many items and errors are those of `paired_bootstrap`.
    """
    data, sizes = _checked(totals, "totals"), _checked(counts, "counts")
    if len(data) != len(sizes) or sizes.min() <= 0:
        raise ValueError("expected as many counts as totals, each above 0")
    _check_confidence(confidence)
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1 resample")
    mean = float(data.sum() / sizes.sum())
    if len(data) == 1:
        return Interval(mean, -math.inf, math.inf, 1.0, confidence, 1)
    if len(data) > MOST_RESAMPLED:
        return _normal_ratio(mean, data, sizes, n, confidence)
    means = np.concatenate(list(_resampled_ratios(data, sizes, n, np.random.default_rng(seed))))
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p_value = min(1.0, max(2 * (tail + 1) / (n + 1), 2.0 ** (1 - len(data))))
    return percentile_interval(mean, means, len(data), confidence=confidence, p_value=p_value)


def wilson_interval(successes: float, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927); stays within [0, 1] and is sound at 0 and n successes.

    Raises:
        ValueError: n below 1, successes outside 0..n, or confidence out of range.
    """
    _check_confidence(confidence)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}, expected 0 <= successes <= n and n >= 1")
    share = successes / n
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(share, low, high, None, confidence, n)


def percentile_interval(
    estimate: float,
    draws: Sequence[float] | NDArray[Any],
    n: int,
    *,
    confidence: float = 0.95,
    p_value: float | None = None,
) -> Interval:
    """The percentile bootstrap interval of an estimate; infinite ends without a draw, and of one item alone.

    Args:
        draws: the estimate from each resample.
        n: items that were drawn from.
    """
    if not len(draws) or n == 1:
        return Interval(estimate, -math.inf, math.inf, p_value, confidence, n)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    # Rounding in the draws may put the ends of a constant sample beside its estimate.
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate), p_value, confidence, n)


def mcnemar(won: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test: how often one side alone was right, and the other.

    1 where the two never differ.

    Raises:
        ValueError: a negative count.
    """
    return min(1.0, 2 * sign_test(max(won, lost), min(won, lost)))


def sign_test(higher: int, lower: int) -> float:
    """One-sided p-value of as many or more `higher` if both were equally likely; equal pairs are left out.

    1 where there are none.

    Raises:
        ValueError: a negative count.
    """
    if higher < 0 or lower < 0:
        raise ValueError(f"counts are {higher} and {lower}, expected none below 0")
    n = higher + lower
    return sum(math.comb(n, k) for k in range(lower + 1)) / 2**n


def _normal_ratio(
    mean: float, data: NDArray[np.float64], sizes: NDArray[np.float64], n: int, confidence: float
) -> Interval:
    """By the standard deviation of resampled ratios to first order (Davison & Hinkley 1997, section 2.7)."""
    deviation = math.sqrt(float(np.square(data - mean * sizes).sum())) / float(sizes.sum())
    half = NormalDist().inv_cdf((1 + confidence) / 2) * deviation
    p_value = 2 * NormalDist().cdf(-abs(mean) / deviation) if deviation else float(mean == 0)
    return Interval(mean, mean - half, mean + half, max(p_value, 2 / (n + 1)), confidence, len(data))


def _resampled_ratios(
    data: NDArray[np.float64], sizes: NDArray[np.float64], n: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    rows = max(1, _CHUNK // len(data))
    varied = bool(np.ptp(sizes))
    for start in range(0, n, rows):
        drawn = rng.integers(0, len(data), size=(min(rows, n - start), len(data)))
        yield data[drawn].sum(axis=1) / (sizes[drawn].sum(axis=1) if varied else sizes[0] * len(data))


def _checked(values: Sequence[float] | NDArray[Any], name: str) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not data.size:
        raise ValueError(f"{name} has the shape {data.shape}, expected a list of one or more numbers")
    if not np.isfinite(data).all():
        bad = int(np.flatnonzero(~np.isfinite(data))[0])
        raise ValueError(f"{name}[{bad}] is {data[bad]}, expected finite numbers")
    return data


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1, both excluded")
