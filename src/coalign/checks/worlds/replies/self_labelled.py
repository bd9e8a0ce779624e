"""Rounds in which a model of the world of classes and replies learns from pairs that it labels itself.

M0 has learned from replies of mixed quality, M1 also from a few good ones. In every round the model of the round
answers fresh prompts; what it labels with, and what is learned, belong to the arm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.starts import Start, pretrained
from coalign.checks.steps import frozen_logps, reference_logps, trained
from coalign.checks.tiny_models import TinyGRU, stream
from coalign.checks.worlds.replies.replies import Replies, ReplyWorld
from coalign.models.types import Responses
from coalign.training.batches import Example
from coalign.training.objective import Objective, get_objective


@dataclass(frozen=True)
class Lineage(Start[ReplyWorld]):
    """What the arms of a seed share: the models M0 and M1 (`base`) of a world.

    Attributes:
        first: M0.
    """

    first: TinyGRU


Label = Callable[[ReplyWorld, Sequence[nn.Module], list[list[int]], Replies], tuple[list[Example], Measures]]
"""(world, models M0 ... Mt, prompts, their replies under Mt) to pairs to learn from, and what is measured of them."""


def fine_tuned(
    seed: int, *, good: tuple[float, float] = (0.7, 1.0), rows: int = 200, epochs: int = 3
) -> Lineage:
    """M0, and M1 after `epochs` over `rows` replies with a share of good draws in `good`."""
    world = ReplyWorld(seed)
    first = world.base_model()
    shown = world.demonstrations(rows, "seed data", good)
    steps = epochs * rows // 32
    tuned = pretrained(first, shown, seed, steps=steps, batch_size=32, order="seed data/order")
    return Lineage(world, tuned, {}, {}, first)


def summed_logps(model: nn.Module, prompts: list[list[int]], replies: Replies) -> Tensor:
    """[P, n] log-probabilities of the replies, summed over their tokens."""
    flat = Responses(prompts, [one for row in replies for one in row], _owners(replies))
    return frozen_logps(model, flat).sums().view(len(replies), -1)


def _owners(replies: Replies) -> list[int]:
    return [place for place, row in enumerate(replies) for _ in row]


def rounds_arm(
    label: Label,
    *,
    objective: str | Objective = "soft_dpo",
    constants: Any = None,
    rounds: int = 3,
    prompts: int = 256,
    samples: int = 5,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
) -> Callable[[Lineage], Measures]:
    """Rounds of fresh prompts, samples, labels and one epoch that starts from and is compared with the round's model.

    Measured: the task score of every model from M1 on, and what `label` says of every round.
    """
    learned = get_objective(objective) if isinstance(objective, str) else objective

    def arm(material: Lineage) -> Measures:
        world, models = material.world, [material.first, material.base]
        found: Measures = {"task score M1": world.measure(material.base)["task score"]}
        for number in range(1, rounds + 1):
            asked = world.prompts(prompts, f"round {number}")
            replies = world.replies(models[-1], asked, samples, f"round {number}")
            pairs, said = label(world, models, asked, replies)
            found |= {f"{name}, round {number}": value for name, value in said.items()}
            models.append(
                trained(
                    models[-1],
                    pairs,
                    learned,
                    constants,
                    steps=max(1, len(pairs) // batch_size),
                    batch_size=batch_size,
                    learning_rate=learning_rate,
                    generator=stream(world.seed, f"round {number}/order"),
                    reference=reference_logps(models[-1], pairs) if learned.reference else None,
                )
            )
            found[f"task score M{number + 1}"] = world.measure(models[-1])["task score"]
        return {**found, "task score": found[f"task score M{rounds + 1}"]}

    return arm
