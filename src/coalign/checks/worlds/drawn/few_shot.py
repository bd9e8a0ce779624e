"""Few drawn shots of half of the classes, and tests of both halves: what tuning of a small CLIP is measured on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coalign.checks.arms import Measures
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.drawn.captions import FRAMES, PLACEHOLDER
from coalign.checks.worlds.drawn.scene import (
    COLOURS,
    PLACES,
    PLAIN,
    SHAPES,
    SIZES,
    DrawnObject,
    Style,
    draw_many,
    random_object,
)
from coalign.checks.worlds.drawn.small_clip import Recipe, small_clip
from coalign.pairs.encoders import ImageTextEncoder
from coalign.vision.tuning.few_shot import harmonic_mean
from coalign.vision.tuning.prompted import PromptedEncoder, PromptSettings
from coalign.vision.tuning.training import ConsistentTuning, class_features, predictions, prompted_text

STEPS, BATCH, RATE = 250, 16, 0.05
CONTEXT = f"{PLACEHOLDER} {PLACEHOLDER} a"
"""Before a class name; the prompts take the place of the first two words."""


@dataclass(frozen=True)
class FewShotWorld:
    """What the arms of a seed share.

    Attributes:
        shots: [N, 3, 32, 32] pictures of base classes, their classes in `labels`.
        base, novel: class names.
        tests: of base and of novel classes, pictures and the class of each.
    """

    encoder: ImageTextEncoder
    shots: Tensor
    labels: list[int]
    base: list[str]
    novel: list[str]
    tests: tuple[tuple[Tensor, list[int]], tuple[Tensor, list[int]]]
    seed: int


def few_shot_world(
    seed: int,
    *,
    shots: int = 4,
    test: int = 20,
    style: Style = PLAIN,
    coincidence: bool = True,
    recipe: Recipe = Recipe(),  # noqa: B008
) -> FewShotWorld:
    """48 classes, a colour and a shape; four colours by lot are base.

    Args:
        shots, test: pictures of a class.
        coincidence: in the shots place and size are a function of the class, so that there is something false to learn.
    """
    rng = np.random.default_rng([seed, 306])
    colours = [tuple(COLOURS)[at] for at in rng.permutation(len(COLOURS))]
    halves = [[(colour, shape) for colour in half for shape in SHAPES] for half in (colours[:4], colours[4:])]
    scenes = [
        [_shot(rng, place, colour, shape, coincidence)]
        for place, (colour, shape) in enumerate(halves[0])
        for _ in range(shots)
    ]
    pictures = draw_many(scenes, style, rng)

    def tested(classes: Sequence[tuple[str, str]]) -> tuple[Tensor, list[int]]:
        free = [[random_object(rng, colour=c, shape=s)] for c, s in classes for _ in range(test)]
        return draw_many(free, style, rng), [at for at in range(len(classes)) for _ in range(test)]

    base, novel = ([f"{colour} {shape}" for colour, shape in half] for half in halves)
    labels = [at for at in range(len(base)) for _ in range(shots)]
    encoder = ImageTextEncoder.load(small_clip(recipe), device="cpu")
    return FewShotWorld(encoder, pictures, labels, base, novel, (tested(halves[0]), tested(halves[1])), seed)


def _shot(rng: np.random.Generator, place: int, colour: str, shape: str, coincidence: bool) -> DrawnObject:
    if not coincidence:
        return random_object(rng, colour=colour, shape=shape)
    row, column = divmod(place, len(SHAPES))
    return DrawnObject(shape, colour, tuple(SIZES)[(row + column) % 2], tuple(PLACES)[(2 * row + column) % 4])


def seen_again(picture: Tensor, draw: random.Random) -> Tensor:
    """A random view [3, 32, 32]: up to 2 pixels aside, up to 10 % brighter or darker, noise of 0.05."""
    moved = picture.roll((draw.randint(-2, 2), draw.randint(-2, 2)), (1, 2))
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(draw.getrandbits(62)))
    return (moved * draw.uniform(0.9, 1.1) + 0.05 * noise).clamp(0, 1)


def zero_shot(world: FewShotWorld) -> Measures:
    """Accuracy of the model as it is, under the names that the tuned ones get."""
    halves = (world.base, world.novel)
    text = [class_features(world.encoder, {one: [f"{CONTEXT} {one}"] for one in half}) for half in halves]
    return _measured(
        world, lambda pixels: world.encoder.image(pixels).pooled, [torch.cat(one) for one in text]
    )


def tuned(world: FewShotWorld, *, weight: float, adapters: bool, steps: int = STEPS) -> Measures:
    """Accuracy after training prompts (2 vectors in 3 layers) and adapters, with the trainer's own loss and a bare loop:
    SGD 0.05 with momentum 0.9 and a cosine.
    """
    settings = PromptSettings(length=2, depth=3, context=CONTEXT, ending="", adapters=adapters)
    model = PromptedEncoder(world.encoder, settings, seed=world.seed)
    sentences = {name: [frame.format(f"a {name}") for frame in FRAMES] for name in world.base}

    def view(index: int, draw: random.Random) -> Tensor:
        return seen_again(world.shots[index], draw)

    task = ConsistentTuning(
        encoder=world.encoder,
        class_ids=model.class_ids(world.base),
        descriptions=class_features(world.encoder, sentences),
        views=(view, view),
        labels=world.labels,
        weight=weight,
        criterion="cosine",
        seed=world.seed,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    order, keys = stream(world.seed, "order of shots"), []
    for step in range(steps):
        if len(keys) < BATCH:
            done = (step * BATCH + len(keys)) // len(world.labels)
            keys += (torch.randperm(len(world.labels), generator=order) + done * len(world.labels)).tolist()
        batch, keys = task.collate(keys[:BATCH]), keys[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        state: Any = SimpleNamespace(global_step=step, max_steps=steps)
        loss = task.loss(model, batch, state).losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return _measured(
            world, model.image, [prompted_text(model, half) for half in (world.base, world.novel)]
        )


@torch.no_grad()
def _measured(world: FewShotWorld, image: Any, texts: Sequence[Tensor]) -> Measures:
    found: list[float] = []
    for (pictures, labels), text in zip(world.tests, texts, strict=True):
        said = predictions(image, text, pictures.split(240))
        found.append(sum(a == b for a, b in zip(said, labels, strict=True)) / len(labels))
    return {"base accuracy": found[0], "novel accuracy": found[1], "harmonic mean": harmonic_mean(*found)}
