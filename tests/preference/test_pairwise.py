"""Properties of every loss on pairs, as a function of the log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coalign.preference.asft import asft_loss
from coalign.preference.ln_dpo import ln_dpo_loss
from coalign.training.losses import pairwise

Loss = Callable[..., Tensor]
# What each takes besides the policy's two: r(eference), l(engths). Then its constants, and its value for two equal
# responses of 2 tokens and -1 nat a token, policy equal to reference.
ODDS = -1 - math.log(1 - math.exp(-1))
LOSSES: dict[str, tuple[Loss, str, dict[str, Any], float]] = {
    "dpo": (pairwise.dpo_loss, "r", {"beta": 0.1}, math.log(2)),
    "cdpo": (pairwise.dpo_loss, "r", {"beta": 0.1, "label_smoothing": 0.2}, math.log(2)),
    "ipo": (pairwise.ipo_loss, "rl", {"tau": 0.1}, 25.0),
    "ipo_mean": (pairwise.ipo_loss, "rl", {"tau": 0.5, "length_normalised": True}, 1.0),
    "hinge_ref": (pairwise.hinge_ref_loss, "r", {"beta": 0.1}, 1.0),
    "ln_dpo": (ln_dpo_loss, "rl", {"beta": 1.0}, math.log(2)),
    "cpo": (pairwise.cpo_loss, "", {"beta": 0.1}, math.log(2)),
    "simpo": (pairwise.simpo_loss, "l", {"beta": 2.0, "gamma": 0.0}, math.log(2)),
    "orpo": (pairwise.orpo_loss, "l", {"odds_weight": 0.1}, 1 + 0.1 * math.log(2)),
    "slic_hf": (pairwise.slic_hf_loss, "", {"delta": 1.0, "sft_weight": 0.1}, 1.2),
    "asft": (asft_loss, "l", {}, 1 + math.log1p(math.exp(-ODDS)) + math.log1p(math.exp(ODDS))),
}
UNBOUNDED_TARGET = {name for name in LOSSES if name not in ("cdpo", "ipo", "ipo_mean")}

every_loss = pytest.mark.parametrize("name", LOSSES)
logp = st.floats(min_value=-50, max_value=-1e-3)
length = st.integers(min_value=1, max_value=20)
record = st.tuples(logp, logp, logp, logp, length, length)
records = st.lists(record, min_size=1, max_size=6)


def evaluate(name: str, columns: list[Tensor]) -> Tensor:
    """[R] losses from [R] policy w, l, reference w, l, lengths w, l."""
    function, needs, constants, _ = LOSSES[name]
    arguments = columns[:2] + (columns[2:4] if "r" in needs else []) + (columns[4:] if "l" in needs else [])
    return function(*arguments, **constants)


def columns_of(rows: list[Any], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    columns = [torch.tensor(column, dtype=dtype) for column in zip(*rows, strict=True)]
    return [columns[0].requires_grad_(), columns[1].requires_grad_(), *columns[2:]]


@every_loss
def test_equal_responses_have_a_known_loss(name: str) -> None:
    columns = columns_of([(-2.0, -2.0, -2.0, -2.0, 2, 2)])
    assert evaluate(name, columns).tolist() == [pytest.approx(LOSSES[name][3], rel=1e-12)]


@every_loss
@given(rows=records, data=st.data())
@settings(max_examples=25, deadline=None)
def test_losses_are_per_record_in_the_order_of_the_records(
    name: str, rows: list[Any], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    losses = evaluate(name, columns_of(rows))
    moved = evaluate(name, columns_of([rows[row] for row in order]))
    assert losses.shape == (len(rows),)
    torch.testing.assert_close(moved, losses[list(order)], rtol=1e-12, atol=0)
    alone = evaluate(name, columns_of(rows[:1]))
    torch.testing.assert_close(alone, losses[:1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", sorted(UNBOUNDED_TARGET))
@given(row=record, gain=st.floats(0.01, 20))
@settings(max_examples=25, deadline=None)
def test_a_better_chosen_response_never_costs_more(name: str, row: Any, gain: float) -> None:
    better = (min(row[0] + gain, -1e-4), *row[1:])
    worse_rejected = (row[0], row[1] - gain, *row[2:])
    here, up, down = evaluate(name, columns_of([row, better, worse_rejected])).tolist()
    assert up <= here + 1e-12
    assert down <= here + 1e-12


@pytest.mark.parametrize("name", sorted(UNBOUNDED_TARGET))
@given(rows=records)
@settings(max_examples=25, deadline=None)
def test_gradients_raise_the_chosen_and_lower_the_rejected(name: str, rows: list[Any]) -> None:
    columns = columns_of(rows)
    chosen, rejected = torch.autograd.grad(evaluate(name, columns).sum(), columns[:2])
    assert (chosen <= 0).all()
    assert (rejected >= 0).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_inputs_stay_finite(name: str, dtype: torch.dtype) -> None:
    values = [0.0, -1e-8, -1e-3, -1.0, -1e3, -1e5]
    rows = [(w, r, -10.0, -10.0, n, 3) for w in values for r in values for n in (0, 1, 1000)]
    columns = columns_of(rows, dtype)
    losses = evaluate(name, columns)
    assert torch.isfinite(losses).all()
    for gradient in torch.autograd.grad(losses.sum(), columns[:2]):
        assert torch.isfinite(gradient).all()


@every_loss
def test_no_records_give_no_losses(name: str) -> None:
    empty = [torch.zeros(0, dtype=torch.float64) for _ in range(6)]
    assert evaluate(name, empty).shape == (0,)


@given(rows=records)
@settings(max_examples=25, deadline=None)
def test_losses_on_log_ratios_see_only_log_ratios(rows: list[Any]) -> None:
    shifted = [(w + 1, r - 2, rw + 1, rr - 2, n, m) for w, r, rw, rr, n, m in rows]
    for name in ("dpo", "cdpo", "ipo", "ipo_mean", "hinge_ref", "ln_dpo"):
        torch.testing.assert_close(evaluate(name, columns_of(shifted)), evaluate(name, columns_of(rows)))


def test_asft_bounds_orpo_from_above() -> None:
    rows = [(-0.5, -9.0, 0, 0, 2, 3), (-30.0, -0.2, 0, 0, 10, 2), (-1.0, -1.0, 0, 0, 1, 1)]
    columns = columns_of(rows)
    asft = asft_loss(columns[0], columns[1], columns[4], columns[5], align_weight=0.1)
    assert (evaluate("orpo", columns) <= asft).all()


def test_label_smoothing_of_one_half_is_symmetric() -> None:
    rows = [(-3.0, -7.0, -4.0, -4.0, 1, 1)]
    swapped = [(-7.0, -3.0, -4.0, -4.0, 1, 1)]
    loss = partial(pairwise.dpo_loss, beta=0.3, label_smoothing=0.5)
    torch.testing.assert_close(loss(*columns_of(rows)[:4]), loss(*columns_of(swapped)[:4]))
