"""A world of copying with a judge who says of each of the three letters of an answer whether it is right.

A prompt has three letters, an answer should repeat them. The judgment of an answer is three tokens that stand after
the prompt; an answer without a fault has none. The answers are the starting model's own, so about four of ten letters
are wrong, and which tokens of a judged answer a method calls inappropriate can be held against the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.steps import LIKELIHOOD, example, frozen_logps, trained
from coalign.checks.tiny_models import seeded, stream, tiny_transformer
from coalign.checks.worlds.preference_world import PreferenceWorld
from coalign.models.types import ResponseLogps, Responses
from coalign.training.batches import Example
from coalign.training.objective import Objective

STEPS = (150, 300, 450)
"""After how many steps models are measured."""
Detect = Callable[[Tensor, Tensor], Tensor]
"""([N] token log-probabilities after prompt and judgment, [N] after the prompt) to [N] whether a token is inappropriate."""


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer and what the judge says of it.

    Attributes:
        right: of the first three places whether the letter is the prompt's; a place that is not there is wrong.
    """

    prompt: list[int]
    answer: list[int]
    right: tuple[bool, ...]

    @property
    def fine(self) -> bool:
        return all(self.right)

    @property
    def wrong_tokens(self) -> list[bool]:
        """For each token of the answer whether it is a wrong letter."""
        return [place < len(self.right) and not self.right[place] for place in range(len(self.answer))]


@dataclass(frozen=True)
class Judged:
    """What the arms of a seed share.

    Attributes:
        base: the starting model.
        answers: of the starting model, judged, to train on.
        fresh: others, on which the detection of inappropriate tokens is measured.
    """

    world: PreferenceWorld
    base: nn.Module
    answers: list[JudgedAnswer]
    fresh: list[JudgedAnswer]

    def judged_prompt(self, one: JudgedAnswer) -> list[int]:
        """Prompt and judgment."""
        return [*one.prompt, *(self.world.vocabulary + flag for flag in one.right)]

    def contrasts(self) -> list[Example]:
        """Every answer after its prompt and, where it has a fault, also after prompt and judgment."""
        return [_joined(example(one.prompt, [one.answer]), *self._with_judgment(one)) for one in self.answers]

    def hindsight(self) -> list[Example]:
        """Every answer after its prompt, with the judgment where it has a fault."""
        return [(*self._with_judgment(one), example(one.prompt, [one.answer]))[0] for one in self.answers]

    def plain(self) -> list[Example]:
        """Every answer after its prompt, the judgment left out."""
        return [example(one.prompt, [one.answer]) for one in self.answers]

    def detection(self, model: nn.Module, detect: Detect) -> Measures:
        """Precision and recall of the tokens that `detect` finds in fresh answers with a fault, and their base rate."""
        faulty = [one for one in self.fresh if not one.fine]
        plain = self._logps(model, [one.prompt for one in faulty], faulty)
        judged = self._logps(model, [self.judged_prompt(one) for one in faulty], faulty)
        wrong = torch.tensor([flag for one in faulty for flag in one.wrong_tokens])
        found = detect(judged.token_logps, plain.token_logps)
        hits = int((found & wrong).sum())
        return {
            "precision": hits / max(int(found.sum()), 1),
            "recall": hits / int(wrong.sum()),
            "base rate": float(wrong.double().mean()),
        }

    def _with_judgment(self, one: JudgedAnswer) -> tuple[Example, ...]:
        return () if one.fine else (example(self.judged_prompt(one), [one.answer]),)

    def _logps(
        self, model: nn.Module, prompts: list[list[int]], answers: Sequence[JudgedAnswer]
    ) -> ResponseLogps:
        return frozen_logps(
            model, Responses(prompts, [one.answer for one in answers], list(range(len(answers))))
        )


def judged(seed: int, *, answers: int = 1200, fresh: int = 300) -> Judged:
    """World, starting model and its judged answers of a seed."""
    world = PreferenceWorld(seed, copy_rates=(0.6,), longest_tail=0, held_out=300)
    model = seeded(lambda: tiny_transformer(world.vocabulary + 2, width=48, layers=2, heads=4), seed)
    base = trained(
        model,
        world.demonstrations(700 * 64, "base"),
        LIKELIHOOD,
        steps=700,
        batch_size=64,
        learning_rate=3e-3,
        generator=stream(seed, "base/order"),
    )
    return Judged(
        world, base, _answers(world, base, answers, "judged"), _answers(world, base, fresh, "fresh")
    )


def untouched_arm(material: Judged) -> Measures:
    """The starting model itself."""
    return {f"gold, {steps} steps": gold(material, material.base) for steps in STEPS}


def judged_arm(
    objective: Objective,
    constants: Any,
    records: Callable[[Judged], list[Example]],
    *,
    learning_rate: float = 1e-3,
    detect: Detect | None = None,
) -> Callable[[Judged], Measures]:
    """Training in steps of 32 answers, measured after 150, 300 and 450.

    Args:
        detect: also measure this detection, at the end.
    """

    def measure(material: Judged) -> Measures:
        measures: Measures = {}

        def look(step: int, model: nn.Module) -> None:
            if step in STEPS:
                measures[f"gold, {step} steps"] = gold(material, model)

        policy = trained(
            material.base,
            records(material),
            objective,
            constants,
            steps=STEPS[-1],
            batch_size=32,
            learning_rate=learning_rate,
            generator=stream(material.world.seed, "judged/order"),
            on_step=look,
        )
        return measures | (material.detection(policy, detect) if detect else {})

    return measure


def gold(material: Judged, model: nn.Module) -> float:
    """Mean gold of four samples to each held-out prompt, without judgments."""
    world = material.world
    prompts = world.prompts(world.held_out, "evaluation")
    return float(world.gold(prompts, world.responses(model, prompts, 4, "evaluation")).mean())


def _answers(world: PreferenceWorld, model: nn.Module, n: int, purpose: str) -> list[JudgedAnswer]:
    prompts = world.prompts(n, purpose)
    return [
        JudgedAnswer(
            prompt,
            answer,
            tuple(answer[place : place + 1] == [prompt[place]] for place in range(world.copied)),
        )
        for prompt, (answer,) in zip(prompts, world.responses(model, prompts, 1, purpose), strict=True)
    ]


def _joined(first: Example, *others: Example) -> Example:
    """One record under several prompts."""
    return Example(
        contexts=tuple(context for one in (first, *others) for context in one.contexts), id="", extras={}
    )
