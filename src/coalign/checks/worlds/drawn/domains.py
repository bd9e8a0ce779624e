"""Single drawn objects in four styles, which are the domains of a classifier, and a small network for them."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from coalign.checks.worlds.drawn.scene import PLAIN, SHAPES, SIZES, Style, draw_many, random_object

STYLES = {
    "plain": PLAIN,
    "tinted": Style((0.35, 0.55), tint=0.15, noise=0.09),
    "outlined": Style(outline=2.0),
    "inverted": Style(inverted=True),
}
"""An even dark ground with little noise; a coloured ground of medium brightness with more; strokes in place of filled shapes;
light and dark exchanged."""
CLASSES = tuple(f"{size} {shape}" for shape in SHAPES for size in SIZES)


def styled_objects(style: str, count: int, *stream: int) -> tuple[Tensor, Tensor]:
    """([count, 3, 32, 32] pixels in 0 to 1, [count] places in `CLASSES`). Class, colour and place are drawn.

    Args:
        style: a name of `STYLES`.
        stream: numbers of the random stream.
    """
    rng = np.random.default_rng([*stream])
    objects = [random_object(rng) for _ in range(count)]
    pixels = draw_many([[one] for one in objects], STYLES[style], rng)
    return pixels, torch.tensor([CLASSES.index(f"{one.size} {one.shape}") for one in objects])


class StagedNetwork(nn.Module):
    """Four stages of a convolution of stride 2, group norm and ReLU, their mean over the places, and a linear head."""

    width = 96

    def __init__(self, classes: int = len(CLASSES)) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, self.width)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(size, wide, 3, 2, 1), nn.GroupNorm(4, wide), nn.ReLU())
            for size, wide in itertools.pairwise(widths)
        )
        self.classifier = nn.Linear(self.width, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, classes] logits of [B, 3, 32, 32] pixels in 0 to 1."""
        maps = 2 * pixels - 1
        for stage in self.stages:
            maps = stage(maps)
        return self.classifier(maps.mean((2, 3)))
