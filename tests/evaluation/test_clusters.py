"""k-means: groups that are there, no empty cluster, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.measures import clusters
from coalign.measures.clusters import kmeans, nearest, shares


def test_groups_that_lie_apart_are_found() -> None:
    draw = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    owners = np.repeat(np.arange(3), [50, 30, 20])
    points = centres[owners] + draw.normal(size=(100, 2))
    found = nearest(points, kmeans(points, 3, seed=4))
    groups = {frozenset(np.flatnonzero(found == one).tolist()) for one in range(3)}
    assert groups == {frozenset(np.flatnonzero(owners == one).tolist()) for one in range(3)}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 10_000))
def test_every_centroid_is_the_mean_of_its_points_and_has_some(n, k, seed) -> None:
    points = np.random.default_rng(seed).normal(size=(n, 2))
    if k > n:
        with pytest.raises(ValueError, match="clusters cannot be made of"):
            kmeans(points, k)
        return
    centroids = kmeans(points, k, seed=seed)
    owners = nearest(points, centroids)
    assert np.bincount(owners, minlength=k).min() > 0
    for place in range(k):
        np.testing.assert_allclose(centroids[place], points[owners == place].mean(0), atol=1e-9)
    np.testing.assert_array_equal(centroids, kmeans(points, k, seed=seed))


def test_many_points_are_looked_at_in_part_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "POINTS_A_CENTROID", 10)
    monkeypatch.setattr(clusters, "_CELLS", 6)
    points = np.repeat(np.eye(3), 40, axis=0) + np.random.default_rng(0).normal(size=(120, 3)) / 100
    owners = nearest(points, kmeans(points, 3))
    assert shares(owners, 3).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("wrong", [[], [1.0, 2.0], [[float("nan"), 1.0]]])
def test_what_are_no_points_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="points"):
        kmeans(wrong, 1)
    with pytest.raises(ValueError, match="no point"):
        shares(np.array([], dtype=int), 2)
