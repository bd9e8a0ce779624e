"""Tiny runs of systems of pictures and texts: (options, files)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]
COLOURS = ("red", "green", "blue", "white", "cyan", "purple")


def picture(path: Path, number: int) -> Path:
    """A picture of 32 x 32 pixels that no other number has."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def rows_with_pictures(rows: Callable[[int], dict[str, Any]], n: int) -> Callable[[Path], object]:
    """A file of rows, each with the column `image` of a picture beside it."""

    def write(path: Path) -> None:
        lines = []
        for number in range(n):
            name = f"{path.stem}-pictures/{number}.png"
            picture(path.parent / name, number)
            lines.append(json.dumps({"image": name, **rows(number)}))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return write


def ranked(number: int) -> dict[str, Any]:
    """Three captions, two of which are tied in every second picture."""
    colour = COLOURS[number % len(COLOURS)]
    texts = (f"a {colour} circle", f"a picture of a {colour} ring at the top left", "there is a square")
    captions = [{"text": text, "origin": origin} for text, origin in zip(texts, "abc", strict=True)]
    return {"captions": captions, "ranks": [1, 1 + number % 2, 3]}


def pair(number: int) -> dict[str, Any]:
    """A caption, and one of two origins."""
    colour = COLOURS[number % len(COLOURS)]
    return {"id": f"p{number}", "caption": f"a {colour} square", "origin": "ab"[number % 2]}


def item(number: int) -> dict[str, Any]:
    """A generated picture with what three people say of it."""
    colour, shape = COLOURS[number // 2 % len(COLOURS)], ("circle", "ring")[number % 2]
    return {
        "id": f"i{number}", "prompt": f"a {colour} circle and a small square", "generator": "xy"[number % 2],
        "total_score": [1 + number % 4, 2 + number % 4], "questions": {f"{colour} (color)": f"is it {shape}"},
        "element_score": {f"{colour} (color)": [1, 0, number % 2], "square (object)": [1, 1, number % 2]},
    }  # fmt: skip


SMALL: dict[str, Tiny] = {
    "compress-align": (
        {"annotations": ["ranked.jsonl"], "encoder": "models/small-clip", "data": ["pairs.jsonl"], "device": "cpu",
         "keep": 0.5, "epochs": 2, "batch_size": 4, "eval_fraction": 0.25, "save_steps": 1, "score_batch": 4, "shards": 3,
         "workers": 1},
        {"ranked.jsonl": rows_with_pictures(ranked, 10), "pairs.jsonl": rows_with_pictures(pair, 10)},
    ),
    "evalmuse": (
        {"train": ["scored.jsonl"], "base": "models/small-clip", "data": ["items.jsonl"], "device": "cpu", "epochs": 1,
         "max_steps": 3, "batch_size": 4, "text_length": 16, "eval_fraction": 0.25, "save_steps": 1, "score_batch": 4},
        {"scored.jsonl": rows_with_pictures(item, 12), "items.jsonl": rows_with_pictures(item, 10)},
    ),
}  # fmt: skip
VARIANTS: dict[str, tuple[str, Tiny]] = {
    "compress-align by CLIPScore": (
        "compress-align",
        (
            {"by": "clip-score", "encoder": "models/small-clip", "data": ["pairs.jsonl"], "device": "cpu", "threshold": -0.5,
             "score_batch": 4, "duplicates": "keep"},
            {"pairs.jsonl": rows_with_pictures(pair, 10)},
        ),
    ),
    "evalmuse by CLIPScore": (
        "evalmuse",
        (
            {"clip_score": "models/small-clip", "data": ["items.jsonl"], "device": "cpu", "score_batch": 4},
            {"items.jsonl": rows_with_pictures(item, 10)},
        ),
    ),
}  # fmt: skip
