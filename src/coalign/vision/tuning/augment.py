"""Random views of a picture with Pillow: RandAugment (Cubuk et al. 2019), as few-shot recipes use it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from coalign.core.extras import require

if TYPE_CHECKING:
    from PIL import Image

    Change = Callable[[Image.Image, float], Image.Image]

LEVELS = 10
"""Strengths are given in tenths of the largest."""
NAMES = (
    "identity",
    "autocontrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear x",
    "shear y",
    "translate x",
    "translate y",
)


def rand_augment(
    picture: Image.Image, draw: random.Random, *, changes: int = 2, magnitude: int = 10
) -> Image.Image:
    """So many changes of the list, each drawn evenly; those with a direction take either.

    Args:
        picture: RGB.
        magnitude: from 0 to 10; at 10 turns are of 30 degrees, shears of 0.3, shifts of 0.45 of the side, and colour,
            contrast, brightness and sharpness change by 90 %.
    """
    for _ in range(changes):
        name = NAMES[draw.randrange(len(NAMES))]
        picture = changed(picture, name, magnitude / LEVELS * draw.choice((-1, 1)))
    return picture


def changed(picture: Image.Image, name: str, strength: float) -> Image.Image:
    """One change of `NAMES`, of a strength from -1 to 1; the sign is a direction where there is one.

    Raises:
        ValueError: an unknown name.
    """
    image, ops = require("PIL.Image", "images"), require("PIL.ImageOps", "images")
    enhance = require("PIL.ImageEnhance", "images")
    size, much = picture.size, abs(strength)

    def moved(*matrix: float) -> Image.Image:
        return picture.transform(size, image.Transform.AFFINE, matrix, resample=image.Resampling.BILINEAR)

    made: dict[str, Callable[[], Image.Image]] = {
        "identity": lambda: picture,
        "autocontrast": lambda: ops.autocontrast(picture),
        "equalize": lambda: ops.equalize(picture),
        "rotate": lambda: picture.rotate(30 * strength, resample=image.Resampling.BILINEAR),
        "solarize": lambda: ops.solarize(picture, round(256 * (1 - much))),
        "posterize": lambda: ops.posterize(picture, max(8 - round(4 * much), 1)),
        "shear x": lambda: moved(1, 0.3 * strength, 0, 0, 1, 0),
        "shear y": lambda: moved(1, 0, 0, 0.3 * strength, 1, 0),
        "translate x": lambda: moved(1, 0, 0.45 * strength * size[0], 0, 1, 0),
        "translate y": lambda: moved(1, 0, 0, 0, 1, 0.45 * strength * size[1]),
        "color": lambda: enhance.Color(picture).enhance(1 + 0.9 * strength),
        "contrast": lambda: enhance.Contrast(picture).enhance(1 + 0.9 * strength),
        "brightness": lambda: enhance.Brightness(picture).enhance(1 + 0.9 * strength),
        "sharpness": lambda: enhance.Sharpness(picture).enhance(1 + 0.9 * strength),
    }
    if name not in made:
        raise ValueError(f"{name!r} is no change, expected one of {', '.join(NAMES)}")
    return made[name]()
