"""Schedules of consistency training: how finely noise is discretised, which levels are drawn, how a teacher trails.

All in float64 and without torch. Levels are in ascending order and counted from 0: `sigmas[0]` is the smallest.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Levels = NDArray[np.float64]

Curriculum = Literal["doubling", "square-root", "constant"]
NoiseDistribution = Literal["lognormal", "uniform"]
Weighting = Literal["inverse-gap", "none"]


def doubling_levels(step: int, steps: int, first: int, last: int) -> int:
    """How many noise levels there are at a step: `first` + 1, doubled in equal stages up to `last` + 1.

    `N(k) = min(s0 2^floor(k / K'), s1) + 1`, `K' = floor(K / (log2 floor(s1 / s0) + 1))` (iCT, Table 1 and section 3.4).

    Args:
        step: k, from 0.
        steps: K, of the whole training.
        first, last: s0 and s1.
    """
    return min(first * 2 ** (step // stage_length(steps, first, last)), last) + 1


def stage_length(steps: int, first: int, last: int) -> int:
    """K': the steps between two doublings; at least one."""
    return max(math.floor(steps / (math.log2(last // first) + 1)), 1)


def square_root_levels(step: int, steps: int, first: int, last: int) -> int:
    """`N(k) = ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1` (consistency models, appendix C)."""
    grown = step / steps * ((last + 1) ** 2 - first**2) + first**2
    return math.ceil(math.sqrt(grown) - 1) + 1


def number_of_levels(curriculum: Curriculum, step: int, steps: int, first: int, last: int) -> int:
    """N at a step. `constant` has `last` + 1 levels from the beginning."""
    if curriculum == "constant":
        return last + 1
    rule = doubling_levels if curriculum == "doubling" else square_root_levels
    return max(rule(step, steps, first, last), 2)


def teacher_decay(levels: int, first: int, decay: float) -> float:
    """Decay of a teacher's moving average at N levels: `exp(s0 ln(mu0) / N)` (consistency models, appendix C).

    Args:
        decay: mu0, in [0, 1); 0 gives 0: the teacher is the student.
    """
    return math.exp(first * math.log(decay) / levels) if decay > 0 else 0.0


@dataclass(frozen=True)
class NoiseLevels:
    """The grid of noise levels at one stage of a training.

    Attributes:
        sigmas: [N] levels, ascending.
        probabilities: [N - 1] of the pair (sigmas[i], sigmas[i + 1]) to be drawn; they sum to 1.
        weights: [N - 1] of its loss.
    """

    sigmas: Levels
    probabilities: Levels
    weights: Levels

    def place(self, uniform: Levels) -> NDArray[np.int64]:
        """Indices of pairs for numbers that are uniform in [0, 1), by the inverse of the distribution."""
        found = np.searchsorted(np.cumsum(self.probabilities), uniform, side="right")
        return np.minimum(found, len(self.probabilities) - 1)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Which noise levels a training sees; the defaults are those of improved consistency training.

    Attributes:
        sigma_min, sigma_max: the ends of the grid.
        rho: how densely it lies at the small end (Karras et al. 2022).
        distribution: `lognormal` with `mean` and `deviation` of ln sigma, binned on the grid; or `uniform` over indices.
        weighting: `inverse-gap`, 1 / (sigmas[i + 1] - sigmas[i]); or none.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    distribution: NoiseDistribution = "lognormal"
    mean: float = -1.1
    deviation: float = 2.0
    weighting: Weighting = "inverse-gap"

    def assert_inside(self) -> None:
        """Refuse a lognormal distribution of which nothing lies between the ends of the grid.

        Raises:
            ValueError: the numbers are named.
        """
        ends = (self._place(self.sigma_min), self._place(self.sigma_max))
        if not _erf_between(*ends) > 0:
            raise ValueError(
                f"the noise distribution (noise_mean {self.mean:g}, noise_deviation {self.deviation:g} of ln sigma) lies "
                f"outside of the levels from {self.sigma_min:g} to {self.sigma_max:g}"
            )

    def _place(self, sigma: float) -> float:
        return (math.log(sigma) - self.mean) / (math.sqrt(2) * self.deviation)

    def levels(self, count: int) -> NoiseLevels:
        """The grid of `count` levels, at least 2. Everything is built anew for another number of levels."""
        return _levels(self, count)


@functools.lru_cache(maxsize=8)
def _levels(noise: Noise, count: int) -> NoiseLevels:
    sigmas = karras_sigmas(count, noise.sigma_min, noise.sigma_max, noise.rho)
    if noise.distribution == "uniform":
        probabilities = np.full(count - 1, 1 / (count - 1))
    else:
        probabilities = lognormal_bins(sigmas, noise.mean, noise.deviation)
    weights = 1 / np.diff(sigmas) if noise.weighting == "inverse-gap" else np.ones(count - 1)
    return NoiseLevels(sigmas, probabilities, weights)


def karras_sigmas(count: int, smallest: float, largest: float, rho: float) -> Levels:
    """[count] levels from `smallest` to `largest`, evenly spaced in sigma^(1 / rho) (Karras et al. 2022, equation 5)."""
    ramp = np.linspace(0, 1, count)
    low, high = smallest ** (1 / rho), largest ** (1 / rho)
    return (low + ramp * (high - low)) ** rho


def lognormal_bins(sigmas: Levels, mean: float, deviation: float) -> Levels:
    """[N - 1] mass of a lognormal distribution between neighbours of `sigmas` [N], made to sum to 1 (iCT, section 3.5).

    Some of the distribution must lie between the ends (`Noise.assert_inside`).
    """
    places = [(math.log(one) - mean) / (math.sqrt(2) * deviation) for one in sigmas]
    mass = np.array([_erf_between(low, high) for low, high in itertools.pairwise(places)])
    return mass / mass.sum()


def _erf_between(low: float, high: float) -> float:
    """erf(high) - erf(low), from the complement in the upper tail, where erf is 1 up to rounding."""
    if low > 0:
        return math.erfc(low) - math.erfc(high)
    if high < 0:
        return math.erfc(-high) - math.erfc(-low)
    return math.erf(high) - math.erf(low)
