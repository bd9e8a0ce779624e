"""Preferences of several tastes over feature vectors: linear teachers that share one direction, and a small reward model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.tiny_models import seeded, stream
from coalign.measures.calibration import both_orders, calibration_error, cross_fitted
from coalign.models.scoring.sequence_states import SequenceStates
from coalign.training.reward_models.groups import groups_of
from coalign.training.reward_models.report import margins_of
from coalign.training.reward_models.task import RewardExample, RewardTask

WIDTH, HIDDEN = 20, 64
GROUPS = 8
"""Groups of one pair a data set in a step."""


class FeatureRewards(nn.Module):
    """Two layers over a feature vector: `score(tanh(W x))`, with a linear head without bias as MORE needs it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1, bias=False)

    def forward(self, features: Tensor) -> SequenceStates:
        """[B, D] features."""
        states = self.hidden(features).tanh()
        return SequenceStates(states, self.score(states))


class FeatureInputs:
    """Feature vectors as what a reward model reads."""

    def states(self, model: nn.Module, groups: Sequence[Sequence[Tensor]]) -> SequenceStates:
        return model(torch.stack([one for group in groups for one in group]))

    def rewards(self, model: nn.Module, groups: Sequence[Sequence[Tensor]]) -> Tensor:
        return self.states(model, groups).outputs[:, 0]


@dataclass(frozen=True)
class Tastes:
    """Pairs of several data sets.

    Attributes:
        seed: of the model's first weights and of the order.
        width: of the features.
    """

    training: list[RewardExample]
    test: list[RewardExample]
    seed: int
    width: int = WIDTH


def linear_tastes(
    seed: int, *, tasks: int = 5, pairs: int = 600, test: int = 300, flips: float = 0.2
) -> Tastes:
    """Each teacher prefers by the sum of a direction that all share and one of its own; all but the first err in a share
    of their labels, in the test too.
    """
    draw = stream(seed, "tastes")
    shared = torch.randn(WIDTH, generator=draw)
    parts: tuple[list[RewardExample], list[RewardExample]] = ([], [])
    for task in range(tasks):
        taste = (shared + torch.randn(WIDTH, generator=draw)) / WIDTH**0.5
        for number in range(pairs + test):
            features = torch.randn(2, WIDTH, generator=draw)
            better = bool(features[0] @ taste > features[1] @ taste)
            if task and float(torch.rand((), generator=draw)) < flips:
                better = not better
            values = (float(better), float(not better))
            one = RewardExample(str(number), str(task), (features[0], features[1]), values)
            parts[number >= pairs].append(one)
    return Tastes(parts[0], parts[1], seed)


MakeTask = Callable[[Any, Sequence[str]], RewardTask]


def learnt(world: Tastes, make_task: MakeTask, *, epochs: int, rate: float = 1e-3) -> Measures:
    """Train a reward model on groups of the data sets, and measure it on the test pairs.

    Args:
        make_task: inputs and tags to the task that is learnt.

    Returns:
        Accuracy; calibration error of 5, 10 and 20 bins over all pairs, and of 10 bins after temperature scaling; and
        where the task weighs data sets, the least weight of each step on average.
    """
    tags = list(dict.fromkeys(one.tag for one in world.training))
    task = make_task(FeatureInputs(), tags)
    model = seeded(lambda: FeatureRewards(world.width), world.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    groups, order = groups_of(world.training, None, world.seed), stream(world.seed, "order")
    weights: list[float] = []
    for _ in range(epochs):
        shuffled = torch.randperm(len(groups), generator=order).tolist()
        for start in range(0, len(groups), GROUPS):
            chosen = [groups[place] for place in shuffled[start : start + GROUPS]]
            batch = task.collate([one for group in chosen for one in group])
            made: Any = task.loss(model, batch, None)  # type: ignore[arg-type]
            loss = made.losses.sum() / task.count(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            least = [float(value) for name, value in made.metrics.items() if name.startswith("weight/")]
            weights += [min(least)] if least else []
    found = measured(model.eval(), world.test)
    return found | ({"least weight": sum(weights) / len(weights)} if weights else {})


@torch.no_grad()
def measured(model: nn.Module, test: Sequence[RewardExample]) -> Measures:
    """Order and calibration of pairs under a reward model."""
    rewards = FeatureInputs().rewards(model, [one.inputs for one in test]).view(len(test), 2).tolist()
    rows: list[Mapping[str, Any]] = [
        {"values": one.values, "rewards": found} for one, found in zip(test, rewards, strict=True)
    ]
    margins = margins_of(rows)
    by_bins = {
        f"ECE, {bins} bins": calibration_error(*both_orders(margins), bins=bins).ece for bins in (5, 10, 20)
    }
    return {
        "accuracy": sum(one > 0 for one in margins) / len(margins),
        **by_bins,
        "ECE, temperature scaled": calibration_error(*both_orders(cross_fitted(margins))).ece,
    }
