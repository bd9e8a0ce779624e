"""Clusters of points by k-means (Lloyd 1982), begun by k-means++ (Arthur and Vassilvitskii 2007). NumPy only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

POINTS_A_CENTROID = 256
"""Points that are looked at to place a centroid; more change little."""
MOST_ROUNDS = 50
_CELLS = 2**24
"""Distances that are held at a time."""


def kmeans(points: ArrayLike, k: int, *, seed: int = 0) -> NDArray[Any]:
    """[k, D] centroids of clusters, each the mean of the points that it is nearest to; none is without points.

    Rounds end when no point changes its cluster, or after 50. A centroid that lost its points takes the point that is
    farthest from its own. Of more than 256 points a centroid, so many are drawn by the seed.

    Args:
        points: [N, D].
        k: number of clusters, at most that of the different points.

    Raises:
        ValueError: no such number of clusters can be made of the points, or a number is not finite.
    """
    data = _matrix(points)
    if not np.isfinite(data).all():
        raise ValueError("points hold numbers that are not finite")
    draw = np.random.default_rng(seed)
    if len(data) > k * POINTS_A_CENTROID:
        data = data[np.sort(draw.choice(len(data), k * POINTS_A_CENTROID, replace=False))]
    centroids = _spread(data, k, draw)
    owners = np.full(len(data), -1)
    for _ in range(MOST_ROUNDS):
        found, distances = _nearest(data, centroids)
        counts = np.bincount(found, minlength=k)
        for empty in np.flatnonzero(counts == 0):
            # a cluster of one point would only trade places with the empty one
            farthest = np.argmax(np.where(counts[found] > 1, distances, -1.0))
            counts[found[farthest]] -= 1
            found[farthest], distances[farthest], counts[empty] = empty, 0.0, 1
        if np.array_equal(found, owners):
            break
        owners = found
        sums = np.zeros_like(centroids)
        np.add.at(sums, owners, data)
        centroids = sums / counts[:, None].astype(data.dtype)
    return centroids


def nearest(points: ArrayLike, centroids: ArrayLike) -> NDArray[np.intp]:
    """[N] the centroid that each point is nearest to by Euclidean distance; of equally near ones the first.

    Args:
        points: [N, D].
        centroids: [K, D].
    """
    return _nearest(_matrix(points), _matrix(centroids))[0]


def shares(owners: ArrayLike, k: int) -> NDArray[np.float64]:
    """[k] share of the points in each cluster.

    Args:
        owners: [N] cluster of each point.

    Raises:
        ValueError: there is no point.
    """
    counts = np.bincount(np.asarray(owners, dtype=np.intp), minlength=k)
    if not counts.sum():
        raise ValueError("no point, expected at least one")
    return counts / counts.sum()


def _matrix(points: ArrayLike) -> NDArray[Any]:
    data = np.asarray(points)
    data = data if data.dtype in (np.float32, np.float64) else data.astype(np.float64)
    if data.ndim != 2 or not len(data):
        raise ValueError(f"points have the shape {data.shape}, expected [N, D] with one point or more")
    return data


def _nearest(data: NDArray[Any], centroids: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """[N] the nearest centroid of each point, and [N] squared distances to it."""
    owners, distances = np.empty(len(data), dtype=np.intp), np.empty(len(data), dtype=data.dtype)
    norms = (centroids**2).sum(1)
    step = max(1, _CELLS // len(centroids))
    for start in range(0, len(data), step):
        part = data[start : start + step]
        cells = norms - 2 * part @ centroids.T
        best = cells.argmin(1)
        owners[start : start + step] = best
        distances[start : start + step] = cells[np.arange(len(part)), best] + (part**2).sum(1)
    return owners, distances.clip(min=0)


def _spread(data: NDArray[Any], k: int, draw: np.random.Generator) -> NDArray[Any]:
    """[k, D] different points, each drawn by its squared distance to those before it."""
    chosen = [int(draw.integers(len(data)))]
    distances = ((data - data[chosen[0]]) ** 2).sum(1)
    while len(chosen) < k:
        total = float(distances.sum(dtype=np.float64))
        if not total > 0:
            raise ValueError(f"{k} clusters cannot be made of {len(chosen)} different points")
        chosen.append(int(draw.choice(len(data), p=distances.astype(np.float64) / total)))
        distances = np.minimum(distances, ((data - data[chosen[-1]]) ** 2).sum(1))
    return data[chosen].copy()
