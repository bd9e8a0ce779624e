"""Tiny runs of systems that look at pictures, clips and tables, or make them: (options, files)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]

PAINT = """
from PIL import Image, ImageDraw


def inpaint(canvas, mask, text, generator):
    \"\"\"A disc whose colour is that of the first tile, and whose size follows the seed.\"\"\"
    import torch

    found = canvas.copy()
    side = canvas.width // 3
    radius = 4 + int(torch.randint(6, (1,), generator=generator))
    middle = canvas.width // 2
    ImageDraw.Draw(found).ellipse([middle - radius] * 2 + [middle + radius] * 2, fill=canvas.getpixel((side + 2, 2)))
    return found
"""


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content, encoding="utf-8")


def pictures(count: int, side: int = 40) -> Callable[[Path], object]:
    """A folder of pictures of one colour each with a bar of another."""

    def make(folder: Path) -> None:
        from PIL import Image

        folder.mkdir()
        rng = np.random.default_rng(7)
        for number in range(count):
            values = np.tile(rng.integers(0, 256, 3, dtype=np.uint8), (side, side + number, 1))
            values[:, number : number + 6] = rng.integers(0, 256, 3)
            Image.fromarray(values).save(folder / f"r{number:02d}.png")

    return make


def scenes(count: int) -> list[dict[str, Any]]:
    looks = ["red circle", "blue square", "green triangle"]
    return [
        {"id": f"s{number}", "prompt": f"a {looks[number % 3]} and a {looks[(number + 1) % 3]}",
         "elements": [looks[number % 3], looks[(number + 1) % 3]], **({"seed": 5} if number else {})}
        for number in range(count)
    ]  # fmt: skip


PAINTED = {"data": "scenes.jsonl", "references": "theme", "generator": "paint.py:inpaint", "encoder": "models/clip", "device": "cpu",
           "tile": 32}  # fmt: skip
PAINTED_FILES = {"scenes.jsonl": scenes(2), "theme": pictures(12), "paint.py": text(PAINT)}

SMALL: dict[str, Tiny] = {
    "t-prompter": ({**PAINTED, "held_out_encoder": "models/other-clip", "rounds": 2, "min_gain": 0.0}, PAINTED_FILES),
}  # fmt: skip
VARIANTS: dict[str, tuple[str, Tiny]] = {
    "t-prompter as a story": (
        "t-prompter",
        ({**PAINTED, "story": True, "selection": "random", "orders": "given", "skip_centre": True}, PAINTED_FILES),
    ),
}  # fmt: skip


def clip(seed: int) -> Callable[[Path], object]:
    def make(path: Path) -> object:
        from tests.pairs.tiny import tiny_clip

        return tiny_clip(path, seed)

    return make


MODELS: dict[str, Callable[[Path], object]] = {"clip": clip(0), "other-clip": clip(1)}
