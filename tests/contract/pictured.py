"""Tiny runs of systems that look at pictures, clips and tables, or make them: (options, files)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.preference.tiny_runs import write

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


def shots(count: int, *, taken: bool = False) -> Callable[[Path], object]:
    """Rows of shots of six frames of a moving pattern; `taken` at alternating exposures, with the radiance behind them."""

    def make(path: Path) -> None:
        from PIL import Image

        from coalign.data.media.hdr import write_hdr

        folder = path.with_suffix("")
        folder.mkdir(exist_ok=True)
        rows = []
        for number in range(count):
            scene = np.random.default_rng([number, taken]).random((60, 70, 3)).repeat(2, 0).repeat(2, 1) ** 3
            exposures = [1.0, 4.0] * (2 if taken else 3)
            row: dict[str, Any] = {"id": f"shot{number}", "frames": [], "targets": []}
            for place, exposure in enumerate(exposures):
                radiance = scene[place : place + 40, 2 * place : 2 * place + 48]
                values = (radiance * (exposure if taken else 1)).clip(0, 1) ** (1 / 2.2)
                Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(folder / f"{number}-{place}.png")
                row["frames"].append(f"{folder.name}/{number}-{place}.png")
                if taken:
                    write_hdr(folder / f"{number}-{place}.exr", radiance)
                    row["targets"].append(f"{folder.name}/{number}-{place}.exr")
            rows.append(
                {**row, "exposures": exposures} if taken else {"id": row["id"], "frames": row["frames"]}
            )
        write(path, rows)

    return make


PAINTED = {"data": "scenes.jsonl", "references": "theme", "generator": "paint.py:inpaint", "encoder": "models/clip", "device": "cpu",
           "tile": 32}  # fmt: skip
PAINTED_FILES = {"scenes.jsonl": scenes(2), "theme": pictures(12), "paint.py": text(PAINT)}
RADIANCE = {"data": "moving.jsonl", "width": 4, "channels": 8, "blocks": 1, "merge_blocks": 1, "align_downscale": 1, "crop": 32,
            "batch_size": 2, "learning_rate": 1e-3, "max_steps": 2, "save_steps": 1, "logging_steps": 1, "device": "cpu"}  # fmt: skip
MOVING = {"moving.jsonl": shots(4), "taken.jsonl": shots(1, taken=True)}
FEATURES = "def features(pictures):\n    return pictures[..., ::2, ::2] ** 2\n"

SMALL: dict[str, Tiny] = {
    "lan-hdr": (
        {**RADIANCE, "frames": 3, "eval_fraction": 0.25, "reconstruct": "taken.jsonl", "perceptual": "features.py:features"},
        {**MOVING, "features.py": text(FEATURES)},
    ),
    "t-prompter": ({**PAINTED, "held_out_encoder": "models/other-clip", "rounds": 2, "min_gain": 0.0}, PAINTED_FILES),
}  # fmt: skip
VARIANTS: dict[str, tuple[str, Tiny]] = {
    "lan-hdr with three exposures": (
        "lan-hdr",
        ({**RADIANCE, "exposures": 3, "temporal_weight": 0.0, "hallucination_mask": "saturation", "align_downscale": 2,
          "eval_fraction": 0.0, "max_steps": 2}, MOVING),
    ),
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
