"""How close a picture comes to another: peak signal-to-noise ratio and structural similarity, with a stated range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERFECT = 100.0
"""PSNR of equal pictures, whose error has no logarithm."""


def psnr(
    target: NDArray[Any], found: NDArray[Any], *, data_range: float, where: NDArray[Any] | None = None
) -> float:
    """`10 log10(data_range^2 / mean squared error)` in dB, at most `PERFECT`.

    Args:
        target, found: of one shape.
        data_range: of the values: the largest less the smallest that they could take.
        where: what counts, of a shape that spreads to theirs; without any True value NaN.

    Raises:
        ValueError: the shapes differ, or the range is not above 0.
    """
    first, second = _both(target, found, data_range)
    squares = (first - second) ** 2
    if where is not None:
        squares = squares[np.broadcast_to(where, squares.shape)]
    if not squares.size:
        return math.nan
    error = float(squares.mean())
    return PERFECT if error == 0 else min(10 * math.log10(data_range**2 / error), PERFECT)


def ssim(target: NDArray[Any], found: NDArray[Any], *, data_range: float, window: int = 7) -> float:
    """Structural similarity (Wang et al. 2004): the mean over channels and over all whole windows of `window` x `window`
    equally weighted pixels, with sample (co)variances and K1 = 0.01, K2 = 0.03.

    Args:
        target, found: [height, width] or [height, width, channels].
        data_range: see `psnr`; without it the value would depend on the pictures that are compared together.

    Raises:
        ValueError: the shapes differ, are smaller than the window, or the range is not above 0.
    """
    x, y = _both(target, found, data_range)
    if x.ndim == 2:
        x, y = x[..., None], y[..., None]
    if min(x.shape[:2]) < window:
        raise ValueError(
            f"pictures of {x.shape[1]} x {x.shape[0]} pixels, expected at least {window} x {window}"
        )
    mean_x, mean_y = _windows(x, window), _windows(y, window)
    unbiased = window**2 / (window**2 - 1)
    # values less their mean over the picture: sums of squares of large equal values would cancel
    a, b = x - x.mean((0, 1)), y - y.mean((0, 1))
    mean_a, mean_b = _windows(a, window), _windows(b, window)
    var_x = unbiased * (_windows(a * a, window) - mean_a**2)
    var_y = unbiased * (_windows(b * b, window) - mean_b**2)
    covariance = unbiased * (_windows(a * b, window) - mean_a * mean_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def _both(target: NDArray[Any], found: NDArray[Any], data_range: float) -> tuple[NDArray[Any], NDArray[Any]]:
    if np.shape(target) != np.shape(found):
        raise ValueError(f"shapes {np.shape(target)} and {np.shape(found)}, expected the same")
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}, expected above 0")
    return np.asarray(target, np.float64), np.asarray(found, np.float64)


def _windows(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """[H - w + 1, W - w + 1, C] means over windows."""
    sums = values
    for axis in (0, 1):
        total = np.insert(np.cumsum(sums, axis=axis), 0, 0.0, axis=axis)
        size = total.shape[axis]
        sums = np.take(total, range(window, size), axis) - np.take(total, range(size - window), axis)
    return sums / window**2
