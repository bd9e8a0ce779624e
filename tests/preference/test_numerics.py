from __future__ import annotations

import math
from decimal import Decimal, getcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.training.losses.numerics import log1mexp, log1p_sum_exp, log_odds, mean_logps

getcontext().prec = 60


@given(st.floats(min_value=-700, max_value=-1e-12))
def test_log1mexp_is_exact(a: float) -> None:
    exact = float((1 - Decimal(a).exp()).ln())
    assert float(log1mexp(torch.tensor(a, dtype=torch.float64))) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("a", [-1e-7, -1e-3, -math.log(2), -1.0, -20.0, -90.0, -1e4, -math.inf])
def test_log1mexp_and_its_gradient_are_finite(a: float, dtype: torch.dtype) -> None:
    x = torch.tensor(a, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(log1mexp(x), x)
    assert torch.isfinite(log1mexp(x))
    assert float(gradient) == pytest.approx(-math.exp(a) / -math.expm1(a), rel=1e-5)


@given(st.floats(min_value=-30, max_value=-1e-6))
def test_the_sigmoid_of_the_log_odds_is_the_probability(a: float) -> None:
    odds = log_odds(torch.tensor(a, dtype=torch.float64))
    assert float(torch.sigmoid(odds)) == pytest.approx(math.exp(a), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_response_has_finite_log_odds_and_no_gradient(dtype: torch.dtype) -> None:
    a = torch.zeros(1, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(a).sum(), a)
    assert float(log_odds(a.detach())) == pytest.approx(-math.log(1e-7), rel=1e-5)
    assert float(gradient) == 0


terms = st.lists(st.tuples(st.floats(-2000, 2000), st.integers(0, 3)), max_size=12)


@given(terms)
def test_log1p_sum_exp_of_each_index(pairs: list[tuple[float, int]]) -> None:
    values = torch.tensor([value for value, _ in pairs], dtype=torch.float64, requires_grad=True)
    index = torch.tensor([one for _, one in pairs], dtype=torch.long)
    found = log1p_sum_exp(values, index, 4)
    exact = found.detach()
    for row in range(4):
        group = [Decimal(value).exp() for value, one in pairs if one == row]
        assert float(exact[row]) == pytest.approx(float((Decimal(1) + sum(group)).ln()), rel=1e-12, abs=1e-12)
    assert torch.isfinite(torch.autograd.grad(found.sum(), values)[0]).all()


def test_log1p_sum_exp_gradcheck() -> None:
    values = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 2, 2])
    assert torch.autograd.gradcheck(lambda x: log1p_sum_exp(x, index, 3), values)


def test_mean_logps() -> None:
    logps, lengths = torch.tensor([-6.0, -4.0, 0.0]), torch.tensor([3, 4, 0])
    assert mean_logps(logps, lengths).tolist() == [-2.0, -1.0, 0.0]
    assert mean_logps(logps, lengths, power=0).tolist() == [-6.0, -4.0, 0.0]
    assert mean_logps(logps, lengths, power=0.5)[1] == -2.0
