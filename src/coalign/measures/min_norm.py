"""The shortest vector between given ones: weights of tasks that all improve together. NumPy only.

The point of least norm in the convex hull of the tasks' gradients is a direction along which no task gets worse
(multiple-gradient descent: Desideri 2012; Sener and Koltun 2018, arXiv 1810.04650, algorithm 2).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NEAR_ONE = 0.999
"""Weight of the better one of two vectors where the other adds nothing; it is never left out altogether."""
MOST_STEPS = 1000
CONVERGED = 1e-5
"""Sum of the changes of the weights below which they stay."""


def min_norm_weights(vectors: Sequence[Sequence[float]] | NDArray[np.float64]) -> NDArray[np.float64]:
    """[K] weights, not negative and of sum 1, for which the weighted sum of the vectors is shortest.

    Frank-Wolfe from the best combination of two vectors, with an exact line search whose weights lie between 0.001 and
    0.999 where an end is best. Of two vectors the first combination is the answer.

    Args:
        vectors: [K, D], K at least 1.

    Raises:
        ValueError: no vector, or a number that is not finite.
    """
    data = np.asarray(vectors, dtype=np.float64)
    if data.ndim != 2 or not len(data):
        raise ValueError(f"vectors have the shape {data.shape}, expected [K, D] with one vector or more")
    if not np.isfinite(data).all():
        raise ValueError("vectors hold numbers that are not finite")
    if len(data) == 1:
        return np.ones(1)
    gram = data @ data.T
    weights = _best_two(gram)
    if len(data) == 2:
        return weights
    for _ in range(MOST_STEPS):
        products = gram @ weights
        corner = int(products.argmin())
        stay, _ = _between(float(weights @ products), float(products[corner]), float(gram[corner, corner]))
        moved = stay * weights
        moved[corner] += 1 - stay
        if np.abs(moved - weights).sum() < CONVERGED:
            break
        weights = moved
    return weights


def _best_two(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The combination of two vectors of least norm, as weights of all."""
    best: tuple[float, int, int, float] | None = None
    for i in range(len(gram)):
        for j in range(i + 1, len(gram)):
            share, norm = _between(float(gram[i, i]), float(gram[i, j]), float(gram[j, j]))
            if best is None or norm < best[0]:
                best = (norm, i, j, share)
    assert best is not None
    weights = np.zeros(len(gram))
    _, i, j, share = best
    weights[i], weights[j] = share, 1 - share
    return weights


def _between(first: float, product: float, second: float) -> tuple[float, float]:
    """The weight of the first of two vectors and the squared norm, from their squared norms and inner product."""
    if product >= first:
        return NEAR_ONE, first
    if product >= second:
        return 1 - NEAR_ONE, second
    share = (second - product) / (first + second - 2 * product)
    return share, second + share * (product - second)


def exact_min_norm(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K] weights, not negative and of sum 1, for which the weighted sum of few vectors is shortest, exactly: on every face of
    the simplex the shortest point of its plane, of those with weights that are not negative the shortest one. Where several
    are as short, the one with fewer vectors, then with earlier ones.

    Args:
        gram: [K, K] inner products of the vectors, K from 1 to 12 (2^K - 1 faces).

    Raises:
        ValueError: another shape, or a number that is not finite.
    """
    gram = _checked_gram(gram)
    best, weights = np.inf, np.zeros(len(gram))
    for size in range(1, len(gram) + 1):
        for face in itertools.combinations(range(len(gram)), size):
            part = np.ix_(face, face)
            direction = np.linalg.lstsq(gram[part], np.ones(size), rcond=None)[0]
            if size > 1 and not np.isclose(gram[part] @ direction, 1.0).all():
                # the plane holds 0: weights of a vector that the Gram matrix sends to 0
                direction = np.linalg.eigh(gram[part])[1][:, 0]
                direction *= np.sign(direction.sum() or 1.0)
            total = direction.sum()
            if size == 1:
                direction, total = np.ones(1), 1.0
            if total <= 0 or (direction < -1e-12 * total).any():
                continue
            candidate = np.zeros(len(gram))
            candidate[list(face)] = np.maximum(direction, 0.0) / np.maximum(direction, 0.0).sum()
            norm = float(candidate @ gram @ candidate)
            if norm < best * (1 - 1e-12) - 1e-300:
                best, weights = norm, candidate
    return weights


def grid_min_norm(gram: NDArray[np.float64], *, steps: int = 100, eps: float = 1e-3) -> NDArray[np.float64]:
    """[K] weights as DPA-RAG's code (arXiv 2406.18676) searches them: Frank-Wolfe from equal weights, with a line search over a
    grid of 100 places that is narrowed three times by the sign of the slope. It ends within about `eps` of the least norm,
    and never leaves a vector out altogether.

    Args:
        gram: [K, K] inner products of the vectors.
        steps: most steps.
        eps: it ends where a step or the rest of the weights is smaller.
    """
    gram = _checked_gram(gram)
    weights = np.full(len(gram), 1 / len(gram))
    for _ in range(steps):
        corner = np.zeros(len(gram))
        corner[int((gram @ weights).argmin())] = 1.0
        step = _grid_step(gram, weights, corner, eps)
        weights = (1 - step) * weights + step * corner
        if step < eps or abs(1 - weights.max()) < eps:
            break
    return weights


def _grid_step(
    gram: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64], eps: float
) -> float:
    low, high, before = 0.0, 1.0, 0.0
    grid = np.linspace(low, high, 100)
    for _ in range(4):
        grid = np.linspace(low, high, 100)
        points = start + grid[:, None] * (end - start)
        total = float((points @ gram * points).sum())
        if abs(total - before) < eps:
            break
        before = total
        slopes = 2 * points @ gram @ (end - start)
        if slopes[0] * slopes[-1] >= 0:
            return float(np.clip(grid[np.abs(slopes).argmin()], 0.0, 0.9999))
        high, low = float(grid[slopes > 0].min()), float(grid[slopes < 0].max())
    return float(grid.mean())


def _checked_gram(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    data = np.asarray(gram, dtype=np.float64)
    if data.ndim != 2 or data.shape[0] != data.shape[1] or not len(data):
        raise ValueError(f"inner products have the shape {data.shape}, expected [K, K] with K at least 1")
    if not np.isfinite(data).all():
        raise ValueError("inner products hold numbers that are not finite")
    return data
