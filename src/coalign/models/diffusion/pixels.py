"""Pictures as tensors in [-1, 1], as diffusion models take them, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from coalign.core.errors import DataError, RecordProblem
from coalign.core.extras import require
from coalign.core.progress import progress
from coalign.data.media.errors import MediaError
from coalign.data.media.records import MediaRecord, MediaSet

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

Fit = Literal["crop", "pad", "stretch"]
WHITE = (255, 255, 255)


def fitted(picture: Image, width: int, height: int, fit: Fit = "crop", background: Any = WHITE) -> Image:
    """The picture in another size.

    Args:
        fit: `crop` covers the size and cuts what stands out on both sides alike; `pad` lies inside it, on the
            background, so that nothing at the border is lost; `stretch` changes the proportions.
    """
    operations = require("PIL.ImageOps", "images")
    image = require("PIL.Image", "images")
    how = (
        image.Resampling.LANCZOS
        if picture.width > width or picture.height > height
        else image.Resampling.BICUBIC
    )
    if fit == "crop":
        return operations.fit(picture, (width, height), how)
    if fit == "pad":
        return operations.pad(picture, (width, height), how, color=background)
    return picture.resize((width, height), how)


def to_array(picture: Image, grey: bool = False) -> NDArray[np.uint8]:
    """[channels, height, width] bytes of a picture; one channel of grey, or red, green and blue."""
    values = np.asarray(picture.convert("L" if grey else "RGB"))
    return values[None] if grey else values.transpose(2, 0, 1)


def decoded(
    found: MediaSet,
    width: int,
    height: int,
    *,
    fit: Fit = "crop",
    grey: bool = False,
    on_bad_record: Literal["fail", "skip"] = "fail",
    conversions: Counter[str] | None = None,
) -> Iterator[tuple[MediaRecord, NDArray[np.uint8]]]:
    """The records with their pictures in one size, as bytes; every one is decoded here, so that a broken file is found
    before a training.

    Args:
        conversions: counts what was done to them, and `cannot be decoded` for those left out.

    Raises:
        DataError: at the end, pictures that cannot be decoded (under `fail`), or none that can.
    """
    counts: Counter[str] = Counter() if conversions is None else conversions
    problems: list[RecordProblem] = []
    with progress(len(found), "Decoding", "picture") as bar:
        for record in found.records:
            bar.advance()
            try:
                assert record.picture is not None
                picture = record.picture.open(conversions=counts)
            except MediaError as error:
                problems.append(record.problem("image", f"{error.file}: {error.problem}", error.expected))
                counts["cannot be decoded"] += 1
                continue
            yield record, to_array(fitted(picture, width, height, fit), grey)
    if problems and (on_bad_record == "fail" or len(problems) == len(found)):
        raise DataError(
            f"{found.source}: {len(problems)} of {len(found)} pictures cannot be decoded.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip.",
        )


def to_tensor(values: NDArray[np.uint8]) -> Tensor:
    """Bytes as float32 in [-1, 1], of the same shape."""
    return torch.from_numpy(np.array(values)).float() / 127.5 - 1


def to_pictures(values: Tensor) -> list[Image]:
    """Pictures of [B, 1 or 3, height, width] in [-1, 1]; what is beyond is cut off, what is not a number is black."""
    image = require("PIL.Image", "images")
    scaled = ((values.detach().float().cpu().nan_to_num(-1.0) + 1) * 127.5).clamp(0, 255).round().byte()
    return [
        image.fromarray(one[0].numpy() if one.shape[0] == 1 else one.permute(1, 2, 0).contiguous().numpy())
        for one in scaled
    ]


def grid(pictures: Sequence[Image], columns: int, gap: int = 2, background: Any = WHITE) -> Image:
    """Pictures of one size side by side, row by row.

    Raises:
        ValueError: there is none.
    """
    if not pictures:
        raise ValueError("a grid of no pictures")
    image = require("PIL.Image", "images")
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    found = image.new("RGB", size, background)
    for place, one in enumerate(pictures):
        found.paste(one.convert("RGB"), (place % columns * (width + gap), place // columns * (height + gap)))
    return found
