"""A world of copying with a judge who says of each of the three letters of an answer whether it is right.

A prompt has three letters, an answer should repeat them. The judgment of an answer is three tokens that stand after
the prompt; an answer without a fault has none. The answers are the starting model's own, so about four of ten letters
are wrong, and which tokens of a judged answer a method calls inappropriate can be held against the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.starts import Start, learned, pretrained
from coalign.checks.steps import example, frozen_logps, one_each
from coalign.checks.worlds.copying.copying import CopyingWorld, mean_gold
from coalign.training.batches import Example
from coalign.training.objective import Objective

FLAGS = (CopyingWorld.vocabulary, CopyingWorld.vocabulary + 1)
"""The tokens of a judgment: a wrong letter, a right one."""
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
    def judged_prompt(self) -> list[int]:
        """Prompt and judgment."""
        return [*self.prompt, *(FLAGS[flag] for flag in self.right)]

    @property
    def fine(self) -> bool:
        return all(self.right)

    @property
    def wrong_tokens(self) -> list[bool]:
        """For each token of the answer whether it is a wrong letter."""
        return [place < len(self.right) and not self.right[place] for place in range(len(self.answer))]


@dataclass(frozen=True)
class Judged(Start[CopyingWorld]):
    """What the arms of a seed share: see `panels_of` for what they train on.

    Attributes:
        fresh: judged answers on which the detection of inappropriate tokens is measured.
    """

    fresh: list[JudgedAnswer]

    def detection(self, model: nn.Module, detect: Detect) -> Measures:
        """Precision and recall of the tokens that `detect` finds in fresh answers with a fault, and their base rate."""
        faulty = [one for one in self.fresh if not one.fine]
        answers = [one.answer for one in faulty]
        plain, judged = (
            frozen_logps(model, one_each(prompts, answers)).token_logps
            for prompts in ([one.prompt for one in faulty], [one.judged_prompt for one in faulty])
        )
        wrong = torch.tensor([flag for one in faulty for flag in one.wrong_tokens])
        found = detect(judged, plain)
        hits = int((found & wrong).sum())
        return {
            "precision": hits / max(int(found.sum()), 1),
            "recall": hits / int(wrong.sum()),
            "base rate": float(wrong.double().mean()),
        }


def judged(seed: int, *, answers: int = 1200, fresh: int = 300) -> Judged:
    """World, starting model and its judged answers of a seed."""
    world = CopyingWorld(seed, copy_rates=(0.6,), longest_tail=0, held_out=300)
    demonstrations = world.demonstrations(700 * 64, "base")
    base = pretrained(world.untrained_model(len(FLAGS)), demonstrations, seed, steps=700)
    panels = panels_of(judged_answers(world, base, answers, "judged"))
    return Judged(world, base, panels, {}, judged_answers(world, base, fresh, "fresh"))


def panels_of(answers: Sequence[JudgedAnswer]) -> dict[str, list[Example]]:
    """`plain`: every answer after its prompt, the judgment left out; `hindsight`: with the judgment where it has a
    fault; `contrasts`: after its prompt and, where it has a fault, also after prompt and judgment.
    """
    plain = [example(one.prompt, [one.answer]) for one in answers]
    judged = [example(one.judged_prompt, [one.answer]) for one in answers]
    rows = list(zip(answers, plain, judged, strict=True))
    return {
        "plain": plain,
        "hindsight": [before if one.fine else after for one, before, after in rows],
        "contrasts": [
            before if one.fine else replace(before, contexts=before.contexts + after.contexts)
            for one, before, after in rows
        ],
    }


def untouched_arm(material: Judged) -> Measures:
    """The starting model itself."""
    gold = mean_gold(material.world, material.base)
    return {f"gold, {steps} steps": gold for steps in STEPS}


def judged_arm(
    objective: Objective | str,
    constants: Any,
    panel: str,
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
                measures[f"gold, {step} steps"] = mean_gold(material.world, model)

        policy = learned(
            material,
            objective,
            constants,
            panel,
            steps=STEPS[-1],
            learning_rate=learning_rate,
            order="judged/order",
            on_step=look,
        )
        return measures | (material.detection(policy, detect) if detect else {})

    return measure


def judged_answers(world: CopyingWorld, model: nn.Module, n: int, purpose: str) -> list[JudgedAnswer]:
    """An answer of `model` to each of `n` prompts, judged letter by letter."""
    prompts = world.prompts(n, purpose)
    return [
        JudgedAnswer(
            prompt,
            answer,
            tuple(answer[place : place + 1] == [prompt[place]] for place in range(world.copied)),
        )
        for prompt, (answer,) in zip(prompts, world.responses(model, prompts, 1, purpose), strict=True)
    ]
