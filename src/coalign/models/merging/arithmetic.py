"""Weights of several models in one: mean, task arithmetic, Model Stock. Pure functions of one tensor of each.

Everything is computed in the type of what is given: pass float32 or float64, since differences of fine-tuned weights
vanish in bfloat16.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_NORMS = 1e-6
"""Least product of two norms in a cosine, as mergekit has it: weights that did not move have no direction."""


class Stock(NamedTuple):
    """What Model Stock makes of one tensor.

    Attributes:
        weights: the merged tensor.
        cosine: mean of cos(W_i - W_0, W_j - W_0) over all pairs i < j, clamped to [-1, 1].
        share: t, how much of the mean of the models is taken; 1 - t of the base.
    """

    weights: Tensor
    cosine: float
    share: float


def linear(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean sum w_i W_i / sum w_i of tensors of one shape.

    Raises:
        ValueError: the weights sum to zero.
    """
    total = sum(weights)
    if total == 0:
        raise ValueError("weights sum to 0")
    return _weighted_sum(models, weights) / total


def task_arithmetic(base: Tensor, models: Sequence[Tensor], weights: Sequence[float], scale: float) -> Tensor:
    """W_0 + scale * sum w_i (W_i - W_0) (Ilharco et al., arXiv 2212.04089, with a weight for each task)."""
    return base + scale * _weighted_sum([one - base for one in models], weights)


def model_stock(base: Tensor, models: Sequence[Tensor]) -> Stock:
    """Model Stock (arXiv 2403.19522): as far from the base as the angle between the models says.

    c is the mean cosine between the models' differences from the base, t = N c / (1 + (N - 1) c), and
    W = t mean(W_i) + (1 - t) W_0. Models that moved alike (c = 1) give their mean, models that moved at right angles
    give the base.

    Args:
        models: at least two.
    """
    moved = [(one - base).flatten() for one in models]
    cosines = [_cosine(one, other) for one, other in itertools.combinations(moved, 2)]
    cosine = sum(cosines) / len(cosines)
    count = len(models)
    spread = 1 + (count - 1) * cosine
    # Opposed models (c = -1 / (N - 1)) have no such point: their mean is the base already.
    share = count * cosine / spread if abs(spread) > _LEAST_NORMS else 0.0
    mean = _weighted_sum(models, [1.0] * count) / count
    return Stock(share * mean + (1 - share) * base, cosine, share)


def _weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = torch.zeros_like(tensors[0])
    for one, weight in zip(tensors, weights, strict=True):
        total.add_(one, alpha=weight)
    return total


def _cosine(one: Tensor, other: Tensor) -> float:
    norms = (one.norm() * other.norm()).clamp(min=_LEAST_NORMS)
    return float((one @ other / norms).clamp(-1.0, 1.0))
