"""Pictures in reports: thumbnails of bounded size within the page, and galleries with captions.

A thumbnail has at most `MOST_BYTES` bytes, so that a page of 1,000 stays below 20 MB. Systems make them with `thumbnail`
and put them into a `Gallery`, one of the sections of a report.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coalign.core.extras import require
from coalign.report.section import Section

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

SIDE = 192
"""Pixels of a thumbnail's longer side."""
MOST_BYTES = 12_000
"""Bytes of a thumbnail; in the page a third more."""
MOST_PICTURES = 1000
"""Pictures that a gallery shows."""
SMALL = 96
"""Pixels below which pictures are enlarged by whole factors when they are shown, so that their pixels can be seen."""
_QUALITIES = (82, 70, 55, 40, 25, 10)
_DATA = re.compile(r"data:image/(?:png|jpeg|webp);base64,[A-Za-z0-9+/]+=*")


@dataclass(frozen=True)
class Thumbnail:
    """A picture within the page.

    Attributes:
        data: a data URL.
        width, height: its pixels.
        label: a few words below it (a column's name, a time).
    """

    data: str
    width: int
    height: int
    label: str = ""

    def __post_init__(self) -> None:
        if not _DATA.fullmatch(self.data):
            raise ValueError("a thumbnail's data is no data URL of a picture: make it with `thumbnail`")

    @property
    def factor(self) -> int:
        """By which it is enlarged when it is shown."""
        return max(-(-SMALL // max(self.width, self.height, 1)), 1)


@dataclass(frozen=True)
class Shown:
    """One or several pictures side by side, and what is said of them.

    Attributes:
        values: named results below the caption; a bool is shown as passed or failed.
        tone: `good` and `bad` set it apart.
    """

    pictures: Sequence[Thumbnail]
    caption: str = ""
    values: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)
    tone: Literal["good", "bad"] | None = None


@dataclass(frozen=True, kw_only=True)
class Gallery(Section):
    """Pictures with captions: cards of one picture, rows where an item has several."""

    items: Sequence[Shown]
    kind: Literal["gallery"] = "gallery"

    @property
    def rows(self) -> bool:
        """Whether an item has several pictures."""
        return any(len(one.pictures) > 1 for one in self.items)


def gallery(title: str, items: Iterable[Shown], *, note: str = "", total: int | None = None) -> list[Gallery]:
    """A gallery of at most `MOST_PICTURES` pictures, or nothing where there is no item.

    Args:
        items: made only as far as they are shown.
        total: items there are, where `items` are the first of them; the note says how many are shown.
    """
    taken: list[Shown] = []
    pictures, cut = 0, False
    for one in islice(items, MOST_PICTURES + 1):
        pictures += len(one.pictures)
        if taken and pictures > MOST_PICTURES:
            cut = True
            break
        taken.append(one)
    if total is not None and total > len(taken):
        note = f"{note} The first {len(taken):,} of {total:,}.".strip()
    elif cut:
        note = f"{note} The first {len(taken):,}.".strip()
    return [Gallery(title=title, note=note, items=taken)] if taken else []


def thumbnail(picture: Image.Image | NDArray[Any], label: str = "", *, side: int = SIDE) -> Thumbnail:
    """A picture as part of a page, in at most `MOST_BYTES` bytes.

    Small ones are kept as they are (PNG), others become JPEG of the best quality that fits.

    Args:
        picture: of Pillow, or an array [height, width, 3] or [height, width] (bytes, or floats in 0 to 1, which are
            clipped).
        side: pixels of the longer side at most.
    """
    image = require("PIL.Image", "images")
    one = image.fromarray(_bytes(picture)) if isinstance(picture, np.ndarray) else picture
    one = one.convert("RGB")
    if max(one.size) > side:
        scale = side / max(one.size)
        size = (max(round(one.width * scale), 1), max(round(one.height * scale), 1))
        one = one.resize(size, image.Resampling.LANCZOS, reducing_gap=3.0)
    for kind, data in _smaller_and_smaller(one):
        if len(data) <= MOST_BYTES:
            return Thumbnail(
                f"data:image/{kind};base64,{base64.b64encode(data).decode()}", *one.size, label=label
            )
    return thumbnail(one, label, side=max(side // 2, 16))


def _smaller_and_smaller(one: Image.Image) -> Iterable[tuple[str, bytes]]:
    if max(one.size) <= SMALL:
        yield "png", _encoded(one, "PNG", optimize=True)
    for quality in _QUALITIES:
        yield "jpeg", _encoded(one, "JPEG", quality=quality, optimize=True)


def _encoded(one: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    one.save(file, kind, **options)
    return file.getvalue()


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype.kind == "f":
        values = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255)
    return np.ascontiguousarray(values.astype(np.uint8))
