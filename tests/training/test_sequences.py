"""Sequences that weigh the same, batches of like lengths, DPO with a likelihood term, pairs of balanced lengths."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coalign.models.types import ResponseLogps
from coalign.training.batches import Example, collate
from coalign.training.checkpoints import SortedGroups
from coalign.training.losses.pairwise import AnchoredDPOConstants, DPOConstants, dpo
from coalign.training.losses.supervised import SFTConstants
from coalign.training.objective import ScoredBatch, get_objective
from coalign.training.reward_models.balance import balanced
from coalign.training.trainer import AlignmentTrainer
from tests.training.helpers import adapted, arguments, make_examples


def demonstrations(count: int) -> list[Example]:
    """Of very different lengths, one of them without a token that counts."""
    made = []
    for one in make_examples(count):
        (context,) = one.contexts
        number = int(one.id)
        ids = (context.response_ids[0] * 9)[: 1 + 5 * (number % 4)]
        mask = [number != 2] * len(ids)
        context = dataclasses.replace(context, response_ids=[ids], trained=[mask], values=[1.0])
        made.append(Example((context,), one.id, {}))
    return made


def gradient(examples: list[Example], folder: Path, size: int, accumulated: int) -> torch.Tensor:
    """What one plain SGD step moves, by its learning rate."""
    model = adapted()
    before = torch.cat([one.detach().flatten().clone() for one in model.parameters() if one.requires_grad])
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 1, "optim": "sgd",
               "learning_rate": 1.0, "max_grad_norm": 1e9}  # fmt: skip
    constants = SFTConstants(loss_average="sequences")
    AlignmentTrainer(model, get_objective("sft"), constants, examples, arguments(folder, **options)).train()
    return before - torch.cat([one.detach().flatten() for one in model.parameters() if one.requires_grad])


def test_a_step_is_the_mean_over_its_sequences_however_it_is_cut(tmp_path: Path) -> None:
    examples = demonstrations(8)
    whole, parts = (gradient(examples, tmp_path / str(n), 8 // n, n) for n in (1, 4))
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-6)
    singles = [
        gradient([one], tmp_path / one.id, 1, 1) for one in examples if any(one.contexts[0].trained[0])
    ]
    torch.testing.assert_close(whole, torch.stack(singles).mean(0), rtol=1e-3, atol=1e-6)


def test_sequences_without_counted_tokens_are_not_in_the_divisor() -> None:
    batch = collate(demonstrations(4))["batch"]
    assert (batch.count("records"), batch.count("sequences")) == (4, 3)
    assert batch.count("tokens") == 1 + 6 + 16


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 7), st.integers(0, 5))
def test_sorted_groups_hold_everything_once_and_like_lengths_together(
    lengths: list[int], group: int, epoch: int
) -> None:
    sampler = SortedGroups(lengths, group, seed=3)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == [*range(len(lengths))]
    groups = [order[start : start + group] for start in range(0, len(order), group)]
    spans = sorted((min(lengths[one] for one in rows), max(lengths[one] for one in rows)) for rows in groups)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))
    assert order == list(sampler)


def test_epochs_have_other_orders() -> None:
    sampler = SortedGroups([1, 2, 3, 4] * 10, 4, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_dpo_with_a_likelihood_term_adds_the_chosen_ones_mean() -> None:
    lengths = torch.tensor([2, 1])
    policy = ResponseLogps(torch.tensor([-1.0, -3.0, -2.0]), lengths, torch.zeros(2, dtype=torch.int64))
    reference = ResponseLogps(torch.tensor([-1.0, -2.0, -2.5]), lengths, torch.zeros(2, dtype=torch.int64))
    batch = ScoredBatch(policy, reference, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    plain = dpo(batch, DPOConstants()).losses
    more = dpo(batch, AnchoredDPOConstants(nll_weight=0.5)).losses
    assert (more - plain).item() == pytest.approx(0.5 * 2.0)


@given(st.lists(st.integers(-9, 9), max_size=30), st.sets(st.integers(1, 9), max_size=3), st.randoms())
def test_balanced_pairs_tell_nothing_by_length(differences: list[int], edges: set[int], draw) -> None:
    order = [*range(len(differences))]
    draw.shuffle(order)
    kept, buckets = balanced(differences, sorted(edges), order)
    assert kept == sorted(set(kept))
    assert len(kept) == sum(one.kept for one in buckets)
    assert len(differences) == sum(one.kept + one.dropped for one in buckets)
    for one in buckets:
        mine = [
            differences[place] for place in kept
            if one.low <= abs(differences[place]) and (one.high is None or abs(differences[place]) < one.high)
        ]  # fmt: skip
        assert (
            sum(apart > 0 for apart in mine)
            == sum(apart < 0 for apart in mine)
            == min(one.longer, one.shorter)
        )
