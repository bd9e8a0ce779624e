"""Win rates of a policy over its base when both are decoded as they will be: one sample, the best of N or the worst of N.

Exact: from the probabilities of all responses (`win_rates`), from the density over the base's quantiles (`quantile_win_rates`), and
unbiased from samples (`sampled_win_rates`). Also the policies that a KL-regularised reward leads to (`tilted`,
`optimal_transform`). NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = "NDArray[np.float64]"
Procedure = Literal["best_of_n", "worst_of_n"]
Decision: TypeAlias = "Callable[[Array, int], Array]"


@dataclass(frozen=True)
class WinRates:
    """How often a policy's decision beats the base's, ties counting half.

    Attributes:
        kl: KL(policy || base) in nats.
        standard: one sample against one sample.
        best_of_n: best of N against best of N.
        worst_of_n: worst of N against worst of N.
    """

    kl: float
    standard: float
    best_of_n: float
    worst_of_n: float


def tilted(base: ArrayLike, utilities: ArrayLike, strength: float) -> tuple[Array, float]:
    """`pi ∝ base exp(u / strength)`, the optimum of `E_pi[u] - strength KL(pi || base)`, and that KL in nats.

    Args:
        base: [Y] probabilities, sum 1.
        utilities: [Y] finite.
        strength: above 0.
    """
    probabilities, values = np.asarray(base, np.float64), np.asarray(utilities, np.float64) / strength
    weights = probabilities * np.exp(values - values[probabilities > 0].max())
    policy = weights / weights.sum()
    return policy, kl_divergence(policy, probabilities)


def kl_divergence(policy: ArrayLike, base: ArrayLike) -> float:
    """KL(policy || base) in nats; infinite where the policy gives what the base never does."""
    p, q = np.asarray(policy, np.float64), np.asarray(base, np.float64)
    given = p > 0
    if (q[given] <= 0).any():
        return math.inf
    # Never below 0, whatever rounding says of two equal distributions.
    return max(0.0, float((p[given] * np.log(p[given] / q[given])).sum()))


def win_rates(policy: ArrayLike, base: ArrayLike, rewards: ArrayLike, n: int) -> WinRates:
    """Of two distributions over the same responses (arXiv 2412.19792, inference-time win rate).

    Args:
        policy, base: [Y] probabilities, sum 1.
        rewards: [Y]; equal rewards tie.
        n: N, at least 1.
    """
    _, level = np.unique(np.asarray(rewards, np.float64), return_inverse=True)
    given = [np.asarray(one, np.float64) for one in (policy, base)]
    masses: list[Array] = [np.bincount(level, weights=one).astype(np.float64) for one in given]

    def rate(decide: Decision) -> float:
        mine, others = (decide(mass, n) for mass in masses)
        return float(mine @ (others.cumsum() - others / 2))

    return WinRates(
        kl_divergence(policy, base),
        rate(lambda mass, _: mass),
        rate(_best_of),
        rate(lambda mass, size: _best_of(mass[::-1], size)[::-1]),
    )


def sampled_win_rates(policy: ArrayLike, base: ArrayLike, n: int) -> tuple[float, float, float]:
    """Standard, best-of-N and worst-of-N win rate on one prompt, from rewards of samples.

    The average over all groups of N distinct samples of each side, in closed form: unbiased, and with less variance than groups
    that are cut once.

    Args:
        policy, base: [S], [S'] rewards of samples, at least N of each.

    Raises:
        ValueError: fewer than N samples, or a reward that is not finite.
    """
    mine, others = np.asarray(policy, np.float64), np.asarray(base, np.float64)
    for name, one in (("the policy", mine), ("the base", others)):
        if len(one) < n or not np.isfinite(one).all():
            raise ValueError(f"{len(one)} rewards of samples of {name}, expected at least {n}, finite ones")
    levels = np.unique(np.concatenate([mine, others]))
    counts = [np.bincount(np.searchsorted(levels, one), minlength=len(levels)) for one in (mine, others)]

    def rate(size: int, flip: bool) -> float:
        chances = [_best_of_drawn(one[::-1] if flip else one, size) for one in counts]
        a, b = (one[::-1] if flip else one for one in chances)
        return float(a @ (b.cumsum() - b / 2))

    return rate(1, False), rate(n, False), rate(n, True)


def quantile_win_rates(density: Array, n: int) -> WinRates:
    """Of a policy that gives the base's quantile u in [0, 1] the density f(u), for rewards without ties (arXiv 2412.19792).

    KL = ∫ f ln f; W_1 = 1 - ∫ F; best of N 1 - N ∫ F^N u^(N-1); worst of N N ∫ (1 - u)^(N-1) (1 - F)^N.

    Args:
        density: [G] f at the middles of G equal cells; its mean is 1. The error falls with G².
        n: N, at least 1.
    """
    f = np.asarray(density, np.float64)
    u, cumulated = _middles(len(f)), _cumulated(f)
    logs = np.log(np.where(f > 0, f, 1.0))
    return WinRates(
        max(0.0, float((f * logs).mean())),
        1 - float(cumulated.mean()),
        1 - n * float((cumulated**n * u ** (n - 1)).mean()),
        n * float(((1 - u) ** (n - 1) * (1 - cumulated) ** n).mean()),
    )


def tilted_density(transform: Array, strength: float) -> Array:
    """[G] `exp(Phi(u) / strength)` over its mean: the policy's density over base quantiles where the reward is Phi of the
    calibrated reward.

    Args:
        transform: [G] Phi at the middles of G equal cells of [0, 1].
    """
    values = np.asarray(transform, np.float64) / strength
    weights = np.exp(values - values.max())
    return weights / weights.mean()


def optimal_transform(
    n: int,
    strength: float,
    procedure: Procedure,
    *,
    cells: int = 2000,
    tolerance: float = 1e-10,
    iterations: int = 20_000,
) -> tuple[Array, Array]:
    """The transform Phi whose optimal policy wins most under best-of-N (worst-of-N) at its KL strength, and that policy's density.

    Stationarity of W_T - strength KL with W_T as in `quantile_win_rates`: best of N `Phi(u) = -N² ∫_u^1 F^(N-1) v^(N-1) dv`, worst of N
    `Phi(u) = -N² ∫_u^1 (1 - F)^(N-1) (1 - v)^(N-1) dv`, with `f ∝ exp(Phi / strength)`: derived from the main theorem of arXiv
    2412.19792, where reward and policy depend on each other. Solved by iteration with damping (f takes a tenth of its new value);
    small strengths oscillate without it. With N = 1, Phi(u) = u - 1.

    Args:
        n: N, at least 1.
        strength: the KL coefficient, on the scale of a win rate.
        cells: G, cells of [0, 1].
        tolerance: largest change of the density, relative to its largest value, at which the iteration ends.
        iterations: most of them.

    Returns:
        [G] Phi and [G] f at the middles of the cells.

    Raises:
        ValueError: the iteration does not settle.
    """
    u, density = _middles(cells), np.ones(cells)
    for _ in range(iterations):
        cumulated = _cumulated(density)
        rate = cumulated * u if procedure == "best_of_n" else (1 - cumulated) * (1 - u)
        inner = n**2 * rate ** (n - 1) / cells
        # The integral from the middle of each cell to 1.
        transform = -(inner[::-1].cumsum()[::-1] - inner / 2)
        found = tilted_density(transform, strength)
        change = float(np.abs(found - density).max())
        density = 0.9 * density + 0.1 * found
        if change < tolerance * max(1.0, float(found.max())):
            return transform, found
    raise ValueError(
        f"no fixed point is reached in {iterations} iterations with n {n} and strength {strength:g}, expected a larger strength"
    )


def _best_of(mass: Array, n: int) -> Array:
    """[V] the distribution of the best of n independent draws; levels in rising order."""
    below = np.concatenate([[0.0], mass.cumsum()])
    below = below / below[-1]
    return np.diff(below**n)


def _best_of_drawn(counts: NDArray[np.int64], n: int) -> Array:
    """[V] the same for n draws without replacement from so many samples of each level."""
    total = math.comb(int(counts.sum()), n)
    below = [math.comb(int(one), n) / total for one in [0, *counts.cumsum()]]
    return np.diff(np.array(below))


def _middles(cells: int) -> Array:
    return (np.arange(cells) + 0.5) / cells


def _cumulated(density: Array) -> Array:
    """[G] F at the middles of the cells."""
    return (density.cumsum() - density / 2) / len(density)
