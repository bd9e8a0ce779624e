"""Measures: bootstrap and Wilson intervals, agreement, detection: known values, coverage, limits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.measures import detection, statistics
from coalign.measures.agreement import accuracy, cohen_kappa, fleiss_kappa, midranks, spearman
from coalign.measures.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    mcnemar,
    paired_bootstrap,
    sign_test,
    wilson_interval,
)

FINITE = st.floats(-1e6, 1e6)


def test_interval_agrees_with_the_normal_one_on_a_large_sample() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 400)
    found = bootstrap_mean(values)
    half = 1.959964 * values.std() / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert (found.n, found.confidence) == (400, 0.95)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_covers_as_often_as_it_says(confidence: float) -> None:
    rng = np.random.default_rng(7)
    before = rng.choice([0, 0.5, 1], size=(400, 50), p=[0.5, 0.3, 0.2])
    after = np.clip(before + rng.choice([0, 0.5], size=before.shape, p=[0.6, 0.4]), 0, 1)
    truth = 0.8 * 0.4 * 0.5
    pairs = zip(before, after, strict=True)
    found = [paired_bootstrap(*one, n=1000, confidence=confidence) for one in pairs]
    share = np.mean([one.low <= truth <= one.high for one in found])
    assert share == pytest.approx(confidence, abs=0.04)


def test_p_value_is_as_rare_as_it_says_without_an_effect() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(600, 40))
    p_values = [bootstrap_mean(one, n=999).p_value for one in values]
    assert np.mean([p is not None and p < 0.05 for p in p_values]) == pytest.approx(0.05, abs=0.03)


def test_p_value_and_interval_agree() -> None:
    rng = np.random.default_rng(11)
    for shift in np.linspace(-0.6, 0.6, 25):
        found = bootstrap_mean(rng.normal(shift, 1, 40), n=4000)
        assert found.p_value is not None
        if abs(found.p_value - 0.05) > 0.005:
            assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_pairing_matters() -> None:
    spread = np.linspace(0, 100, 30)
    found = paired_bootstrap(spread, spread + 1 + 0.1 * np.sin(spread))
    assert 0.9 < found.low < found.high < 1.1


def test_one_pair_proves_nothing_and_is_json() -> None:
    found = paired_bootstrap([0.0], [1.0])
    assert (found.mean, found.low, found.high, found.p_value) == (1.0, -math.inf, math.inf, 1.0)
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written == {"mean": 1.0, "low": None, "high": None, "p_value": 1.0, "confidence": 0.95, "n": 1}


def test_equal_differences() -> None:
    none = paired_bootstrap([0.5, 0.1, 0.7], [0.5, 0.1, 0.7])
    assert (none.mean, none.low, none.high, none.p_value) == (0, 0, 0, 1)
    few = paired_bootstrap([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert (few.low, few.high, few.p_value) == (1, 1, 0.25)
    many = paired_bootstrap([0.0] * 40, [1.0] * 40, n=999)
    assert many.p_value == pytest.approx(2 / 1000)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([], [], "before has the shape"),
        ([1.0], [1.0, 2.0], "before has 1 values and after 2"),
        ([0.0, float("nan")], [0.0, 0.0], r"before\[1\] is nan"),
        ([0.0, 0.0], [float("inf"), 0.0], r"after\[0\] is inf"),
        ([[0.0]], [[0.0]], "expected a list"),
    ],
)
def test_bad_values_are_refused(before: list[float], after: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(before, after)


@pytest.mark.parametrize(("n", "confidence"), [(0, 0.95), (10, 0.0), (10, 1.0), (10, float("nan"))])
def test_bad_settings_are_refused(n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        bootstrap_mean([0.0, 1.0], n=n, confidence=confidence)


@settings(max_examples=60)
@given(pairs=st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_properties_of_the_paired_interval(pairs: list[tuple[float, float]], seed: int) -> None:
    before, after = ([pair[side] for pair in pairs] for side in (0, 1))
    found = paired_bootstrap(before, after, n=200, seed=seed)
    assert found == paired_bootstrap(before, after, n=200, seed=seed)
    assert found.low <= found.mean <= found.high
    assert found.p_value is not None
    assert 0 < found.p_value <= 1
    swapped = paired_bootstrap(after, before, n=200, seed=seed)
    assert swapped.mean == pytest.approx(-found.mean)
    assert swapped.p_value == found.p_value
    if len(pairs) > 1:
        scale = max(map(abs, [*before, *after, 1.0]))
        assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=1e-9 * scale)


def test_resampling_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=20)
    whole = bootstrap_mean(values, n=500)
    monkeypatch.setattr("coalign.measures.statistics._CHUNK", 77)
    assert bootstrap_mean(values, n=500) == whole


def test_many_items_have_the_interval_that_resampling_tends_to(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 40, 3000)
    totals = counts * (0.02 + rng.exponential(1.0, 3000) - 1.0)
    drawn = bootstrap_ratio(totals, counts)
    monkeypatch.setattr(statistics, "MOST_RESAMPLED", 2999)
    found = bootstrap_ratio(totals, counts)
    assert (found.mean, found.n, found.confidence) == (drawn.mean, 3000, 0.95)
    width = drawn.high - drawn.low
    assert [found.low, found.high] == pytest.approx([drawn.low, drawn.high], abs=0.03 * width)
    assert found.p_value == pytest.approx(drawn.p_value, abs=0.02)
    assert bootstrap_mean(totals + 100.0).p_value == pytest.approx(2 / 10_001)
    equal = bootstrap_mean(np.zeros(3000))
    assert (equal.low, equal.high, equal.p_value) == (0.0, 0.0, 1.0)


def test_wilson_by_hand() -> None:
    # z = 1.959964, n = 10, share 0.8: centre (0.8 + 0.19207) / 1.38415, half 1.415956 * sqrt(0.016 + 0.0096036).
    found = wilson_interval(8, 10)
    assert (found.mean, found.p_value, found.n) == (0.8, None, 10)
    assert (found.low, found.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson_interval(0, 5).low == 0
    assert wilson_interval(5, 5).high == 1
    assert isinstance(found, Interval)


@given(n=st.integers(1, 1000), share=st.floats(0, 1), confidence=st.floats(0.01, 0.999))
def test_wilson_stays_in_range(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    found = wilson_interval(successes, n, confidence=confidence)
    mirror = wilson_interval(n - successes, n, confidence=confidence)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert mirror.low == pytest.approx(1 - found.high)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


def test_tests_of_counts_are_exact() -> None:
    assert (sign_test(5, 0), sign_test(0, 0)) == (1 / 32, 1)
    assert sign_test(300, 100) < 1e-10
    assert (mcnemar(5, 0), mcnemar(0, 5), mcnemar(0, 0), mcnemar(3, 3)) == (1 / 16, 1 / 16, 1, 1)
    with pytest.raises(ValueError, match="expected none below 0"):
        mcnemar(2, -1)


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


ITEMS = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
    lambda items: len({one for one, _ in items}) == 2
)


@given(ITEMS)
def test_auc_is_the_share_of_pairs_in_the_right_order(items: list[tuple[bool, int]]) -> None:
    labels, scores = zip(*items, strict=True)
    good = [score for label, score in items if label]
    bad = [score for label, score in items if not label]
    share = np.mean([(a > b) + 0.5 * (a == b) for a in good for b in bad])
    assert detection.roc_auc(labels, scores) == pytest.approx(share)
    assert detection.roc_auc([not one for one in labels], scores) == pytest.approx(1 - share)


@given(ITEMS)
def test_no_threshold_is_better_than_the_best(items: list[tuple[bool, int]]) -> None:
    labels, scores = zip(*items, strict=True)
    threshold, accuracy = detection.best_threshold(labels, scores)
    assert accuracy == pytest.approx(detection.balanced_accuracy(labels, np.array(scores) >= threshold))
    assert all(
        detection.balanced_accuracy(labels, np.array(scores) >= cut) <= accuracy + 1e-12
        for cut in np.arange(-1, 8, 0.5)
    )


def test_values() -> None:
    assert detection.ranks(np.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]
    assert detection.spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert detection.spearman([1, 2, 2], [3, 3, 3]) == 0
    assert detection.pearson([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_one_class_is_refused_and_its_resamples_are_drawn_again() -> None:
    with pytest.raises(ValueError, match="missing"):
        detection.roc_auc([True, True], [1, 2])
    found = detection.bootstrap_of(
        detection.roc_auc, np.array([True, False, False]), np.array([3.0, 1.0, 2.0]), n=200
    )
    assert (found.mean, found.low, found.high) == (1, 1, 1)
    wide = detection.bootstrap_of(
        detection.roc_auc, np.array([1, 0, 1, 0]), np.array([0.2, 0.3, 0.9, 0.1]), n=200
    )
    assert wide.low <= wide.mean <= wide.high
