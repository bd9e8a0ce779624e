"""Clips of the drawn world: one or two objects that move or grow, hidden in some frames, with a caption that says how."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from coalign.checks.worlds.drawn.captions import phrase
from coalign.checks.worlds.drawn.scene import PLACES, PLAIN, SIZES, DrawnObject, draw, random_scene

FRAMES, HIDDEN = 6, 2
"""Frames of a clip, and how many of them show nothing but background."""
STEP = 2.0
"""Pixels from frame to frame."""
MOTIONS = {
    "still": (0.0, 0.0),
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "grows": (0.0, 0.0),
}
"""Direction (x, y) by word; what grows does so from 0.6 to 1.4 of its radius."""
_NAMES = tuple(MOTIONS)


@dataclass(frozen=True)
class MovingClip:
    """A clip.

    Attributes:
        frames: [6, 3, 32, 32] from 0 to 1.
    """

    caption: str
    frames: Tensor


def moving_clip(rng: np.random.Generator) -> MovingClip:
    """One or two objects in cells of their own, each with a motion of its own; 2 of 6 frames are empty."""
    objects = random_scene(rng)
    motions = [_NAMES[rng.integers(len(_NAMES))] for _ in objects]
    starts = [np.add(PLACES[one.place], rng.uniform(-1.5, 1.5, size=2)) for one in objects]
    hidden = {*rng.permutation(FRAMES)[:HIDDEN].tolist()}
    frames = []
    for number in range(FRAMES):
        shown = [] if number in hidden else [
            _at(one, motion, start, number) for one, motion, start in zip(objects, motions, starts, strict=True)
        ]  # fmt: skip
        frames.append(draw(shown, PLAIN, rng))
    told = (
        f"{phrase(one, None, size=1, place=0)} moving {motion}"
        for one, motion in zip(objects, motions, strict=True)
    )
    return MovingClip(" and ".join(told), torch.stack(frames))


def moving_clips(count: int, seed: int, *, distinct: bool = False) -> list[MovingClip]:
    """Clips drawn from a seed.

    Args:
        distinct: no two have the same caption, in any order of its objects.
    """
    rng = np.random.default_rng([seed, 73])
    found: list[MovingClip] = []
    seen: set[frozenset[str]] = set()
    while len(found) < count:
        one = moving_clip(rng)
        key = frozenset(one.caption.split(" and "))
        if not distinct or key not in seen:
            found.append(one)
            seen.add(key)
    return found


def _at(one: DrawnObject, motion: str, start: np.ndarray, number: int) -> DrawnObject:
    """The object in a frame; in the middle of the clip it is where it started from."""
    since = number - (FRAMES - 1) / 2
    x, y = start + np.multiply(MOTIONS[motion], STEP * since)
    radius = SIZES[one.size] * (1 + 0.8 * since / (FRAMES - 1) if motion == "grows" else 1.0)
    return replace(one, centre=(float(x), float(y)), radius=float(radius))
