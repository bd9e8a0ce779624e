"""pass@k against its definition."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.measures.pass_at_k import mean_pass_at_k, pass_at_k


@given(st.integers(1, 9), st.data())
def test_is_the_share_of_draws_with_a_right_one(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    samples = [place < correct for place in range(n)]
    draws = [any(one) for one in itertools.combinations(samples, k)]
    assert pass_at_k(n, correct, k) == pytest.approx(sum(draws) / len(draws), abs=1e-12)


def test_large_numbers_do_not_overflow():
    assert pass_at_k(100_000, 1, 100) == pytest.approx(1e-3)
    assert pass_at_k(200, 0, 100) == 0
    assert pass_at_k(200, 101, 100) == 1


@pytest.mark.parametrize(("n", "correct", "k"), [(1, 0, 2), (2, 3, 1), (2, -1, 1), (2, 1, 0), (0, 0, 1)])
def test_what_has_no_value(n, correct, k):
    with pytest.raises(ValueError, match="expected 1 <= k"):
        pass_at_k(n, correct, k)


def test_what_cannot_be_scored_is_left_out_and_counted():
    found = mean_pass_at_k([[True, None], [False, False], [None, None]], 1)
    assert (found.value, found.strict, found.tasks, found.left_out) == (0.5, pytest.approx(1 / 6), 2, 1)
    found = mean_pass_at_k([[True, None], [None, None]], 2)
    assert math.isnan(found.value)
    assert (found.strict, found.tasks, found.left_out) == (0.5, 0, 2)
