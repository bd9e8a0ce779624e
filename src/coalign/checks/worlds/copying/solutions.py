"""Questions with solutions marked right or wrong, in the world of copying.

The starting model was fine-tuned on copies with 75 % of the letters right. A question has such a copy as reference
solution and the model's own samples, which are right if all three letters are.
"""

from __future__ import annotations

import math

from torch import nn

from coalign.checks.arms import Measures
from coalign.checks.starts import Start, start_with
from coalign.checks.steps import example, frozen_logps
from coalign.checks.worlds.copying.copying import CopyingWorld
from coalign.training.batches import responses_of_examples


def solution_groups(seed: int) -> Start[CopyingWorld]:
    """Questions with a reference solution and the model's own solutions, marked right or wrong; doubles are left out."""
    world = CopyingWorld(seed, copy_rates=(0.75,))
    base = world.base_model(steps=450)
    groups, right = [], []
    questions = [one.contexts[0] for one in world.demonstrations(1500, "questions")]
    samples = world.responses(base, [one.prompt_ids for one in questions], 5, "questions")
    for question, row in zip(questions, samples, strict=True):
        (reference,), prompt = question.response_ids, question.prompt_ids
        distinct = [list(one) for one in dict.fromkeys(map(tuple, row))]
        marks = [float(gold == 1) for gold in world.gold([prompt], [distinct])[0].tolist()]
        groups.append(example(prompt, [reference, *distinct], [math.nan, *marks]))
        correct = [one for one, mark in zip(distinct, marks, strict=True) if mark]
        right.append(example(prompt, [reference, *correct]))
    return start_with(world, base, {"groups": groups, "right": right}, compared=())


def solution_measures(material: Start[CopyingWorld], policy: nn.Module) -> Measures:
    """Share of correct samples to held-out questions, and the negative log-likelihood of held-out demonstrations in
    nats a token.
    """
    world = material.world
    _, _, gold = world.evaluated(policy)
    held_out = responses_of_examples(world.demonstrations(1000, "held-out"))
    return {
        "correct": float((gold == 1).float().mean()),
        "NLL": -float(frozen_logps(policy, held_out).token_logps.mean()),
    }
