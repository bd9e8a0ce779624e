"""Win rates under best-of-n and worst-of-n: exact identities, samples, and the policies that win most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.measures.reward_transforms import exponential
from coalign.measures.win_rates import (
    Procedure,
    WinRates,
    kl_divergence,
    optimal_transform,
    quantile_win_rates,
    sampled_win_rates,
    tilted,
    tilted_density,
    win_rates,
)

Pick = Callable[[Iterable[float]], float]
CELLS = 2000
U = (np.arange(CELLS) + 0.5) / CELLS


@st.composite
def policies(draw: st.DrawFn) -> tuple[Any, Any, list[float]]:
    """Two distributions over a few responses, and their rewards, some of them equal."""
    size = draw(st.integers(1, 6))
    weights = st.lists(st.floats(0.01, 1), min_size=size, max_size=size)
    p, q = (np.array(draw(weights)) for _ in range(2))
    rewards = draw(st.lists(st.integers(0, 4).map(float), min_size=size, max_size=size))
    return p / p.sum(), q / q.sum(), rewards


def enumerated(p: Any, q: Any, rewards: list[float], n: int, pick: Pick) -> float:
    """The win rate by going through every pair of groups."""
    groups = list(itertools.product(range(len(p)), repeat=n))
    total = 0.0
    for mine in groups:
        for others in groups:
            a, b = pick(rewards[y] for y in mine), pick(rewards[y] for y in others)
            chance = math.prod(p[y] for y in mine) * math.prod(q[y] for y in others)
            total += chance * (1.0 if a > b else 0.5 if a == b else 0.0)
    return total


@given(policies())
@settings(deadline=None, max_examples=25)
def test_they_are_what_enumeration_gives(case: tuple[Any, Any, list[float]]):
    p, q, rewards = case[0][:4], case[1][:4], case[2][:4]
    p, q = p / p.sum(), q / q.sum()
    found = win_rates(p, q, rewards, 2)
    assert found.standard == pytest.approx(enumerated(p, q, rewards, 1, max))
    assert found.best_of_n == pytest.approx(enumerated(p, q, rewards, 2, max))
    assert found.worst_of_n == pytest.approx(enumerated(p, q, rewards, 2, min))


@given(policies(), st.integers(1, 8))
@settings(deadline=None)
def test_identities(case: tuple[Any, Any, list[float]], n: int):
    p, q, rewards = case
    found, back = win_rates(p, q, rewards, n), win_rates(q, p, rewards, n)
    for name in ("standard", "best_of_n", "worst_of_n"):
        assert getattr(found, name) + getattr(back, name) == pytest.approx(1)
        assert getattr(win_rates(p, p, rewards, n), name) == pytest.approx(0.5)
    turned = win_rates(p, q, np.negative(rewards), n)
    assert turned.best_of_n == pytest.approx(1 - found.worst_of_n)
    assert win_rates(p, q, np.exp(rewards), n) == found
    alone = win_rates(p, q, rewards, 1)
    assert alone.best_of_n == pytest.approx(alone.standard) == pytest.approx(alone.worst_of_n)
    assert found.kl >= 0


def test_the_best_of_n_beats_one_sample_by_n_over_n_plus_one():
    """With many different rewards: best of n as the policy, one sample as the base."""
    size, n = 400, 4
    base = np.full(size, 1 / size)
    best = np.diff((np.arange(size + 1) / size) ** n)
    found = win_rates(best, base, range(size), 1)
    assert found.standard == pytest.approx(n / (n + 1), abs=1e-3)
    assert found.kl == pytest.approx(math.log(n) - (n - 1) / n, abs=1e-2)


@given(
    st.lists(st.integers(0, 5).map(float), min_size=3, max_size=6),
    st.lists(st.integers(0, 5).map(float), min_size=3, max_size=6),
)
@settings(deadline=None, max_examples=25)
def test_samples_give_the_mean_over_all_groups(mine: list[float], others: list[float]):
    standard, best, worst = sampled_win_rates(mine, others, 3)

    def mean(size: int, pick: Pick) -> float:
        pairs = itertools.product(itertools.combinations(mine, size), itertools.combinations(others, size))
        credits = [(a > b) + 0.5 * (a == b) for a, b in ((pick(x), pick(y)) for x, y in pairs)]
        return sum(credits) / len(credits)

    assert standard == pytest.approx(mean(1, max))
    assert best == pytest.approx(mean(3, max))
    assert worst == pytest.approx(mean(3, min))


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="2 rewards of samples of the base, expected at least 4"):
        sampled_win_rates([1.0] * 4, [1.0] * 2, 4)
    with pytest.raises(ValueError, match="finite"):
        sampled_win_rates([1.0, math.nan], [1.0] * 2, 2)


@given(policies(), st.floats(0.05, 5))
@settings(deadline=None)
def test_no_policy_is_worth_more_than_the_tilt(case: tuple[Any, Any, list[float]], strength: float):
    other, base, utilities = case
    policy, kl = tilted(base, utilities, strength)

    def worth(one: Any) -> float:
        return float(one @ np.array(utilities)) - strength * kl_divergence(one, base)

    assert policy.sum() == pytest.approx(1)
    assert kl == pytest.approx(kl_divergence(policy, base))
    assert worth(policy) >= worth(other) - 1e-9
    np.testing.assert_allclose(tilted(base, np.add(utilities, 7.0), strength)[0], policy, atol=1e-12)


def test_a_divergence_is_infinite_where_the_base_gives_nothing():
    assert kl_divergence([0.5, 0.5], [1.0, 0.0]) == math.inf
    assert kl_divergence([1.0, 0.0], [0.5, 0.5]) == pytest.approx(math.log(2))


def test_the_continuous_rates_are_the_limit_of_the_discrete_ones():
    density = tilted_density(exponential(U, 5), 60.0)
    found = quantile_win_rates(density, 4)
    exact = win_rates(density / CELLS, np.full(CELLS, 1 / CELLS), range(CELLS), 4)
    for name, value in vars(exact).items():
        assert getattr(found, name) == pytest.approx(value, abs=2e-3), name
    flat = quantile_win_rates(np.ones(CELLS), 4)
    assert (flat.kl, flat.standard) == (0, pytest.approx(0.5))
    assert flat.best_of_n == pytest.approx(0.5, abs=1e-4)


def at_kl(transform: Any, kl: float, n: int = 4) -> WinRates:
    """Of the policy that the transform leads to at this divergence."""
    low, high = 1e-4, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        found = quantile_win_rates(tilted_density(transform, middle), n)
        low, high = (middle, high) if found.kl > kl else (low, middle)
    return quantile_win_rates(tilted_density(transform, high), n)


@pytest.mark.parametrize(
    ("procedure", "strength"), [("best_of_n", 0.5), ("worst_of_n", 0.5), ("best_of_n", 0.3)]
)
def test_no_other_transform_wins_more_at_the_same_divergence(procedure: Procedure, strength: float):
    transform, density = optimal_transform(4, strength, procedure)
    best = quantile_win_rates(density, 4)
    np.testing.assert_allclose(tilted_density(transform, strength), density, rtol=1e-6)
    sign = 1 if procedure == "best_of_n" else -1
    for t in (0.0, 2.0 * sign, 5.0 * sign, 10.0 * sign):
        other = at_kl(exponential(U, t), best.kl)
        assert getattr(other, procedure) <= getattr(best, procedure) + 1e-4
    assert getattr(best, procedure) - getattr(at_kl(exponential(U, 0), best.kl), procedure) > 0.02
    assert getattr(best, procedure) - getattr(at_kl(exponential(U, 10.0 * sign), best.kl), procedure) < 0.005


def test_with_one_sample_the_best_transform_is_none():
    transform, _ = optimal_transform(1, 0.5, "best_of_n")
    np.testing.assert_allclose(transform, U - 1, atol=1e-9)
    mirrored, _ = optimal_transform(1, 0.5, "worst_of_n")
    np.testing.assert_allclose(mirrored, transform, atol=1e-9)


def test_a_fixed_point_that_is_not_reached_is_said():
    with pytest.raises(ValueError, match="no fixed point is reached"):
        optimal_transform(16, 1e-3, "best_of_n", cells=50, iterations=5)
