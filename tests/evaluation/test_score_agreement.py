"""Agreement of scores with people: tau-b against its definition, the logistic fit against curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.measures.score_agreement import fitted_logistic, kendall_tau_b, logistic, score_agreement

FEW = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30)


def by_definition(x: list[int], y: list[int]) -> float:
    """Tau-b, a pair at a time."""
    concordant = discordant = left = right = 0
    for i in range(len(x)):
        for j in range(i):
            a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            concordant, discordant = concordant + (a * b > 0), discordant + (a * b < 0)
            left, right = left + (a != 0), right + (b != 0)
    return (concordant - discordant) / (left * right) ** 0.5 if left and right else 0.0


@given(FEW)
@settings(deadline=None, max_examples=100)
def test_tau_b_is_that_of_its_definition(pairs: list[tuple[int, int]]) -> None:
    x, y = map(list, zip(*pairs, strict=True))
    assert kendall_tau_b(x, y) == pytest.approx(by_definition(x, y))
    assert kendall_tau_b(y, x) == pytest.approx(kendall_tau_b(x, y))
    assert kendall_tau_b([-one for one in x], y) == pytest.approx(-kendall_tau_b(x, y))


def test_tau_b_of_many_values_takes_no_quadratic_memory() -> None:
    x = np.arange(60_000.0)
    assert kendall_tau_b(x, x) == 1.0
    assert kendall_tau_b(x, -x) == -1.0


@given(
    st.floats(2, 5),
    st.floats(0, 1.5),
    st.floats(-2, 2),
    st.floats(0.3, 2),
    st.floats(-100, 100),
    st.floats(1e-3, 1e3),
)
@settings(deadline=None, max_examples=40)
def test_a_logistic_curve_is_found_again(
    high: float, low: float, middle: float, width: float, shift: float, unit: float
) -> None:
    curve = np.array([high, low, shift + unit * middle, unit * width])
    x = shift + unit * np.linspace(-4, 4, 60)
    y = logistic(x, curve)
    found = fitted_logistic(x, y)
    assert found is not None
    np.testing.assert_allclose(logistic(x, found), y, atol=1e-4)


@pytest.mark.parametrize(
    ("predicted", "human"),
    [([1.0] * 6, [1, 2, 3, 4, 5, 5]), ([1, 2, 3, 4, 5, 6], [3.0] * 6), ([1, 2], [1, 5])],
)
def test_what_cannot_be_fitted_falls_back_to_the_raw_correlation(
    predicted: list[float], human: list[float]
) -> None:
    found = score_agreement(predicted, human)
    assert not found.fitted
    assert found.plcc == found.plcc_raw


def test_a_falling_metric_has_a_rising_fit() -> None:
    """The curve may fall: PLCC says how well it can be mapped, SRCC and KRCC in which direction."""
    x = np.linspace(0, 1, 50)
    found = score_agreement(x, 5 - 4 * x**2)
    assert found.srcc == found.krcc == pytest.approx(-1)
    assert found.plcc > 0.99 > -0.9 > found.plcc_raw


def test_extreme_scores_do_not_overflow() -> None:
    found = score_agreement([-1e100, 0.0, 1e-100, 1e100, 2e100], [1, 2, 3, 4, 5])
    assert np.isfinite(found.plcc)
    assert found.srcc == pytest.approx(1)


@pytest.mark.parametrize("bad", [([1.0], [1.0, 2.0]), ([], []), ([float("nan"), 1.0], [1.0, 2.0])])
def test_unusable_values_are_refused(bad: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        score_agreement(*bad)
