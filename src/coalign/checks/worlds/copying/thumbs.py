"""Thumbs up and down in the world of copying: from the same prompts, or from two classes of prompts unevenly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.checks.starts import Start, start_with
from coalign.checks.steps import prepared
from coalign.checks.worlds.copying.copying import Candidates, CopyingWorld
from coalign.training.batches import Example
from coalign.training.objective import Objective

Probabilities = Callable[[Tensor, Tensor, Tensor], list[float]]
"""([n, D] features, [n] labels, [m, D] features) to the probability of label 1 for each of the last, by a classifier
fitted on the first two."""


def even_thumbs(seed: int, *, compared: Objective) -> Start[CopyingWorld]:
    """Pairs of a seed (`pairs`), the same taken apart (`thumbs`), and these as the objective `compared` prepares them
    (`mismatched thumbs`).
    """
    world = CopyingWorld(seed)
    base = world.base_model()
    candidates = world.candidates(base)
    thumbs = candidates.thumbs()
    panels = {
        "pairs": candidates.pairs(),
        "thumbs": thumbs,
        "mismatched thumbs": prepared(thumbs, compared),
    }
    return start_with(world, base, panels, compared=panels)


def uneven_thumbs(seed: int, *, column: str, probabilities: Probabilities) -> Start[CopyingWorld]:
    """Two classes of prompts: thumbs up go to the first mostly, thumbs down to the second (`thumbs`); or by a bar that
    answers of the second class seldom reach (`marked`).

    Args:
        column: for the probability that a prompt belongs to thumbs up.
        probabilities: gives it, from the classes of prompts as features.
    """
    world = CopyingWorld(seed, copy_rates=(0.84, 0.39))
    base = world.base_model()
    candidates = world.candidates(base, 2000)
    uneven = partial(candidates.thumbs, (800, 200), (200, 800))
    panels = {
        "thumbs": uneven(**{column: _of_prompts(candidates, uneven(), probabilities)}),
        "marked": candidates.marked(
            0.83, **{column: _of_prompts(candidates, candidates.marked(0.83), probabilities)}
        ),
    }
    return start_with(world, base, panels, compared=panels)


def _of_prompts(
    candidates: Candidates, thumbs: Sequence[Example], probabilities: Probabilities
) -> list[float]:
    """For each prompt the probability that it belongs to thumbs up; the classifier sees the class."""
    records = [one.contexts[0] for one in thumbs]
    world = candidates.world

    def features(prompts: Sequence[Sequence[int]]) -> Tensor:
        return F.one_hot(torch.tensor(world.classes(prompts)), len(world.copy_rates))

    labels = torch.tensor([one.values[0] for one in records])
    seen = features([one.prompt_ids for one in records])
    return probabilities(seen, labels, features(candidates.prompts))
