"""How far apart two samples of points are: images as pixels or features, measured without a network of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def sliced_wasserstein(first: ArrayLike, second: ArrayLike, *, directions: int = 64, seed: int = 0) -> float:
    """Sliced Wasserstein-1 distance: the mean over random directions of the W1 distance of the projections.

    Args:
        first, second: [N, D] and [M, D]; samples of different sizes are compared by their quantile functions.
        directions: drawn from the unit sphere.
        seed: of the directions, so that figures of several pairs are comparable.

    Raises:
        ValueError: a sample is empty, or the dimensions differ.
    """
    a, b = _points(first), _points(second)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"points of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared")
    draw = np.random.default_rng(seed).standard_normal((a.shape[1], directions))
    draw /= np.linalg.norm(draw, axis=0)
    return float(np.mean(_wasserstein(np.sort(a @ draw, axis=0), np.sort(b @ draw, axis=0))))


def _wasserstein(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """W1 of each column of two samples in ascending order: the integral of the gap between their quantile functions."""
    n, m = len(first), len(second)
    if n == m:
        return np.abs(first - second).mean(0)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m), so exactly
    widths = np.diff(ends, prepend=0) / (n * m)
    rows, others = -(-ends // m) - 1, -(-ends // n) - 1
    return (np.abs(first[rows] - second[others]) * widths[:, None]).sum(0)


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """`|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` of features [N, D] and [M, D] (Heusel et al. 2017, equation 6).

    The trace of the root is the sum of the singular values of `A B^T`, where the rows of A and B are the centred features
    over the root of N - 1 and M - 1: exact also where a covariance is singular, which few samples make it.

    Raises:
        ValueError: fewer than two points on a side, or the dimensions differ.
    """
    a, b = _points(first), _points(second)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared")
    if min(len(a), len(b)) < 2:
        raise ValueError("the Fréchet distance needs at least two points on each side")
    gap = a.mean(0) - b.mean(0)
    one, two = (_triangular((x - x.mean(0)) / np.sqrt(len(x) - 1)) for x in (a, b))
    root = np.linalg.svd(one @ two.T, compute_uv=False).sum()
    return float(max(gap @ gap + (one**2).sum() + (two**2).sum() - 2 * root, 0.0))


def _triangular(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix with the same product A^T A, of no more rows than columns."""
    return np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows


def _points(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not len(found):
        raise ValueError(f"points of the shape {found.shape} were found, expected [N, D] with N at least 1")
    return found
