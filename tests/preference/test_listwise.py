from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.preference.aft import aft_loss
from coalign.preference.pro import pro_rank_losses
from coalign.training.losses.listwise import (
    best_responses,
    ordered_pairs,
    ranking_accuracies,
    ranking_hinge_loss,
)
from tests.preference.batches import naive_pro_ranks

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
@settings(max_examples=50, deadline=None)
def test_the_hinge_equals_a_loop_over_pairs(records: list[list[tuple[float, float]]], margin: float) -> None:
    scores, values, index = laid_out(records)
    summed = ranking_hinge_loss(scores.detach(), values, index, margin=margin)
    averaged = ranking_hinge_loss(scores.detach(), values, index, margin=margin, reduction="mean")
    for row, record in enumerate(records):
        pairs = naive_pairs(record)
        hinges = [
            max(0.0, record[j][0] - record[i][0] + margin * (record[i][1] - record[j][1])) for i, j in pairs
        ]
        assert float(summed[row]) == pytest.approx(sum(hinges), abs=1e-12)
        assert float(averaged[row]) == pytest.approx(sum(hinges) / max(1, len(pairs)), abs=1e-12)


@given(records=groups, beta=st.floats(0.05, 3))
@settings(max_examples=50, deadline=None)
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
@settings(max_examples=50, deadline=None)
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
        ranking_hinge_loss(scores, values, index, margin=10.0),
    ):
        assert torch.isfinite(losses).all()
        assert torch.isfinite(torch.autograd.grad(losses.sum(), scores)[0]).all()


def test_pairs_best_and_accuracies() -> None:
    values = torch.tensor([1.0, 1.0, 0.0, NAN, 2.0, 2.0, 2.0, NAN])
    index = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    better, worse = ordered_pairs(values, index)
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(0, 2), (1, 2)]
    assert best_responses(values, index).tolist() == [0, 4, 7]
    scores = torch.tensor([-1.0, -3.0, -2.0, 0.0, -1.0, -1.0, -1.0, -1.0])
    accuracies = ranking_accuracies(scores, values, index)
    assert accuracies[0] == 0.5
    assert accuracies[1:].isnan().all()


def test_no_records_give_no_losses() -> None:
    nothing, index = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert ranking_hinge_loss(nothing, nothing, index).shape == (0,)
    assert aft_loss(nothing, nothing, index).shape == (0,)
    assert best_responses(nothing, index).shape == (0,)


@given(
    ranking=st.lists(st.tuples(st.floats(-8, -0.01), value), min_size=2, max_size=8),
    temperature=st.sampled_from(["reward", "none"]),
    eps=st.sampled_from([0.0, 1e-10]),
)
@settings(max_examples=80, deadline=None)
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
