"""Reward transforms: identities that hold for any rewards, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.measures.reward_transforms import (
    calibrated,
    exponential,
    joint_log_sigmoid,
    log_sigmoid_centred,
    log_sigmoid_slope,
    reference_quantile,
)

NUMBERS = st.floats(-50, 50)
SAMPLES = st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=30)


@given(NUMBERS, NUMBERS, NUMBERS)
@settings(deadline=None)
def test_the_log_sigmoid_is_a_log_probability_that_sees_differences_alone(r: float, ref: float, shift: float):
    utility = log_sigmoid_centred(r, ref)
    assert utility <= 0
    np.testing.assert_allclose(log_sigmoid_centred(r + shift, ref + shift), utility, atol=1e-9)
    beaten, beats = np.exp(log_sigmoid_centred(ref, r)), np.exp(utility)
    assert beaten + beats == pytest.approx(1)
    assert log_sigmoid_slope(r, ref) == pytest.approx(float(beaten))


def test_the_slope_is_the_derivative_and_nothing_underflows():
    rewards = torch.tensor([-900.0, -3.0, 0.0, 4.0, 900.0], dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.logsigmoid(rewards - 0.5)
    (slopes,) = torch.autograd.grad(expected.sum(), [rewards])
    given = rewards.detach().numpy()
    np.testing.assert_allclose(log_sigmoid_centred(given, 0.5), expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(log_sigmoid_slope(given, 0.5), slopes.numpy(), rtol=1e-12, atol=1e-300)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5))
@settings(deadline=None)
def test_all_good_is_the_product_of_each_good(pairs: list[tuple[float, float]]):
    rewards, references = (np.array(one) for one in zip(*pairs, strict=True))
    together = float(joint_log_sigmoid(rewards, references))
    assert together == pytest.approx(sum(float(log_sigmoid_centred(*one)) for one in pairs))
    assert together <= min(float(log_sigmoid_centred(*one)) for one in pairs) + 1e-12
    doubled = joint_log_sigmoid(rewards, references, [2.0] * len(pairs))
    assert float(doubled) == pytest.approx(2 * together)


@given(SAMPLES, st.floats(0.01, 0.99), st.floats(0.1, 5), NUMBERS)
@settings(deadline=None)
def test_quantiles_move_with_their_samples(samples: list[float], q: float, scale: float, shift: float):
    moved = [scale * one + shift for one in samples]
    for method in ("gaussian", "empirical"):
        before = reference_quantile(samples, q, method=method)
        np.testing.assert_allclose(
            reference_quantile(moved, q, method=method), scale * before + shift, atol=1e-8
        )
    assert min(samples) <= reference_quantile(samples, q, method="empirical") <= max(samples)
    np.testing.assert_allclose(reference_quantile(samples, 0.5), np.mean(samples), atol=1e-9)


def test_the_deviation_of_a_sample_has_one_less_in_its_divisor():
    samples = [[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 0.0]]
    for deviation, freedom in (("population", 0), ("sample", 1)):
        found = reference_quantile(samples, 0.85, deviation=deviation)  # type: ignore[arg-type]
        spread = np.std(samples, axis=1, ddof=freedom)
        np.testing.assert_allclose(found, np.mean(samples, axis=1) + 1.0364333894937898 * spread)
    assert reference_quantile([7.0], 0.85, deviation="sample") == 7


@given(SAMPLES)
@settings(deadline=None)
def test_calibrated_rewards_of_the_samples_have_the_mean_one_half(samples: list[float]):
    found = calibrated(samples, [samples] * len(samples))
    assert float(found.mean()) == pytest.approx(0.5)
    np.testing.assert_array_equal(calibrated(np.exp(samples), [np.exp(samples)] * len(samples)), found)
    np.testing.assert_allclose(
        calibrated(np.negative(samples), [np.negative(samples)] * len(samples)), 1 - found
    )
    order = np.argsort(samples)
    assert (np.diff(found[order]) >= 0).all()


def test_calibration_counts_ties_half_and_keeps_what_is_not_scored():
    found = calibrated([2.0, 0.0, 9.0, math.nan], [[2.0, 2.0, 1.0, 3.0]] * 4)
    np.testing.assert_array_equal(found, [0.5, 0.0, 1.0, math.nan])


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-20, 20))
@settings(deadline=None)
def test_exponentials_rise_and_are_at_most_one_when_normalised(first: float, second: float, t: float):
    low, high = sorted([first, second])
    a, b = exponential([low, high], t)
    assert a <= b
    assert np.abs(exponential([low, high], t, normalise=True)).max() <= 1 or t == 0
    np.testing.assert_allclose(
        exponential([low], t, normalise=True) * np.exp(max(t, 0)), exponential([low], t), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reference_quantile([1.0], 0.0), "q is 0.0"),
        (lambda: reference_quantile([1.0], 1.0), "q is 1.0"),
        (lambda: reference_quantile([], 0.5), "no base samples"),
        (lambda: reference_quantile([1.0, math.nan], 0.5), "not finite"),
        (lambda: calibrated([1.0], [[]]), "no base samples"),
        (lambda: calibrated([1.0], [[math.inf]]), "not finite"),
    ],
)
def test_what_is_refused(call: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        call()
