"""The shortest vector between given ones: weights of tasks that all improve together. NumPy only.

The point of least norm in the convex hull of the tasks' gradients is a direction along which no task gets worse
(multiple-gradient descent: Desideri 2012; Sener and Koltun 2018, arXiv 1810.04650, algorithm 2).
"""

from __future__ import annotations

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
