from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.measures.detection import (
    balanced_accuracy,
    best_threshold,
    bootstrap_of,
    pearson,
    ranks,
    roc_auc,
    spearman,
)

ITEMS = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
    lambda items: len({one for one, _ in items}) == 2
)


@given(ITEMS)
def test_auc_is_the_share_of_pairs_in_the_right_order(items: list[tuple[bool, int]]) -> None:
    labels, scores = zip(*items, strict=True)
    good = [score for label, score in items if label]
    bad = [score for label, score in items if not label]
    share = np.mean([(a > b) + 0.5 * (a == b) for a in good for b in bad])
    assert roc_auc(labels, scores) == pytest.approx(share)
    assert roc_auc([not one for one in labels], scores) == pytest.approx(1 - share)


@given(ITEMS)
def test_no_threshold_is_better_than_the_best(items: list[tuple[bool, int]]) -> None:
    labels, scores = zip(*items, strict=True)
    threshold, accuracy = best_threshold(labels, scores)
    assert accuracy == pytest.approx(balanced_accuracy(labels, np.array(scores) >= threshold))
    assert all(
        balanced_accuracy(labels, np.array(scores) >= cut) <= accuracy + 1e-12
        for cut in np.arange(-1, 8, 0.5)
    )


def test_values() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 2], [3, 3, 3]) == 0
    assert pearson([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_one_class_is_refused_and_its_resamples_are_drawn_again() -> None:
    with pytest.raises(ValueError, match="missing"):
        roc_auc([True, True], [1, 2])
    found = bootstrap_of(roc_auc, np.array([True, False, False]), np.array([3.0, 1.0, 2.0]), n=200)
    assert (found.mean, found.low, found.high) == (1, 1, 1)
    wide = bootstrap_of(roc_auc, np.array([1, 0, 1, 0]), np.array([0.2, 0.3, 0.9, 0.1]), n=200)
    assert wide.low <= wide.mean <= wide.high
