"""Demonstrations of mixed quality in the world of copying, and an aligned model that votes on them.

Of 1500 demonstrations 600 copy 5 % of the letters rightly and 900 copy 95 %; the aligned model learned from
demonstrations of 95 % alone. For objectives that weigh records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.starts import Start, learned
from coalign.checks.steps import example, frozen_logps, one_each
from coalign.checks.worlds.copying.copying import CopyingWorld, mean_gold
from coalign.training.batches import Example
from coalign.training.objective import Objective

EVALUATED = (300, 600, 900)
"""Steps after which is measured."""
Weigh = Callable[[Tensor, Tensor], Tensor]
"""([R] log-probabilities averaged over tokens under the model in training, [R] under the aligned one) to weights."""


@dataclass(frozen=True)
class MixedDemonstrations(Start[CopyingWorld]):
    """What the arms of a seed share: a model with random weights, and demonstrations (`good`, `bad`, `all`) with the
    aligned model's votes as a column.

    Attributes:
        aligned: the model that votes.
        votes: name of that column.
    """

    aligned: nn.Module
    votes: str


def mixed_demonstrations(seed: int, *, votes: str, ends: str) -> MixedDemonstrations:
    """World, aligned model and demonstrations of a seed.

    Args:
        votes: column for the aligned model's log-probability of the response without its end, averaged over tokens.
        ends: column for the number of tokens that end a response.
    """
    aligned = CopyingWorld(seed + 1000, copy_rates=(0.95,)).base_model(steps=400)
    world = CopyingWorld(seed)
    parts = []
    for size, rate in ((900, 0.95), (600, 0.05)):
        examples = world.demonstrations(size, f"records/{rate}", torch.full((size,), rate))
        columns = [{votes: vote, ends: 1} for vote in _content_logps(aligned, examples).tolist()]
        parts.append(
            [
                example(record.prompt_ids, record.response_ids, **more)
                for record, more in zip((one.contexts[0] for one in examples), columns, strict=True)
            ]
        )
    panels = {"good": parts[0], "bad": parts[1], "all": parts[0] + parts[1]}
    return MixedDemonstrations(world, world.untrained_model(), panels, {}, aligned, votes)


def aligned_arm(material: MixedDemonstrations) -> Measures:
    """The aligned model itself."""
    gold = mean_gold(material.world, material.aligned)
    return {f"gold, {step}": gold for step in EVALUATED}


def mixed_arm(
    objective: Objective | str, constants: Any, weigh: Weigh
) -> Callable[[MixedDemonstrations], Measures]:
    """Training from random weights; gold on the way, and in how many epochs good records had the larger weight."""

    def arm(material: MixedDemonstrations) -> Measures:
        size = len(material.panels["all"])
        ends = {math.ceil(epoch * size / 64) for epoch in range(1, EVALUATED[-1] * 64 // size)}
        measures: Measures = {}
        ordered: list[bool] = []

        def mean_weight(model: nn.Module, panel: str) -> float:
            examples = material.panels[panel]
            votes = torch.tensor([one.extras[material.votes][0] for one in examples])
            return float(weigh(_content_logps(model, examples), votes).mean())

        def watch(step: int, model: nn.Module) -> None:
            if step in EVALUATED:
                measures[f"gold, {step}"] = mean_gold(material.world, model)
            if step in ends:
                ordered.append(mean_weight(model, "good") > mean_weight(model, "bad"))

        learned(
            material,
            objective,
            constants,
            "all",
            steps=EVALUATED[-1],
            batch_size=64,
            learning_rate=2e-3,
            order="records/order",
            on_step=watch,
        )
        return {**measures, "good above bad": sum(ordered) / len(ordered)}

    return arm


def _content_logps(model: nn.Module, examples: Sequence[Example]) -> Tensor:
    """[R] log-probability of each response without its end, averaged over tokens."""
    records = [one.contexts[0] for one in examples]
    contents = one_each([one.prompt_ids for one in records], [one.response_ids[0][:-1] for one in records])
    return frozen_logps(model, contents).means()
