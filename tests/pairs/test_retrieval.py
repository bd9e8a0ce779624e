"""How well queries find their matches, with several matches and equal scores."""

import itertools
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.measures.retrieval import (
    average_precision,
    equal_texts,
    positives_of,
    retrieval_figures,
    warn_of_equal_texts,
)


def test_figures_of_a_gallery_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0.3], [0.8, 0.2, 0.5], [0.1, 0.2, 0.3]])
    found = retrieval_figures(scores, ks=(1, 2, 3))
    assert found.recall == pytest.approx({1: 2 / 3, 2: 2 / 3, 3: 1.0})
    assert (found.median_rank, found.queries) == (1.0, 3)
    assert found.mean_average_precision == pytest.approx((1 + 1 / 3 + 1) / 3)


def test_any_of_several_matches_counts_and_all_count_for_precision() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0]])
    found = retrieval_figures(scores, np.array([[False, True, False, True]]), ks=(1, 2))
    assert found.recall == {1: 0.0, 2: 1.0}
    assert found.mean_average_precision == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_queries_without_a_match_are_counted_apart() -> None:
    positives = np.array([[True, False], [False, False]])
    found = retrieval_figures(np.ones((2, 2)) * [[2, 1]], positives)
    assert (found.queries, found.unmatched, found.recall[1]) == (1, 1, 1.0)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_expected_rule_is_the_mean_over_all_orders(entries: list[tuple[int, bool]]) -> None:
    scores, positives = (np.array(column) for column in zip(*entries, strict=True))
    positives = positives.astype(bool)
    if not positives.any():
        return
    recalls, precisions, ranks = [], [], []
    for order in itertools.permutations(range(len(scores))):
        placed = sorted(order, key=lambda at: -scores[at])  # stable: each order of equal scores as often
        hits = positives[placed]
        ranks.append(int(hits.argmax()) + 1)
        recalls.append([hits[:k].any() for k in (1, 2, 3)])
        precisions.append(np.mean([hits[: at + 1].mean() for at in np.flatnonzero(hits)]))
    found = retrieval_figures(scores[None], positives[None], ks=(1, 2, 3), ties="expected")
    assert list(found.recall.values()) == pytest.approx(np.mean(recalls, axis=0))
    assert found.mean_average_precision == pytest.approx(np.mean(precisions))
    assert found.median_rank == pytest.approx(np.mean(ranks))
    worst = retrieval_figures(scores[None], positives[None], ks=(1, 2, 3))
    assert worst.median_rank == max(ranks)
    assert worst.mean_average_precision == pytest.approx(min(precisions))
    assert average_precision(scores, positives) == pytest.approx(min(precisions))


def test_scores_that_are_all_equal_find_nothing_by_luck() -> None:
    assert retrieval_figures(np.zeros((10, 10))).recall == {1: 0.0, 5: 0.0, 10: 1.0}
    assert retrieval_figures(np.zeros((10, 10)), ties="expected").recall[5] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scores", "positives", "said"),
    [
        (np.zeros(3), None, "expected .queries, gallery"),
        (np.zeros((3, 2)), None, "a match for each"),
        (np.full((2, 2), np.nan), None, "not a number"),
        (np.zeros((2, 2)), np.zeros((2, 3), dtype=bool), "that of the scores"),
        (np.zeros((2, 2)), np.zeros((2, 2), dtype=bool), "no query has a match"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    scores: np.ndarray, positives: np.ndarray | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        retrieval_figures(scores, positives)


def test_equal_captions_match_each_others_pictures(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["a red circle", "A red  circle", "a ring"]
    found = positives_of(["x", "y", "z"], texts, ["x", "y", "z"])
    assert found.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert equal_texts(["a", "b"]) is None
    with caplog.at_level(logging.WARNING):
        assert warn_of_equal_texts(texts) == 2
    assert "2 of 3 texts are equal to another one" in caplog.text
    assert warn_of_equal_texts([]) == 0


def test_several_captions_a_picture() -> None:
    found = positives_of(["x", "y"], ["a", "b", "c"], ["x", "x", "y"])
    assert found.tolist() == [[True, True, False], [False, False, True]]
