"""Kinds of task whose quality is a sum of capabilities, over token sequences, and the reward models that learn it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForSequenceClassification

from coalign.checks.tiny_models import seeded, stream
from coalign.models.adapters import add_adapter
from coalign.models.options import ModelOptions
from coalign.models.reward_mixture import Aggregator
from coalign.training.losses.bradley_terry import bradley_terry_losses

TASKS, POINTS = 3, 3
VOCABULARY, LENGTH, WIDTH = 24, 16, 64
BATCH = 128
Rewards = Callable[[Tensor], Tensor]
"""[N, T] token ids to [N] rewards."""


@dataclass(frozen=True)
class Pairs:
    """[N, 2, T] token ids of two responses behind their task's marker; the first is called the better one."""

    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: float, end: float) -> Pairs:
        """The pairs between two shares of them."""
        return Pairs(self.ids[int(start * len(self)) : int(end * len(self))])


class CapabilityWorld:
    """Three tasks with three capabilities each. A capability's score is linear in the counts of the response's tokens, the
    overall quality is the sum of a task's three, and the qualities of any two tasks have correlation -0.5.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        draw = stream(seed, "capabilities")
        size = VOCABULARY - TASKS
        drawn = torch.randn(size, 2, generator=draw)
        plane, _ = torch.linalg.qr(
            drawn - drawn.mean(0)
        )  # counts sum up to one length, so a constant says nothing
        angles = torch.arange(TASKS) * 2 * torch.pi / TASKS
        overall = torch.stack([plane @ torch.stack([angle.cos(), angle.sin()]) for angle in angles])
        own = torch.randn(TASKS, POINTS, size, generator=draw) / size**0.5
        self.directions = overall[:, None] / POINTS + own - own.mean(1, keepdim=True)

    def quality(self, ids: Tensor, task: int, point: int | None = None) -> Tensor:
        """[N] overall quality of responses [N, T], or their score in one capability."""
        direction = self.directions[task].sum(0) if point is None else self.directions[task, point]
        return direction[ids[:, 1:] - TASKS].sum(1)

    def responses(self, task: int, count: int, purpose: str) -> Tensor:
        """[N, T] random responses to a task: its marker, then tokens."""
        draw = stream(self.seed, f"{purpose}/{task}")
        tokens = torch.randint(TASKS, VOCABULARY, (count, LENGTH - 1), generator=draw)
        return torch.cat([torch.full((count, 1), task), tokens], dim=1)

    def pairs(self, task: int, count: int, flips: float, purpose: str, point: int | None = None) -> Pairs:
        """Labelled pairs; a share of the labels is wrong."""
        ids = self.responses(task, 2 * count, f"{purpose}/{point}")
        better = (self.quality(ids, task, point)).view(count, 2).argmax(1)
        wrong = torch.rand(count, generator=stream(self.seed, f"{purpose}/{task}/{point}/flips")) < flips
        order = torch.where(wrong, 1 - better, better)
        both = ids.view(count, 2, LENGTH)
        rows = torch.arange(count)
        return Pairs(torch.stack([both[rows, order], both[rows, 1 - order]], dim=1))


def new_model(seed: int) -> LlamaForSequenceClassification:
    """A transformer of 2 layers and width 64 with random weights and a linear head."""
    shape: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2}
    ids: dict[str, Any] = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "num_labels": 1}
    config = LlamaConfig(vocab_size=VOCABULARY, num_attention_heads=4, **shape, **ids)
    return seeded(lambda: LlamaForSequenceClassification(config), seed)


def states_of(model: Any, ids: Tensor) -> Tensor:
    """[N, D] states at the last token of rows [N, T], which have one length."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bare.model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]


def rewards_of(model: Any, ids: Tensor) -> Tensor:
    """[N] rewards of rows [N, T]."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bare.score(states_of(model, ids))[:, 0]


def fitted(
    weights: nn.Module,
    rewards: Callable[[Tensor], Tensor],
    pairs: Pairs | Tensor,
    *,
    epochs: int,
    rate: float,
    seed: int,
) -> None:
    """Bradley-Terry on pairs in place: batches of 128, Adam, the rate falling to 0.

    Args:
        rewards: rows of both responses of a batch to their rewards.
        pairs: pairs of rows, or [N, 2, ...] of what stands for them.
    """
    data = pairs.ids if isinstance(pairs, Pairs) else pairs
    optimizer = torch.optim.Adam([one for one in weights.parameters() if one.requires_grad], lr=rate)
    order, steps = stream(seed, "order"), epochs * -(-len(data) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(data), generator=order).split(BATCH):
            found = rewards(data[rows].flatten(0, 1)).view(-1, 2)
            loss = bradley_terry_losses(found[:, 0], found[:, 1]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def single(pairs: Pairs, *, epochs: int, seed: int, rate: float = 1e-3) -> LlamaForSequenceClassification:
    """One reward model on all pairs."""
    model = new_model(seed)
    fitted(model, lambda ids: rewards_of(model, ids), pairs, epochs=epochs, rate=rate, seed=seed)
    return model.eval()


def expert(base: nn.Module, pairs: Pairs, *, epochs: int, seed: int, rate: float = 3e-3) -> Any:
    """The base under an adapter of rank 4 on queries and values, with a head of its own, trained on one capability."""
    options = ModelOptions(adapter_rank=4, adapter_alpha=8.0, adapter_targets=["q_proj", "v_proj"])
    frozen: Any = copy.deepcopy(base)
    model = seeded(lambda: add_adapter(frozen, options, task="SEQ_CLS"), seed)
    fitted(model, lambda ids: rewards_of(model, ids), pairs, epochs=epochs, rate=rate, seed=seed)
    return model.eval()


def combined(models: Sequence[Any], pairs: Pairs, *, epochs: int, seed: int, rate: float = 1e-3) -> Rewards:
    """The experts' states under an aggregator that is trained on the overall labels."""

    def states(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([states_of(model, ids) for model in models], dim=1)

    aggregator = seeded(lambda: Aggregator(len(models), WIDTH), seed)
    data = states(pairs.ids.flatten(0, 1)).view(len(pairs), 2, -1)
    fitted(aggregator, aggregator, data, epochs=epochs, rate=rate, seed=seed)
    return lambda ids: aggregator(states(ids))
