"""Videos of the drawn world: six steps, each a run of frames that show its object, between others; and vague sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coalign.checks.worlds.drawn.captions import phrase
from coalign.checks.worlds.drawn.scene import PLAIN, DrawnObject, draw, random_object

STEPS = 6
VAGUE = 0.5
"""Chance that a sentence names the shape alone."""
OTHER = 0.8
"""Chance that a frame between two steps shows some other object."""


@dataclass(frozen=True)
class StepVideo:
    """A video and its sentences, one a step.

    Attributes:
        frames: [T, 3, 32, 32] from 0 to 1, T from 20 to 48.
        starts, ends: [6] first and last frame of each step.
    """

    frames: Tensor
    sentences: list[str]
    starts: list[int]
    ends: list[int]


def step_video(rng: np.random.Generator) -> StepVideo:
    """Runs of 2 to 4 frames a step, gaps of 1 to 3 frames around them; the object of one step is seen again for 2 or 3
    frames in a gap that its run does not touch.
    """
    objects = [random_object(rng) for _ in range(STEPS)]
    again = int(rng.integers(STEPS))
    gap = int(rng.choice([one for one in range(STEPS + 1) if one not in (again, again + 1)]))
    shown: list[DrawnObject | None] = []
    starts, ends = [], []
    for place in range(STEPS + 1):
        before = [random_object(rng) if rng.random() < OTHER else None for _ in range(rng.integers(1, 4))]
        if place == gap:
            before.insert(int(rng.integers(len(before) + 1)), objects[again])
            where = before.index(objects[again])
            before[where:where] = [objects[again]] * int(rng.integers(1, 3))
        shown += before
        if place < STEPS:
            starts.append(len(shown))
            shown += [objects[place]] * int(rng.integers(2, 5))
            ends.append(len(shown) - 1)
    frames = torch.stack([draw([one] if one is not None else [], PLAIN, rng) for one in shown])
    sentences = [
        f"a {one.shape}" if rng.random() < VAGUE else phrase(one, size=1, place=1) for one in objects
    ]
    return StepVideo(frames, sentences, starts, ends)


def step_videos(count: int, seed: int) -> list[StepVideo]:
    """Videos drawn from a seed."""
    rng = np.random.default_rng([seed, 79])
    return [step_video(rng) for _ in range(count)]
