"""Small pictures of coloured squares, in the forms in which data comes."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow")


def square_picture(colour: str, place: tuple[int, int] = (2, 2), size: int = 12) -> Image.Image:
    """A square of 4 pixels on grey."""
    picture = Image.new("RGB", (size, size), (90, 90, 90))
    x, y = place
    ImageDraw.Draw(picture).rectangle((x, y, x + 3, y + 3), fill=colour)
    return picture


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


def labelled_squares(n: int = 8) -> list[dict[str, Any]]:
    """Rows with a picture inside of them and its colour as the label."""
    return [
        {"image": data_url(square_picture(COLOURS[i % 4], (i % 7, i // 2))), "label": COLOURS[i % 4]}
        for i in range(n)
    ]


def told_squares(n: int = 5, *, spatial: bool = False) -> list[dict[str, Any]]:
    """Rows with a picture and its caption, or with one that says where things are beside it."""
    return [
        {
            "id": f"p{i}",
            "image": data_url(square_picture(COLOURS[i % 4], (i, i))),
            "caption": f"a {COLOURS[i % 4]} square left of a cup"
            if spatial
            else f"a {COLOURS[i % 4]} square and a cup",
            **(
                {"spatial_caption": f"a {COLOURS[i % 4]} square left of a cup . the cup is right of it"}
                if spatial
                else {}
            ),
        }
        for i in range(n)
    ]
