"""Flips: values, empty cases, and what holds for any predictions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.evaluation.regressions.flips import QUADRANTS, flips, quadrant, smooth_flips

ITEMS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40)
SCORES = st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=40)


@given(ITEMS)
def test_flips_explain_the_change_of_accuracy(items: list[tuple[int, int, int]]) -> None:
    old, new, truth = zip(*items, strict=True)
    found = flips(old, new, truth)
    assert found.accuracy_new - found.accuracy_old == pytest.approx(found.pfr - found.nfr)
    assert found.nfr <= found.nfr_mc + 1e-12
    assert found.nfr <= found.accuracy_old + 1e-12
    if found.btc is not None:
        assert found.btc == pytest.approx(1 - found.nfr / found.accuracy_old)
    assert flips(old, old, truth).nfr_mc == 0


@given(SCORES)
def test_score_flips_explain_the_change_of_the_mean(items: list[tuple[float, float]]) -> None:
    old, new = zip(*items, strict=True)
    found = smooth_flips(old, new)
    assert found.score_new - found.score_old == pytest.approx(
        found.gain * found.pfr - found.loss * found.nfr, abs=1e-9
    )
    back = smooth_flips(new, old)
    assert (found.nfr, found.loss) == (back.pfr, back.gain)


def test_a_margin_silences_small_differences() -> None:
    found = smooth_flips([0.5, 0.5, 0.5], [0.52, 0.48, 0.9], margin=0.05)
    assert (found.pfr, found.nfr, found.loss) == (pytest.approx(1 / 3), 0.0, 0.0)


def test_quadrants() -> None:
    found = [quadrant(was, now) for was in (True, False) for now in (True, False)]
    assert tuple(found) == QUADRANTS


def test_unusable_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 old and 1 new"):
        flips([1, 2], [1], [1, 2])
    with pytest.raises(ValueError, match="no items"):
        flips([], [], [])
    with pytest.raises(ValueError, match="finite"):
        smooth_flips([0.1], [float("nan")])
    with pytest.raises(ValueError, match="margin"):
        smooth_flips([0.1], [0.2], margin=-1)
