"""Consistency under another style: views of a picture inside a network, elementwise layers, agreement of gradients.

The numeric parts of test-time adaptation for domain generalisation. Maps are [B, C, H, W], or [B, N, C] tokens of a
transformer; a style is mean and deviation of each channel over a picture's cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6
"""Added to variances. Source: MixStyle, official code."""


class Style(NamedTuple):
    """Mean and deviation of every channel, [B, C] each."""

    mean: Tensor
    deviation: Tensor

    def take(self, rows: Sequence[int] | Tensor) -> Style:
        return Style(self.mean[rows], self.deviation[rows])


def style_of(maps: Tensor, *, eps: float = EPS) -> Style:
    """The style of each map, without gradient: mean over the cells, and sqrt(variance + eps) with n - 1 below.

    Args:
        maps: [B, C, H, W] or [B, N, C], of two cells or more.

    Raises:
        ValueError: maps of one cell have no deviation.
    """
    maps = maps.detach()
    cells = (2, 3) if maps.ndim == 4 else (1,)
    if maps.numel() // (maps.shape[0] * maps.shape[1 if maps.ndim == 4 else 2]) < 2:
        raise ValueError(f"a map of shape {list(maps.shape[1:])} has one cell, expected two or more")
    return Style(maps.mean(cells), (maps.var(cells, unbiased=True) + eps).sqrt())


def mix_styles(maps: Tensor, others: Style, shares: Tensor, *, eps: float = EPS) -> Tensor:
    """The maps in a style between their own and another's (MixStyle, arXiv 2104.02008).

    `(x - mu) / sigma * (l sigma + (1 - l) sigma') + l mu + (1 - l) mu'`. No gradient goes through a style.

    Args:
        maps: [B, C, H, W] or [B, N, C].
        others: of B pictures.
        shares: [B] l, the share of a map's own style.
    """
    own = style_of(maps, eps=eps)
    share = shares.to(maps.dtype)[:, None]
    mean = share * own.mean + (1 - share) * others.mean
    deviation = share * own.deviation + (1 - share) * others.deviation

    def spread(values: Tensor) -> Tensor:
        return values[:, :, None, None] if maps.ndim == 4 else values[:, None]

    return (maps - spread(own.mean)) / spread(own.deviation) * spread(deviation) + spread(mean)


def elementwise(values: Tensor, weights: Tensor, biases: Tensor, *, rectified: bool = True) -> Tensor:
    """`x <- w_k * x + b_k`, layer by layer, each entry for itself, with a ReLU after every layer but the last.

    Args:
        values: [B, ...].
        weights, biases: [layers, ...], of the shape of one value.
        rectified: whether there are ReLUs. With weights 1 and biases 0 the layers change nothing without them; with them
            they are one ReLU.
    """
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True), start=1):
        values = weight * values + bias
        if rectified and layer < len(weights):
            values = torch.relu(values)  # not in place: second derivatives need what came before
    return values


def consistency_losses(features: Tensor, mixed: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """[B] means over the features of `f_w(z' - z)^2` (paper, equation 3).

    Args:
        features, mixed: [B, D] of the pictures and of their views in another style; gradients go through both.
        weights, biases: [layers, D] of the elementwise layers f_w; no layers: the difference as it is.
    """
    return elementwise(mixed - features, weights, biases).square().mean(-1)


def alignment_penalty(
    regularised: Sequence[Tensor], main: Sequence[Tensor], *, weight: float = 0.1
) -> Tensor:
    """How far two gradients of the same parameters point apart: weight times the mean square of the difference of their
    standardised entries, about `2 weight (1 - correlation)`.

    Each gradient is flattened over all parameters and standardised by its mean and deviation (n - 1 below), which count as
    constants. A gradient that is constant has only zeros.

    Args:
        regularised: of the consistency loss; the penalty's gradient goes through these.
        main: of the classification loss, in the same order; detached.

    Source: official code (`l2_between_dicts`); the paper writes a norm (equation 6).
    """

    def standardised(gradients: Sequence[Tensor]) -> Tensor:
        flat = torch.cat([one.reshape(-1) for one in gradients])
        with torch.no_grad():
            mean = flat.mean()
            deviation = flat.std().clamp(min=torch.finfo(flat.dtype).tiny)
        return (flat - mean) / deviation

    difference = standardised(regularised) - standardised([one.detach() for one in main])
    return weight * difference.square().mean()
