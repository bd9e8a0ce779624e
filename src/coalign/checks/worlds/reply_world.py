"""A world of classes and replies: a prompt names a class, a reply of eight symbols is good when it shows the class's
good symbols. Quality can be computed exactly, some of it can be hidden from what a method sees.

Each class has six good symbols, hidden from verifiers and rewards, within twelve allowed ones. The base model learns
from replies of mixed quality: row by row a share q, uniform in [0, 1], of the symbols is drawn from the good ones and
the rest from all. So its samples differ in quality, and it could do better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from coalign.checks.arms import Measures
from coalign.checks.steps import LIKELIHOOD, example, trained
from coalign.checks.tiny_models import TinyGRU, sample, seeded, stream
from coalign.training.batches import Example
from coalign.training.objective import Objective

Replies = list[list[list[int]]]
"""For each prompt its replies, token ids."""


@dataclass(frozen=True)
class ReplyWorld:
    """Token 0 is padding, 1 .. classes are the prompts, the content symbols follow.

    Attributes:
        seed: of everything that is drawn.
        content: content symbols; 36 make a vocabulary of 45.
        temperature: of every sample.
    """

    seed: int
    content: int = 36
    classes: int = 8
    good: int = 6
    allowed: int = 12
    length: int = 8
    temperature: float = 0.8

    @property
    def vocabulary(self) -> int:
        return 1 + self.classes + self.content

    @property
    def order(self) -> Tensor:
        """[classes, content] content symbols of each class: first the good ones, then the other allowed ones."""
        generator = stream(self.seed, "symbols")
        return torch.stack([torch.randperm(self.content, generator=generator) for _ in range(self.classes)])

    def prompts(self, n: int, purpose: str) -> list[list[int]]:
        """`n` prompts of one token each; another purpose draws others."""
        drawn = torch.randint(self.classes, (n,), generator=stream(self.seed, f"prompts/{purpose}"))
        return (drawn[:, None] + 1).tolist()

    def demonstrations(
        self, n: int, purpose: str, quality: tuple[float, float] = (0.0, 1.0)
    ) -> list[Example]:
        """`n` prompts with a reply each; the share of good draws is uniform in `quality`, row by row."""
        prompts = self.prompts(n, purpose)
        generator = stream(self.seed, f"replies/{purpose}")
        low, high = quality
        share = low + (high - low) * torch.rand(n, 1, generator=generator)
        from_good = torch.rand(n, self.length, generator=generator) < share
        place = torch.randint(self.good, (n, self.length), generator=generator)
        good = self.order[torch.tensor(prompts)[:, 0] - 1].gather(1, place)
        other = torch.randint(self.content, (n, self.length), generator=generator)
        replies = torch.where(from_good, good, other) + 1 + self.classes
        return [example(prompt, [reply]) for prompt, reply in zip(prompts, replies.tolist(), strict=True)]

    def base_model(self, rows: int = 4000, epochs: int = 3) -> TinyGRU:
        """A two-layer GRU of width 96, trained from scratch on replies of mixed quality."""
        model = seeded(lambda: TinyGRU(self.vocabulary, width=96, layers=2), self.seed)
        examples = self.demonstrations(rows, "base")
        return trained(
            model,
            examples,
            LIKELIHOOD,
            steps=epochs * rows // 32,
            batch_size=32,
            learning_rate=3e-3,
            generator=stream(self.seed, "base/order"),
        )

    def replies(self, model: TinyGRU, prompts: list[list[int]], n: int, purpose: str) -> Replies:
        """`n` sampled replies to every prompt."""
        return sample(
            model,
            prompts,
            stream(self.seed, f"samples/{purpose}"),
            n=n,
            max_new_tokens=self.length,
            temperature=self.temperature,
        )

    def task_scores(self, prompts: list[list[int]], replies: Replies) -> Tensor:
        """[P, n] share of the class's good symbols that a reply shows. What a method aims at and never sees."""
        symbols, order = self._symbols(prompts, replies)
        present = symbols[..., None] == order[:, None, None, : self.good]
        return present.any(dim=2).float().mean(dim=-1)

    def allowed_shares(self, prompts: list[list[int]], replies: Replies) -> Tensor:
        """[P, n] share of a reply's symbols that its class allows."""
        symbols, order = self._symbols(prompts, replies)
        return (symbols[..., None] == order[:, None, None, : self.allowed]).any(dim=-1).float().mean(dim=-1)

    def distinct_shares(self, replies: Replies) -> Tensor:
        """[P, n] share of distinct symbols in a reply."""
        ordered = torch.tensor(replies).sort(dim=-1).values
        return 1 - (ordered[..., 1:] == ordered[..., :-1]).sum(dim=-1) / ordered.shape[-1]

    def satisfaction(self, prompts: list[list[int]], replies: Replies) -> Tensor:
        """[P, n] mean of the two constraints: only allowed symbols, no repetition."""
        return (self.allowed_shares(prompts, replies) + self.distinct_shares(replies)) / 2

    def _symbols(self, prompts: list[list[int]], replies: Replies) -> tuple[Tensor, Tensor]:
        """[P, n, length] content symbols (negative for others) and [P, content] their order for the prompt's class."""
        order = self.order[torch.tensor(prompts)[:, 0] - 1]
        return torch.tensor(replies) - 1 - self.classes, order


@dataclass(frozen=True)
class SampledReplies:
    """What the arms of a seed share: the base model and its own replies to unlabelled prompts."""

    world: ReplyWorld
    base: TinyGRU
    prompts: list[list[int]]
    replies: Replies


def sampled_replies(seed: int, prompts: int = 400, samples: int = 4) -> SampledReplies:
    """World, base model and samples of a seed, with 24 content symbols."""
    world = ReplyWorld(seed, content=24)
    base = world.base_model()
    drawn = world.prompts(prompts, "training")
    return SampledReplies(world, base, drawn, world.replies(base, drawn, samples, "training"))


def untrained_arm(material: SampledReplies) -> Measures:
    """The base model itself."""
    return satisfaction_and_task(material.world, material.base)


def training_arm(
    objective: Objective, constants: Any, replies: Literal["all", "best", "first"], *, batch_size: int = 16
) -> Callable[[SampledReplies], Measures]:
    """Training for two epochs at 1e-3 on all replies, the most satisfying or the first of each prompt; prompts in the
    same order for every arm, `batch_size` of them a step."""

    def measure(material: SampledReplies) -> Measures:
        scores = material.world.satisfaction(material.prompts, material.replies)
        policy = trained(
            material.base,
            [
                _example(prompt, row, values, replies)
                for prompt, row, values in zip(
                    material.prompts, material.replies, scores.tolist(), strict=True
                )
            ],
            objective,
            constants,
            steps=2 * len(material.prompts) // batch_size,
            batch_size=batch_size,
            learning_rate=1e-3,
            generator=stream(material.world.seed, "training/order"),
        )
        return satisfaction_and_task(material.world, policy)

    return measure


def satisfaction_and_task(
    world: ReplyWorld, model: TinyGRU, prompts: int = 300, samples: int = 4
) -> Measures:
    """Mean constraint satisfaction and hidden task score of samples on held-out prompts."""
    held_out = world.prompts(prompts, "evaluation")
    replies = world.replies(model, held_out, samples, "evaluation")
    return {
        "satisfaction": float(world.satisfaction(held_out, replies).mean()),
        "task score": float(world.task_scores(held_out, replies).mean()),
    }


def _example(prompt: list[int], replies: list[list[int]], values: list[float], which: str) -> Example:
    if which == "all":
        return example(prompt, replies, values)
    return example(prompt, [replies[values.index(max(values)) if which == "best" else 0]])
