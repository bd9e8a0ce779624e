"""What a camera makes of radiance, and back: gamma curves, exposures, luma, tone map, camera curves.

Pictures are [..., 3, H, W]; exposures are scalars or broadcast. Linear radiance is 1 where the darkest exposure (1) saturates.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

GAMMA = 2.2
MU = 5000.0
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue. Source: BT.601, as the official code."""
SMALLEST = 1e-8
"""Below it a root is taken of this number, where the root would have an infinite gradient."""


def to_radiance(ldr: Tensor, exposure: Tensor | float) -> Tensor:
    """`clamp(L, 0, 1)^2.2 / e`."""
    return ldr.clamp(0, 1) ** GAMMA / exposure


def to_ldr(radiance: Tensor, exposure: Tensor | float) -> Tensor:
    """`clamp((h e)^(1 / 2.2), 0, 1)` of radiance that is not negative."""
    return _root(radiance * exposure).clamp(0, 1)


def re_exposed(ldr: Tensor, before: Tensor | float, after: Tensor | float) -> Tensor:
    """A picture taken at exposure `before` as it would be at `after`: `clamp(clamp(L) (after / before)^(1 / 2.2))`. What
    was saturated stays at what a saturated value becomes.
    """
    return (ldr.clamp(0, 1) * (after / before) ** (1 / GAMMA)).clamp(0, 1)


def luma(rgb: Tensor) -> Tensor:
    """[..., 1, H, W]: `0.299 R + 0.587 G + 0.114 B`."""
    weights = rgb.new_tensor(LUMA)[:, None, None]
    return (rgb * weights).sum(-3, keepdim=True)


def tone_mapped(radiance: Tensor) -> Tensor:
    """`ln(1 + 5000 h) / ln 5001`; h is not negative."""
    return torch.log1p(MU * radiance) / math.log1p(MU)


def inverse_camera_curve(values: Tensor, n: float, sigma: float) -> Tensor:
    """`(sigma y / (1 + sigma - y))^(1 / n)`: linear values of what a camera's curve made y of."""
    return (sigma * values / (1 + sigma - values)) ** (1 / n)


def camera_curve(values: Tensor, n: float, sigma: float) -> Tensor:
    """`(1 + sigma) x^n / (x^n + sigma)`, which `inverse_camera_curve` undoes."""
    powered = values**n
    return (1 + sigma) * powered / (powered + sigma)


def quantised(values: Tensor, bits: int = 16) -> Tensor:
    """Rounded down to `bits` bits."""
    steps = 2**bits - 1
    return (values * steps).floor() / steps


def _root(values: Tensor) -> Tensor:
    """The 2.2nd root; exactly 0 at 0, with a gradient of 0 there."""
    return torch.where(values > SMALLEST, values.clamp(min=SMALLEST) ** (1 / GAMMA), values * 0)
