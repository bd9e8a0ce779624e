"""Agreement: textbook values, limits, invariances, intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.measures.agreement import accuracy, cohen_kappa, fleiss_kappa, midranks, spearman

LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30)


def test_cohen_kappa_of_the_textbook() -> None:
    # 20 both yes, 5 and 10 mixed, 15 both no: p_o = 0.7, p_e = 0.5.
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    found = cohen_kappa(first, second)
    assert found.mean == pytest.approx(0.4)
    assert found.low < 0.4 < found.high
    assert found.n == 50


def test_fleiss_kappa_of_the_textbook() -> None:
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    ratings = [[k for k, count in enumerate(row) for _ in range(count)] for row in counts]
    assert fleiss_kappa(ratings).mean == pytest.approx(0.2099, abs=5e-5)


def test_items_with_one_rating_are_left_out() -> None:
    assert fleiss_kappa([["a", "a"], ["b", "b"], ["a"]]).n == 2
    with pytest.raises(ValueError, match="no item has two ratings"):
        fleiss_kappa([["a"], []])


def test_accuracy_counts_what_is_missing_as_wrong() -> None:
    found = accuracy(["a", None, "b", "b"], ["a", "a", "b", "a"])
    assert found.mean == 0.5
    with pytest.raises(ValueError, match="2 verdicts for 1 labels"):
        accuracy(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no items"):
        accuracy([], [])


def test_intervals_cover() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        truth = rng.integers(0, 2, 60)
        says = np.where(rng.random(60) < 0.8, truth, 1 - truth)
        found = accuracy(says.tolist(), truth.tolist(), resamples=400)
        hits += found.low <= 0.8 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_one_item_has_no_interval() -> None:
    found = accuracy(["a"], ["a"])
    assert (found.mean, found.low, found.high) == (1, -math.inf, math.inf)


def test_constant_raters_agree() -> None:
    assert cohen_kappa(["a", "a"], ["a", "a"]).mean == 1
    assert fleiss_kappa([["a", "a"]]).mean == 1
    assert cohen_kappa(["a", "a", "b"], [None, None, None]).mean == pytest.approx(0)


@given(LABELS)
def test_kappa_is_symmetric_and_at_most_one(pairs: list[tuple[str, str]]) -> None:
    first, second = zip(*pairs, strict=True)
    one = cohen_kappa(first, second, resamples=10)
    assert one.mean <= 1 + 1e-12
    assert one.mean == pytest.approx(cohen_kappa(second, first, resamples=10).mean)
    assert cohen_kappa(first, first, resamples=10).mean == pytest.approx(1)


def test_spearman() -> None:
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert spearman([1, 2, 2, 3], [4, 3, 3, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 1], [1, 2]))
    assert midranks(np.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1, 2.5]
    with pytest.raises(ValueError, match="not finite"):
        spearman([1, math.nan], [1, 2])
    with pytest.raises(ValueError, match="at least 2"):
        spearman([1], [1])
