"""Curves over the KL divergence from the base: what a policy reaches at which distance, by training or exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from coalign.checks.online import divergence, reinforced
from coalign.checks.tiny_models import TinyGRU, stream
from coalign.checks.worlds.rewarded.tokens import LENGTH, TokenWorld
from coalign.core.errors import CoalignError
from coalign.measures.win_rates import tilted

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Array: TypeAlias = "NDArray[np.float64]"
Point = dict[str, float]
"""`kl` and what was measured there."""
LEARNING_RATE = 3e-3


def trained_curve(
    world: TokenWorld,
    utility: Callable[[Tensor], Tensor],
    strengths: Sequence[float],
    measure: Callable[[TinyGRU], Point],
    *,
    steps: int,
    further: int | None = None,
    n: int = 8,
    samples: int = 128,
) -> list[Point]:
    """A point for each KL strength: RLOO from the base on one utility, measured on fresh samples.

    Args:
        utility: [P, n, T] responses to [P, n] what they are worth.
        further: a strength goes on with the policy of the one before it for so many steps; None: each begins at the base.
        n: samples of a prompt in a step.
        samples: of a prompt, from which the KL divergence is estimated.
    """
    points: list[Point] = []
    policy = world.base
    for number, strength in enumerate(strengths):
        goes_on = bool(number and further is not None)
        policy = reinforced(
            policy if goes_on else world.base,
            world.base,
            world.prompts,
            utility,
            stream(world.seed, f"policy {number}" if goes_on else "policy"),
            strength=strength,
            n=n,
            length=LENGTH,
            steps=further if goes_on and further is not None else steps,
            learning_rate=LEARNING_RATE,
        )
        kl = divergence(policy, world.base, world.sample(policy, samples, "divergence"))
        points.append({"kl": kl, **measure(policy)})
    return points


def mean_divergence(utilities: Array, strength: float) -> float:
    """Mean KL over prompts of the exact tilt of equally likely responses with utilities [P, S]."""
    uniform = np.full(utilities.shape[1], 1 / utilities.shape[1])
    return float(np.mean([tilted(uniform, row, strength)[1] for row in utilities]))


def strength_for(utilities: Array, kl: float) -> float:
    """The KL strength at which the exact tilt of equally likely responses lies at this mean KL.

    Args:
        utilities: [P, S] of base samples.
    """
    low, high = 1e-6, 1e6
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if mean_divergence(utilities, middle) > kl else (low, middle)
    return high


def exact_policies(utilities: Array, kl: float) -> Array:
    """[P, S] probabilities of the exact tilt at this mean KL over equally likely responses."""
    strength = strength_for(utilities, kl)
    uniform = np.full(utilities.shape[1], 1 / utilities.shape[1])
    return np.stack([tilted(uniform, row, strength)[0] for row in utilities])


def at_divergences(
    points: Sequence[Mapping[str, float]], name: str, grid: Sequence[float], start: float
) -> Array:
    """A measure read off at KL divergences, linear between points.

    Args:
        start: of the base, at divergence 0.

    Raises:
        CoalignError: the points do not reach the largest divergence.
    """
    found = sorted([(0.0, start), *((one["kl"], one[name]) for one in points)])
    if found[-1][0] < max(grid):
        raise CoalignError(
            f"The policies reach a KL divergence of {found[-1][0]:.2f}, and {name} is compared at {max(grid):g}."
        )
    places, values = zip(*found, strict=True)
    return np.interp(grid, places, values)
