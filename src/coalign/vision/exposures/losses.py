"""Losses of video of high dynamic range, on tone-mapped pictures [B, 3, H, W]: a mean over each picture, in float32 or wider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6
"""Of the Charbonnier distance, squared under the root. Source: the official code."""


def frequency_losses(found: Tensor, target: Tensor) -> Tensor:
    """[B]: the mean modulus of the difference of the 2-D Fourier transforms, not normalised, so that it grows with the
    root of the pixels: its weight belongs to a size of the crops.
    """
    difference = found - target
    return (
        torch.fft.fft2(difference.to(torch.promote_types(difference.dtype, torch.float32)))
        .abs()
        .flatten(1)
        .mean(1)
    )


def temporal_losses(found: Tensor, later: Tensor, target: Tensor, later_target: Tensor) -> Tensor:
    """[B]: `mean sqrt(((T^_t - T^_t+1) - (T_t - T_t+1))^2 + 1e-12)` over two windows of a clip; gradients reach both."""
    difference = (found - later) - (target - later_target)
    return (difference**2 + EPSILON**2).sqrt().flatten(1).mean(1)
