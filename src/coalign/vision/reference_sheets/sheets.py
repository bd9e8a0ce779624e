"""Sheets of tiles as pictures: tiles that cover their place, the mask, the centre that was filled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from coalign.core.extras import require
from coalign.vision.reference_sheets.matching import CENTRE, GRID, Place

if TYPE_CHECKING:
    from PIL import Image

EMPTY = (0, 0, 0)
"""Colour of a place without a reference."""


def as_tile(picture: Image.Image, side: int) -> Image.Image:
    """The picture scaled so that it covers a square of `side` pixels, its middle cut out. Sizes are rounded up: the
    official code rounds down, and may come out one pixel short.
    """
    image = require("PIL.Image", "images")
    scale = side / min(picture.size)
    width, height = (max(math.ceil(one * scale - 1e-9), side) for one in picture.size)
    resized = picture.convert("RGB").resize((width, height), image.Resampling.LANCZOS)
    left, top = (width - side) // 2, (height - side) // 2
    return resized.crop((left, top, left + side, top + side))


def sheet_of(tiles: Mapping[Place, Image.Image], side: int) -> tuple[Image.Image, Image.Image]:
    """The canvas of tiles and the mask (white where the model paints: the centre), RGB, three times `side` wide.

    The mask is for the model as it is: a mask that was written as JPEG and read again has grey edges.
    """
    image = require("PIL.Image", "images")
    size = (GRID * side, GRID * side)
    canvas, mask = image.new("RGB", size, EMPTY), image.new("RGB", size, EMPTY)
    for (column, row), tile in tiles.items():
        canvas.paste(as_tile(tile, side), (column * side, row * side))
    mask.paste(image.new("RGB", (side, side), (255, 255, 255)), (CENTRE[0] * side, CENTRE[1] * side))
    return canvas, mask


def centre_of(sheet: Image.Image, side: int) -> Image.Image:
    """The centre tile of a sheet, scaled to the size of the canvas where a model gave another size."""
    image = require("PIL.Image", "images")
    size = (GRID * side, GRID * side)
    if sheet.size != size:
        sheet = sheet.resize(size, image.Resampling.LANCZOS)
    left, top = CENTRE[0] * side, CENTRE[1] * side
    return sheet.convert("RGB").crop((left, top, left + side, top + side))


def seam(sheet: Image.Image, side: int) -> float:
    """How far the centre stands out from its neighbours: the mean absolute step (0 to 1) over its four edges less that
    between the rows and columns just inside. Near 0 or below: neighbours may have run into the centre.
    """
    values = np.asarray(sheet.convert("RGB"), np.float64) / 255
    low, high = side, 2 * side
    if values.shape[0] != GRID * side or side < 3:
        return 0.0

    def step(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.abs(first - second).mean())

    across, inside = [], []
    for turned in (values, values.swapaxes(0, 1)):
        middle = turned[:, low:high]
        across += [step(middle[low - 1], middle[low]), step(middle[high - 1], middle[high])]
        inside += [step(middle[low], middle[low + 1]), step(middle[high - 2], middle[high - 1])]
    return float(np.mean(across) - np.mean(inside))


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 3) -> Image.Image:
    """Pictures of one size in rows of `columns`."""
    image = require("PIL.Image", "images")
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    found = image.new("RGB", (min(columns, len(pictures)) * width, rows * height), (255, 255, 255))
    for number, one in enumerate(pictures):
        found.paste(one.convert("RGB"), (number % columns * width, number // columns * height))
    return found
