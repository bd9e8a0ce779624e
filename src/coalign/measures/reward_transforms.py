"""Rewards put on a scale that means the same for every prompt: by a reference value, or by their place among base samples.

A reward model's number says little by itself: it is known up to a shift that differs from prompt to prompt. What it is
compared with here are rewards of responses that the *base* model, the one that training starts from, gives to the same
prompt. NumPy only; nothing carries a gradient.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = "NDArray[np.float64]"
QuantileMethod = Literal["gaussian", "empirical"]
Deviation = Literal["population", "sample"]


def log_sigmoid_centred(rewards: ArrayLike, references: ArrayLike) -> Array:
    """`log sigmoid(r - r_ref)`: the log-probability that a response is better than the reference (arXiv 2402.00742, section 3).

    At most 0, and about `r - r_ref` far below the reference. It never underflows: far below it stays finite.

    Args:
        rewards, references: [...], of shapes that broadcast. NaN stays NaN.
    """
    with np.errstate(invalid="ignore"):  # of NaN
        return -np.logaddexp(0.0, np.asarray(references, np.float64) - np.asarray(rewards, np.float64))


def log_sigmoid_slope(rewards: ArrayLike, references: ArrayLike) -> Array:
    """[...] `sigmoid(r_ref - r)`, the derivative of `log_sigmoid_centred` by the reward: 1 far below the reference, 0 far above."""
    return np.exp(log_sigmoid_centred(references, rewards))


def joint_log_sigmoid(rewards: Array, references: Array, weights: ArrayLike | None = None) -> Array:
    """`sum_k w_k log sigmoid(r_k - r_k^ref)`: the log-probability that a response is good in all properties, which are
    independent given the response (arXiv 2402.00742, section 4). A weight is an exponent of its property's probability.

    Args:
        rewards, references: [..., K].
        weights: [K]; 1 each by default.

    Returns:
        [...]; its exponential is a probability.
    """
    utilities = log_sigmoid_centred(rewards, references)
    return utilities.sum(-1) if weights is None else utilities @ np.asarray(weights, np.float64)


def reference_quantile(
    samples: ArrayLike,
    q: float,
    *,
    method: QuantileMethod = "gaussian",
    deviation: Deviation = "population",
) -> Array:
    """The reward that a share `q` of base samples does not reach.

    Args:
        samples: [..., K] rewards of base samples, at least one.
        q: between 0 and 1, both excluded.
        method: `gaussian`: mean + z_q standard deviations, steadier with few samples; `empirical`: linear between order
            statistics.
        deviation: divisor K (`population`) or K - 1 (`sample`) under the Gaussian; one sample deviates by 0.

    Raises:
        ValueError: q out of range, no sample, or a sample that is not finite.
    """
    values = np.asarray(samples, np.float64)
    if not 0 < q < 1:
        raise ValueError(f"q is {q}, expected a number between 0 and 1, both excluded")
    _check_samples(values)
    if method == "empirical":
        return np.quantile(values, q, axis=-1)
    spread = values.std(-1, ddof=int(deviation == "sample" and values.shape[-1] > 1))
    return values.mean(-1) + NormalDist().inv_cdf(q) * spread


def calibrated(rewards: ArrayLike, samples: ArrayLike) -> Array:
    """`E_z[1(r > r_z) + 1(r = r_z) / 2]`: the share of base samples that a reward beats, ties counting half (arXiv
    2412.19792, definition of the calibrated reward).

    Unchanged by any strictly increasing change of the reward. Of the samples themselves the mean is 1/2, a sample standing
    among those that it is compared with.

    Args:
        rewards: [...]; NaN stays NaN.
        samples: [..., K] rewards of base samples of the same prompts, at least one each.

    Returns:
        [...] in [0, 1].

    Raises:
        ValueError: no sample, or a sample that is not finite.
    """
    values, base = np.asarray(rewards, np.float64), np.asarray(samples, np.float64)
    _check_samples(base)
    wins = (values[..., None] > base) + 0.5 * (values[..., None] == base)
    return np.where(np.isnan(values), np.nan, wins.mean(-1))


def exponential(values: ArrayLike, t: float, *, normalise: bool = False) -> Array:
    """`sign(t) exp(t u)` (arXiv 2412.19792, section 4): t > 0 weighs the best quantiles, for best-of-n; t < 0 punishes the worst, for
    worst-of-n; t = 0 changes nothing.

    Args:
        values: [...] calibrated rewards.
        normalise: divide by the largest size that the transform has on [0, 1], so that one KL strength fits several t.
    """
    u = np.asarray(values, np.float64)
    if t == 0:
        return u
    largest = max(t, 0.0) if normalise else 0.0
    return np.sign(t) * np.exp(t * u - largest)


def _check_samples(values: Array) -> None:
    if not values.ndim or not values.shape[-1]:
        raise ValueError("there are no base samples, expected at least one a prompt")
    if not np.isfinite(values).all():
        raise ValueError("the reward of a base sample is not finite, expected finite numbers")
