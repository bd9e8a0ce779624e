"""The world of classes and replies for a model that also judges: after a judge token, a class and two replies it writes
the letter of the better one.

M1 has learned to reply from replies of mixed quality and to judge from pairs of them, a share of which is labelled
wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.starts import Start, pretrained
from coalign.checks.steps import example, reference_logps, score, trained
from coalign.checks.tiny_models import TinyGRU, seeded, stream
from coalign.checks.worlds.replies.replies import ReplyWorld
from coalign.selfalign.own_judge.opinions import judged_probabilities, select
from coalign.selfalign.scir import Constants
from coalign.training.batches import Example, collate
from coalign.training.objective import Objective, get_objective

BATCH = 100
"""Pairs that are judged together."""


@dataclass(frozen=True)
class JudgingWorld:
    """Replies, and pairs of them as a judge is asked; three more tokens: the judge's, A and B.

    Attributes:
        replies: classes, symbols and true quality.
    """

    replies: ReplyWorld

    @property
    def seed(self) -> int:
        return self.replies.seed

    def question(self, prompt: list[int], first: list[int], second: list[int]) -> list[int]:
        """Judge token, class and both replies."""
        return [self.replies.vocabulary, *prompt, *first, *second]

    @property
    def letters(self) -> tuple[int, int]:
        """A and B."""
        return self.replies.vocabulary + 1, self.replies.vocabulary + 2

    def pair(self, prompt: list[int], first: list[int], second: list[int]) -> Example:
        """A pair as `internal_consistency` reads it: both replies, and the letters after both orders."""
        nothing, letters = [float("nan")] * 2, [[one] for one in self.letters]
        parts = [
            example(prompt, [first, second], [1.0, 0.0]),
            example(self.question(prompt, first, second), letters, nothing),
            example(self.question(prompt, second, first), letters, nothing),
        ]
        return Example(tuple(one.contexts[0] for one in parts), "", {})

    def verdicts(self, n: int, wrong: float) -> list[Example]:
        """`n` pairs of replies of mixed quality with the letter of the better one, or with the other letter in a share
        `wrong` of them.
        """
        rows = [one.contexts[0] for one in self.replies.demonstrations(4 * n, "verdicts")]
        generator, found = stream(self.seed, "verdicts/wrong"), []
        for row in rows:
            prompt, first = row.prompt_ids, row.response_ids[0]
            other = next(one for one in rows if one.prompt_ids == prompt and one is not row)
            rows.remove(other)
            qualities = self.replies.task_scores([prompt], [[first, other.response_ids[0]]])[0]
            if qualities[0] == qualities[1]:
                continue
            better = int(qualities[1] > qualities[0])
            if float(torch.rand((), generator=generator)) < wrong:
                better = 1 - better
            found.append(
                example(self.question(prompt, first, other.response_ids[0]), [[self.letters[better]]])
            )
            if len(found) == n:
                break
        return found

    def fresh(self, model: nn.Module, n: int, purpose: str) -> tuple[list[Example], Tensor]:
        """`n` pairs that a model samples, and [n, 2] their true qualities."""
        prompts = self.replies.prompts(n, purpose)
        replies = self.replies.replies(model, prompts, 2, purpose)
        pairs = [self.pair(prompt, *row) for prompt, row in zip(prompts, replies, strict=True)]
        return pairs, self.replies.task_scores(prompts, replies)

    def measure(self, model: nn.Module, reference: nn.Module | None = None) -> Measures:
        """Mean true quality of samples on held-out prompts."""
        return {"task score": self.replies.measure(model)["task score"]}


def judging_model(
    seed: int, *, rows: int = 4000, verdicts: int = 600, wrong: float = 0.25, epochs: int = 3
) -> Start[JudgingWorld]:
    """World and M1 of a seed."""
    world = JudgingWorld(ReplyWorld(seed))
    shown = [*world.replies.demonstrations(rows, "base"), *world.verdicts(verdicts, wrong)]
    model = seeded(lambda: TinyGRU(world.replies.vocabulary + 3, width=96, layers=2), seed)
    base = pretrained(model, shown, seed, steps=epochs * len(shown) // 32, batch_size=32)
    return Start(world, base, {}, {})


def probabilities(
    model: nn.Module, reference: nn.Module, pairs: list[Example], constants: Constants
) -> Tensor:
    """[2, n] what the implicit reward and the judge give the first reply of each pair."""
    found = []
    for start in range(0, len(pairs), BATCH):
        part = pairs[start : start + BATCH]
        with torch.no_grad():
            fixed = reference_logps(reference, part)
            found.append(judged_probabilities(score(model, collate(part)["batch"], fixed), constants)[0])
    return torch.cat(found, dim=1)


def rounds_arm(
    constants: Constants,
    *,
    labelled: bool = False,
    rounds: int = 2,
    pairs: int = 256,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
) -> Callable[[Start[JudgingWorld]], Measures]:
    """Rounds over fresh pairs, one epoch each, compared with the round's start model.

    Measured: task score; on 500 fresh pairs of M1, how often both rewards of the last model agree, how often its judge
    is right, and how often it is right on the pairs on which both agree.

    Args:
        labelled: plain self-rewarding: DPO on all pairs in the order that the judge gives them before the training.
    """

    def arm(material: Start[JudgingWorld]) -> Measures:
        world, before, model = material.world, material.base, material.base
        for number in range(1, rounds + 1):
            before = model
            asked, _ = world.fresh(model, pairs, f"round {number}")
            objective: Objective = get_objective("internal_consistency")
            learned: Any = constants
            if labelled:
                first = probabilities(model, model, asked, constants)[1] > 0.5
                asked = [_ordered(one, bool(keep)) for one, keep in zip(asked, first, strict=True)]
                objective, learned = get_objective("dpo"), None
            model = trained(
                model,
                asked,
                objective,
                learned,
                steps=pairs // batch_size,
                batch_size=batch_size,
                learning_rate=learning_rate,
                generator=stream(world.seed, f"round {number}/order"),
                reference=reference_logps(before, asked),
            )
        held_out, truth = world.fresh(material.base, 500, "fresh pairs")
        p = probabilities(model, before, held_out, constants)
        kept, first = select(p, confidence=constants.min_confidence)
        told = truth[:, 0] != truth[:, 1]
        right = (first == (truth[:, 0] > truth[:, 1])).float()
        return {
            **world.measure(model),
            "agreement": float(((p[0] > 0.5) == (p[1] > 0.5)).float().mean()),
            "kept": float(kept.float().mean()),
            "accuracy, all": float(right[told].mean()),
            "accuracy, kept": float(right[told & kept].mean()),
            "first wins": float(first.float().mean()),
        }

    return arm


def _ordered(pair: Example, first: bool) -> Example:
    """The two replies alone, the preferred one first."""
    one = pair.contexts[0]
    replies = one.response_ids if first else one.response_ids[::-1]
    return example(one.prompt_ids, replies, [1.0, 0.0])
