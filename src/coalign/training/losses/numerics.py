"""Numerics that several losses share: length-normalised log-probabilities, log-odds, sums of exponentials.

All inputs are finite and in float32 or float64; callers under autocast pass what the scoring engine returned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

LOG_HALF = -math.log(2)
LARGEST_MEAN_LOGP = -1e-7
"""Averaged log-probabilities are held below this: at 0 the log-odds are infinite."""


def mean_logps(logps: Tensor, lengths: Tensor, power: float = 1.0) -> Tensor:
    """Length-normalised log-probability `S / |y| ** power`, in nats per token for power 1.

    Args:
        logps: [B] sums over response tokens.
        lengths: [B] counted response tokens; 0 counts as 1.
        power: length penalty; 0 leaves the sum.
    """
    lengths = lengths.clamp(min=1)
    return logps / (lengths if power == 1 else lengths.to(logps.dtype) ** power)


def log1mexp(a: Tensor) -> Tensor:
    """`log(1 - exp(a))` for a < 0, exact near 0 and far from it (Mächler 2012).

    Near 0 `1 - exp(a)` cancels, far from 0 `expm1(a)` is -1 to rounding: each side has its own form.
    """
    near = a > LOG_HALF
    # Both branches of `where` are differentiated: each gets arguments at which it is finite.
    far_side = torch.log1p(-torch.exp(torch.where(near, LOG_HALF, a)))
    near_side = torch.log(-torch.expm1(torch.where(near, a, LOG_HALF)))
    return torch.where(near, near_side, far_side)


def log_odds(mean_logps: Tensor) -> Tensor:
    """`o = a - log(1 - exp(a))`, the log-odds of the geometric-mean token probability; `sigmoid(o) = exp(a)`.

    Args:
        mean_logps: [B] length-averaged log-probabilities, at most 0; above -1e-7 they are clamped there, and get
            no gradient.
    """
    a = mean_logps.clamp(max=LARGEST_MEAN_LOGP)
    return a - log1mexp(a)


def log1p_sum_exp(terms: Tensor, index: Tensor, size: int) -> Tensor:
    """[size] `log(1 + sum of exp(terms))` over the terms of each index; 0 where there are none.

    Args:
        terms: [P]
        index: [P] in 0..size-1.
    """
    with torch.no_grad():
        largest = terms.new_zeros(size).scatter_reduce(0, index, terms, "amax")
    shifted = torch.exp(terms - largest[index])
    return torch.log(torch.exp(-largest).index_add(0, index, shifted)) + largest
