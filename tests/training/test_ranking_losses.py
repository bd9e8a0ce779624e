"""Losses over ranked responses with ties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.training.losses.bradley_terry import ranking_losses
from coalign.training.losses.listwise import pair_accuracy

GROUPS = st.lists(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 3)), min_size=1, max_size=5), min_size=1, max_size=4
)


def flat(groups: list[list[tuple[float, int]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rewards = torch.tensor([r for group in groups for r, _ in group], dtype=torch.float64)
    values = torch.tensor([-float(rank) for group in groups for _, rank in group], dtype=torch.float64)
    index = torch.tensor([place for place, group in enumerate(groups) for _ in group])
    return rewards, values, index


@given(GROUPS)
@settings(deadline=None, max_examples=60)
def test_losses_are_those_of_their_pairs(groups: list[list[tuple[float, int]]]) -> None:
    rewards, values, index = flat(groups)
    for ties in ("exclude", "half"):
        sums, pairs = ranking_losses(rewards, values, index, ties=ties)
        for place, group in enumerate(groups):
            wanted = [math.log1p(math.exp(b - a)) for a, r in group for b, s in group if r < s]
            if ties == "half":
                equal = [
                    abs(a - b) for i, (a, r) in enumerate(group) for b, s in group[i + 1 :] if r == s
                ]  # both directions, each counting half
                wanted += [(math.log1p(math.exp(d)) + math.log1p(math.exp(-d))) / 2 for d in equal]
            assert pairs[place] == len(wanted)
            assert float(sums[place]) == pytest.approx(sum(wanted), abs=1e-9)


@given(GROUPS, st.floats(-100, 100))
@settings(deadline=None, max_examples=30)
def test_a_constant_changes_nothing_and_groups_do_not_meet(
    groups: list[list[tuple[float, int]]], shift: float
) -> None:
    rewards, values, index = flat(groups)
    whole, _ = ranking_losses(rewards + shift * index, values, index)
    alone = [ranking_losses(*flat([group]))[0] for group in groups]
    torch.testing.assert_close(whole, torch.cat(alone), atol=1e-6, rtol=1e-6)


def test_all_ties_have_no_loss_and_a_gradient_of_zero() -> None:
    rewards = torch.tensor([3.0, -900.0], dtype=torch.float64, requires_grad=True)
    sums, pairs = ranking_losses(rewards, torch.zeros(2), torch.zeros(2, dtype=torch.long))
    assert pairs.tolist() == [0]
    sums.sum().backward()
    assert rewards.grad is None or not rewards.grad.any()


def test_equal_scores_count_half() -> None:
    values, index = torch.tensor([2.0, 1.0, 0.0]), torch.zeros(3, dtype=torch.long)
    assert pair_accuracy(torch.tensor([1.0, 1.0, 1.0]), values, index) == 0.5
    assert pair_accuracy(torch.tensor([3.0, 3.0, 1.0]), values, index) == pytest.approx(2.5 / 3)
