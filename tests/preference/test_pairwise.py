"""Losses on pairs and on rankings as functions of the log-probabilities, and the numerics below them."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, getcontext
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coalign.preference.aft import aft_loss
from coalign.preference.asft import asft_loss
from coalign.preference.ln_dpo import ln_dpo_loss
from coalign.training.losses import listwise, pairwise
from coalign.training.losses.listwise import pro_rank_losses
from coalign.training.losses.numerics import log1mexp, log1p_sum_exp, log_odds, mean_logps
from tests.preference.batches import naive_pro_ranks

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
@settings(max_examples=25)
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
@settings(max_examples=25)
def test_a_better_chosen_response_never_costs_more(name: str, row: Any, gain: float) -> None:
    better = (min(row[0] + gain, -1e-4), *row[1:])
    worse_rejected = (row[0], row[1] - gain, *row[2:])
    here, up, down = evaluate(name, columns_of([row, better, worse_rejected])).tolist()
    assert up <= here + 1e-12
    assert down <= here + 1e-12


@pytest.mark.parametrize("name", sorted(UNBOUNDED_TARGET))
@given(rows=records)
@settings(max_examples=25)
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
@settings(max_examples=25)
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


NAN = math.nan
score = st.floats(min_value=-20, max_value=-1e-3)
value = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])
group = st.lists(st.tuples(score, value), min_size=1, max_size=8)
groups = st.lists(group, min_size=1, max_size=4)


def laid_out(records: list[list[tuple[float, float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scores = torch.tensor([s for one in records for s, _ in one], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([v for one in records for _, v in one], dtype=torch.float64)
    index = torch.tensor([row for row, one in enumerate(records) for _ in one])
    return scores, values, index


def naive_pairs(record: list[tuple[float, float]]) -> list[tuple[int, int]]:
    size = range(len(record))
    return [(i, j) for i in size for j in size if record[i][1] > record[j][1]]


@given(records=groups, margin=st.floats(0, 3))
@settings(max_examples=50)
def test_the_hinge_equals_a_loop_over_pairs(records: list[list[tuple[float, float]]], margin: float) -> None:
    scores, values, index = laid_out(records)
    summed = listwise.ranking_hinge_loss(scores.detach(), values, index, margin=margin)
    averaged = listwise.ranking_hinge_loss(scores.detach(), values, index, margin=margin, reduction="mean")
    for row, record in enumerate(records):
        pairs = naive_pairs(record)
        hinges = [
            max(
                0.0,
                record[j][0] - record[i][0] + margin * (record[i][1] - record[j][1]),
            )
            for i, j in pairs
        ]
        assert float(summed[row]) == pytest.approx(sum(hinges), abs=1e-12)
        assert float(averaged[row]) == pytest.approx(sum(hinges) / max(1, len(pairs)), abs=1e-12)


@given(records=groups, beta=st.floats(0.05, 3))
@settings(max_examples=50)
def test_aft_equals_a_loop_over_pairs(records: list[list[tuple[float, float]]], beta: float) -> None:
    scores, values, index = laid_out(records)
    plain = aft_loss(scores.detach(), values, index, constraint="none")
    bounded = aft_loss(scores.detach(), values, index, constraint="boundary", beta=beta)
    detached = aft_loss(scores.detach(), values, index, constraint="detached")
    torch.testing.assert_close(plain, detached)
    for row, record in enumerate(records):
        pairs = naive_pairs(record)
        contrast = sum(math.exp(record[j][0] - record[i][0]) for i, j in pairs)
        restore = 0.0
        for i, j in pairs:
            lowest = min(record[k][0] for k, m in pairs if m == j)
            restore += math.exp(2 * lowest - 2 * beta - record[i][0] - record[j][0])
        assert float(plain[row]) == pytest.approx(math.log1p(contrast), rel=1e-9)
        assert float(bounded[row]) == pytest.approx(math.log1p(contrast + restore), rel=1e-9)


@given(records=groups)
@settings(max_examples=50)
def test_detached_lower_responses_are_not_pushed(records: list[list[tuple[float, float]]]) -> None:
    scores, values, index = laid_out(records)
    loss = aft_loss(scores, values, index, constraint="detached").sum()
    (gradient,) = torch.autograd.grad(loss, scores)
    assert (gradient <= 0).all()


def test_the_boundary_balances_at_its_distance_below_the_worst_positive() -> None:
    index = torch.zeros(3, dtype=torch.long)
    values = torch.tensor([1.0, 1.0, 0.0])

    def pull(negative: float) -> float:
        scores = torch.tensor([-0.5, -1.0, negative], dtype=torch.float64, requires_grad=True)
        loss = aft_loss(scores, values, index, constraint="boundary", beta=0.4).sum()
        return float(torch.autograd.grad(loss, scores)[0][2])

    assert pull(-1.4) == pytest.approx(0, abs=1e-12)
    assert pull(-1.3) > 0  # above the boundary: pushed down
    assert pull(-1.5) < 0  # below it: pulled up


@pytest.mark.parametrize("constraint", ["none", "detached", "boundary"])
def test_a_group_of_one_kind_has_a_connected_zero(constraint: str) -> None:
    scores, values, index = laid_out([[(-1.0, 1.0), (-2.0, 1.0)], [(-1.0, 0.0)]])
    losses = aft_loss(scores, values, index, constraint=constraint)  # type: ignore[arg-type]
    assert losses.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("constraint", ["none", "detached", "boundary"])
def test_extreme_scores_stay_finite(constraint: str) -> None:
    scores, values, index = laid_out([[(-1e4, 1.0), (0.0, 0.0), (-1e4, 2.0)], [(0.0, 1.0), (-1e4, 0.0)]])
    for losses in (
        aft_loss(scores, values, index, constraint=constraint),  # type: ignore[arg-type]
        listwise.ranking_hinge_loss(scores, values, index, margin=10.0),
    ):
        assert torch.isfinite(losses).all()
        assert torch.isfinite(torch.autograd.grad(losses.sum(), scores)[0]).all()


def test_pairs_best_and_accuracies() -> None:
    values = torch.tensor([1.0, 1.0, 0.0, NAN, 2.0, 2.0, 2.0, NAN])
    index = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    better, worse = listwise.ordered_pairs(values, index)
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(0, 2), (1, 2)]
    assert listwise.best_responses(values, index).tolist() == [0, 4, 7]
    scores = torch.tensor([-1.0, -3.0, -2.0, 0.0, -1.0, -1.0, -1.0, -1.0])
    accuracies = listwise.ranking_accuracies(scores, values, index)
    assert accuracies[0] == 0.5
    assert accuracies[1:].isnan().all()


def test_no_rankings_give_no_losses() -> None:
    nothing, index = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert listwise.ranking_hinge_loss(nothing, nothing, index).shape == (0,)
    assert aft_loss(nothing, nothing, index).shape == (0,)
    assert listwise.best_responses(nothing, index).shape == (0,)


@given(
    ranking=st.lists(st.tuples(st.floats(-8, -0.01), value), min_size=2, max_size=8),
    temperature=st.sampled_from(["reward", "none"]),
    eps=st.sampled_from([0.0, 1e-10]),
)
@settings(max_examples=80)
def test_pro_equals_the_formula(ranking: list[tuple[float, float]], temperature: str, eps: float) -> None:
    ranking = sorted(ranking, key=lambda one: -one[1])
    scores, rewards = ([one[column] for one in ranking] for column in (0, 1))
    losses = pro_rank_losses(
        torch.tensor([scores], dtype=torch.float64),
        torch.tensor([rewards], dtype=torch.float64),
        temperature=temperature,  # type: ignore[arg-type]
        eps=eps,
    )
    assert losses.shape == (1, len(scores) - 1)
    assert float(losses.sum()) == pytest.approx(naive_pro_ranks(scores, rewards, temperature, eps), rel=1e-9)


@pytest.mark.parametrize("temperature", ["reward", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pro_stays_finite_on_extreme_rewards_and_scores(temperature: str, dtype: torch.dtype) -> None:
    scores = torch.tensor([[-50.0, -0.001, -100.0, -0.5]], dtype=dtype, requires_grad=True)
    for rewards in ([1e3, 0.0, -1e3, -1e3], [0.0, 0.0, 0.0, 0.0], [1e-9, 0.0, 0.0, -1e-9]):
        losses = pro_rank_losses(scores, torch.tensor([rewards], dtype=dtype), temperature=temperature)  # type: ignore[arg-type]
        assert torch.isfinite(losses).all()
        assert torch.isfinite(torch.autograd.grad(losses.sum(), scores)[0]).all()


def test_tied_rewards_push_nothing_in_pro() -> None:
    scores = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64, requires_grad=True)
    tied = pro_rank_losses(scores, torch.full((1, 3), 0.7, dtype=torch.float64), eps=0.0)
    assert tied.tolist() == [pytest.approx([math.log(3), math.log(2)])]
    assert torch.autograd.grad(tied.sum(), scores)[0].tolist() == [[0.0, 0.0, 0.0]]


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
