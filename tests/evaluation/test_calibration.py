"""Calibration errors and temperatures: values by hand, and what holds of any pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.measures import calibration as c

margins = st.lists(st.floats(-20, 20), min_size=1, max_size=40)


def test_errors_by_hand() -> None:
    found = c.calibration_error([0.1, 0.2, 0.9, 0.8], [0, 1, 1, 1], bins=2)
    assert (found.ece, found.ace, found.mce) == pytest.approx(((0.7 + 0.3) / 4, (0.35 + 0.15) / 2, 0.35))
    assert c.calibration_error([], [], bins=5) == c.CalibrationError(0.0, 0.0, 0.0)
    assert [one.n for one in c.reliability([0.5, 0.51], [0, 1], bins=2)] == [1, 1]  # an edge belongs below


@pytest.mark.parametrize(("given_p", "given_y"), [([0.5], []), ([1.2], [1]), ([math.nan], [1]), ([0.5], [2])])
def test_what_is_no_probability_is_refused(given_p, given_y) -> None:
    with pytest.raises(ValueError, match=r"probabilities|labels"):
        c.calibration_error(given_p, given_y)


@settings(deadline=None)
@given(margins, st.sampled_from(c.BINS))
def test_errors_are_ordered_and_do_not_depend_on_the_order_of_pairs(d, bins) -> None:
    found = c.calibration_error(*c.both_orders(d), bins=bins)
    assert 0 <= found.ece <= found.mce + 1e-12 <= 1 + 1e-9
    again = c.calibration_error(*c.both_orders(d[::-1]), bins=bins)
    assert again.ece == pytest.approx(found.ece)


@settings(deadline=None)
@given(margins)
def test_the_temperature_minimises_the_loss_and_scales_with_the_rewards(d) -> None:
    best = c.fitted_temperature(d)

    def loss(temperature: float) -> float:
        return float(np.logaddexp(0, -np.asarray(d) / temperature).mean())

    for other in np.geomspace(c.SHARPEST, c.FLATTEST, 25):
        assert loss(best) <= loss(other) + 1e-9
    if 2 * c.SHARPEST < best < c.FLATTEST / 2:
        assert c.fitted_temperature([2 * one for one in d]) == pytest.approx(2 * best, rel=1e-4)


def test_limits_of_a_temperature() -> None:
    assert c.fitted_temperature([1.0, 2.0]) == pytest.approx(c.SHARPEST)
    assert c.fitted_temperature([-1.0, 1.0]) == c.FLATTEST == c.fitted_temperature([0.0])
    for wrong in ([], [math.nan]):
        with pytest.raises(ValueError, match="finite margins"):
            c.fitted_temperature(wrong)


def test_a_temperature_for_one_half_is_fitted_on_the_other() -> None:
    d = [4.0, 1.0, -2.0, -0.5, 3.0, 2.0]
    first, second = c.fitted_temperature(d[1::2]), c.fitted_temperature(d[::2])
    expected = [one / (first if at % 2 == 0 else second) for at, one in enumerate(d)]
    assert c.cross_fitted(d).tolist() == pytest.approx(expected)
