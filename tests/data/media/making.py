"""Pictures and clips of known content."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation to how a picture is stored that it turns upright again."""
STEP = 20
"""Grey levels between one frame of `write_clip` and the next."""


def picture(width: int = 7, height: int = 5, seed: int = 0) -> Image.Image:
    """Noise in RGB."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(one: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A file of Pillow."""
    file = io.BytesIO()
    one.save(file, kind, **options)
    return file.getvalue()


def stored_turned(one: Image.Image, orientation: int, kind: str = "PNG", **options: Any) -> bytes:
    """A file that holds `one` turned, and says so in its EXIF."""
    turn = TURNS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(one if turn is None else one.transpose(turn), kind, exif=exif, **options)


def write_clip(
    path: Path,
    times: Sequence[float],
    *,
    size: tuple[int, int] = (64, 48),
    pictures: Sequence[np.ndarray[Any, Any]] | None = None,
    codec: str = "libx264",
    rotation: float | None = None,
    mirrored: bool = False,
    every: int = 1000,
    options: dict[str, str] | None = None,
) -> Path:
    """A clip whose frame i is grey of level `STEP` x i (modulo 240) and is shown from `times[i]`.

    Args:
        every: frames from one key frame to the next.
        rotation: degrees, as FFmpeg's display rotation counts them.
    """
    import av

    base = Fraction(1, 1000)
    container = av.open(str(path), "w", options=options or {})
    with container:
        stream: Any = container.add_stream(codec, rate=1000)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        stream.codec_context.gop_size = every
        if rotation is not None or mirrored:
            stream.set_display_rotation(rotation or 0.0, hflip=mirrored)
        for index, time in enumerate(times):
            level = index * STEP % 240
            values = np.full((size[1], size[0], 3), level, np.uint8) if pictures is None else pictures[index]
            frame = av.VideoFrame.from_ndarray(values, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damaged(data: bytes, seed: object) -> bytes:
    """The bytes with some changed, cut off, put in or left out, most of them in the header."""
    draw, made = Random(str(seed)), bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        end = len(made) if draw.random() < 0.4 else min(len(made), 100)
        place, how, size = draw.randrange(end), draw.random(), draw.choice((1, 4, 50))
        if how < 0.6:
            made[place] = draw.randrange(256)
        elif how < 0.75:
            del made[max(place, 1) :]
        elif how < 0.9:
            made[place:place] = draw.randbytes(size)
        else:
            del made[place : place + size]
        made = made or bytearray(b"x")
    return bytes(made)


def number(pixels: np.ndarray[Any, Any]) -> int:
    """Which frame of `write_clip` this is, of its first twelve."""
    return round(float(pixels.mean()) / STEP)
