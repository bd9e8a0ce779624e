"""A world of classes and replies whose prompts can carry the score that a reply should reach.

A prompt is a score token and a class token, a reply is eight symbols. A reply's true score from 0 to 6 is highest for
four good symbols and falls for fewer and, faster, for more; so the best reply is not the extreme one. The base model
learns from replies of mixed quality, half of them under a score (the true one, up to 2 off), half under `none`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.starts import Start, pretrained, start_with, training_arm
from coalign.checks.steps import example, frozen_logps, one_each
from coalign.checks.tiny_models import TinyGRU, sample, seeded, stream
from coalign.checks.worlds.replies.replies import ReplyWorld
from coalign.training.batches import Example
from coalign.training.objective import Objective

HIGHEST = 6
GOALS = tuple(range(HIGHEST + 1))
GoalReward = Callable[[Tensor, Tensor], Tensor]
"""(scores, goals) to the reward of each reply, elementwise."""


@dataclass(frozen=True)
class ScoredPair:
    """Two replies to a class with their true scores, the better one first."""

    cls: int
    chosen: list[int]
    rejected: list[int]
    chosen_score: int
    rejected_score: int


@dataclass(frozen=True)
class ScoredWorld:
    """Replies with scores.

    Attributes:
        replies: classes, symbols and good symbols. Tokens beyond its vocabulary are the scores 0 to 6 and `none`.
    """

    replies: ReplyWorld

    @property
    def seed(self) -> int:
        return self.replies.seed

    @property
    def none(self) -> int:
        """The token of a prompt that asks for no score."""
        return self.replies.vocabulary + len(GOALS)

    def prompt(self, cls: int, goal: int | None = None) -> list[int]:
        """Score token and class token."""
        return [self.none if goal is None else self.replies.vocabulary + goal, cls]

    def score(self, classes: list[int], replies: list[list[int]]) -> Tensor:
        """[N] true scores, whole numbers from 0 to 6: `6 - 1.5 (4 - n)` for n up to 4 good symbols in the reply,
        `6 - 2 (n - 4)` above, not below 0, rounded.
        """
        world = self.replies
        order = world.order[torch.tensor(classes) - 1][:, : world.good]
        symbols = torch.tensor(replies) - 1 - world.classes
        n = (symbols[:, :, None] == order[:, None, :]).any(-1).sum(-1).float()
        values = torch.where(n <= 4, HIGHEST - 1.5 * (4 - n), HIGHEST - 2 * (n - 4))
        return values.clamp(min=0).round()

    def base_model(self, rows: int = 12_000, epochs: int = 3) -> TinyGRU:
        """A two-layer GRU of width 96, trained from scratch."""
        plain = [one.contexts[0] for one in self.replies.demonstrations(rows, "base")]
        classes = [one.prompt_ids[0] for one in plain]
        replies = [one.response_ids[0] for one in plain]
        generator = stream(self.seed, "base/goals")
        off = torch.randint(-2, 3, (rows,), generator=generator)
        goals = (self.score(classes, replies) + off).clamp(0, HIGHEST).long().tolist()
        silent = (torch.rand(rows, generator=generator) < 0.5).tolist()
        examples = [
            example(self.prompt(cls, None if quiet else goal), [reply])
            for cls, goal, quiet, reply in zip(classes, goals, silent, replies, strict=True)
        ]
        model = seeded(lambda: TinyGRU(self.none + 1, width=96, layers=2), self.seed)
        return pretrained(model, examples, self.seed, steps=epochs * rows // 32, batch_size=32)

    def sampled(
        self, model: nn.Module, classes: list[int], goal: int | None, n: int, purpose: str
    ) -> list[list[list[int]]]:
        """`n` replies to every class, sampled at temperature 1."""
        generator = stream(self.seed, f"samples/{purpose}")
        prompts = [self.prompt(cls, goal) for cls in classes]
        return sample(model, prompts, generator, n=n, max_new_tokens=self.replies.length)

    def pairs(self, model: nn.Module, n: int = 1500) -> list[ScoredPair]:
        """`n` pairs of samples to prompts that ask for no score, of different true scores."""
        classes = [one[0] for one in self.replies.prompts(2 * n, "pairs")]
        found: list[ScoredPair] = []
        for cls, (first, second) in zip(classes, self.sampled(model, classes, None, 2, "pairs"), strict=True):
            one, other = self.score([cls, cls], [first, second]).int().tolist()
            if one > other:
                found.append(ScoredPair(cls, first, second, one, other))
            elif other > one:
                found.append(ScoredPair(cls, second, first, other, one))
        return found[:n]

    def quality(
        self, model: nn.Module, goal: int | None = None, prompts: int = 300, samples: int = 2
    ) -> float:
        """Mean true score of samples under a goal, or under none, as a share of the highest."""
        classes = [one[0] for one in self.replies.prompts(prompts, "evaluation")]
        replies = self.sampled(model, classes, goal, samples, "evaluation")
        flat = [reply for row in replies for reply in row]
        owners = [cls for cls in classes for _ in range(samples)]
        return float(self.score(owners, flat).mean()) / HIGHEST

    def measure(self, model: nn.Module, reference: nn.Module | None = None) -> Measures:
        """Quality under every goal and under none. Nothing is compared with a `reference`."""
        measures = {f"quality, goal {one}": self.quality(model, one) for one in GOALS}
        return {**measures, "quality, no goal": self.quality(model)}


@dataclass(frozen=True)
class ScoredPairs(Start[ScoredWorld]):
    """What the arms of a seed share: also the scored pairs of the base model that the panels are made of."""

    pairs: list[ScoredPair]


def scored_pairs(seed: int, *, reward: GoalReward) -> ScoredPairs:
    """World, base model and pairs of a seed: as they are (`pairs`), relabelled by `reward` (`rows`), and the rows of the
    first half of the pairs (`half of the rows`). See `pair_rows`.
    """
    world = ScoredWorld(ReplyWorld(seed))
    base = world.base_model()
    pairs = world.pairs(base)
    panels = {
        "pairs": pair_rows(pairs, world, None),
        "rows": pair_rows(pairs, world, reward),
        "half of the rows": pair_rows(pairs[: round(0.5 * len(pairs))], world, reward),
    }
    return ScoredPairs(**vars(start_with(world, base, panels, compared=panels)), pairs=pairs)


def pair_rows(pairs: list[ScoredPair], world: ScoredWorld, reward: GoalReward | None) -> list[Example]:
    """Pairs under prompts that ask for no score; or, with a reward, two rows a pair, under the score of either reply,
    in which the reply of the higher reward is preferred.
    """
    if reward is None:
        return [example(world.prompt(one.cls), [one.chosen, one.rejected], [1.0, 0.0]) for one in pairs]
    rows = []
    for one in pairs:
        scores = torch.tensor([one.chosen_score, one.rejected_score])
        for goal in scores.tolist():
            rewards = reward(scores, torch.full((2,), goal)).tolist()
            replies = [one.chosen, one.rejected] if rewards[0] > rewards[1] else [one.rejected, one.chosen]
            rows.append(example(world.prompt(one.cls, goal), replies, [1.0, 0.0]))
    return rows


def base_arm(material: ScoredPairs) -> Measures:
    """The base model itself."""
    return measures_under(material, material.base, goal=None)


def goal_arm(
    objective: Objective | str, constants: Any, panel: str, *, goal: int | None, epochs: int = 3
) -> Callable[[ScoredPairs], Measures]:
    """Training for `epochs` passes in batches of 32 at 1e-3, measured under `goal`, or under none."""
    measure = partial(measures_under, goal=goal)
    return training_arm(objective, constants, panel, epochs=epochs, learning_rate=1e-3, measure=measure)


def measures_under(material: ScoredPairs, model: nn.Module, *, goal: int | None) -> Measures:
    """Change of the log-probability of good rejected replies (score 4 or more) against the base model under the goal
    that is used at inference, nats a reply, and for a goal also under the next lower one; and the quality of samples.
    """
    good = [one for one in material.pairs if one.rejected_score >= 4]

    def change(goal: int | None) -> float:
        prompts = [material.world.prompt(one.cls, goal) for one in good]
        scored = one_each(prompts, [one.rejected for one in good])
        return float((frozen_logps(model, scored).sums() - frozen_logps(material.base, scored).sums()).mean())

    measures = {"good rejected, change": change(goal)}
    if goal is not None:
        measures[f"good rejected, change, goal {goal - 1}"] = change(goal - 1)
    return measures | material.world.measure(model)
