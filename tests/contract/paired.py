"""Tiny runs of systems over pictures and the texts beside them: (options, files)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coalign.checks.worlds.drawn.scene import PLAIN, draw, random_object
from tests.pairs.tiny import tiny_clip
from tests.vision.drawn import data_url

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]
CLASSES = ("blue ring", "green cross", "red circle", "white square")


def drawn_rows(n: int, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> list[dict[str, Any]]:
    """So many pictures of each class, with its name."""
    rng = np.random.default_rng(seed)
    return [
        {"image": data_url(drawn_picture(rng, name)), "label": name.replace(" ", "_"), "id": f"{name}/{at}"}
        for at in range(n)
        for name in classes
    ]


def drawn_picture(rng: np.random.Generator, name: str) -> Any:
    from PIL import Image

    colour, shape = name.split()
    pixels = draw([random_object(rng, colour=colour, shape=shape)], PLAIN, rng)
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).round().byte().numpy())


def _json(value: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(value), encoding="utf-8")


SMALL: dict[str, Tiny] = {
    "coprompt": (
        {"data": "classes.jsonl", "model": "models/small-clip", "device": "cpu", "shots": 2, "seeds": [1, 2],
         "arms": ["coprompt"], "prompt_length": 2, "prompt_depth": 2, "context": "X X a", "ending": "",
         "templates": ["this shows a {}", "there is a {}"], "epochs": 2, "batch_size": 4, "eval_batch_size": 3, "save_steps": 1},
        {"classes.jsonl": drawn_rows(4)},
    ),
}  # fmt: skip

VARIANTS: dict[str, tuple[str, Tiny]] = {
    "coprompt on all classes, with descriptions and another style": (
        "coprompt",
        (
            {"data": "classes.jsonl", "test": "more.jsonl", "transfer": ["own=own.jsonl", "more=more.jsonl"],
             "model": "models/small-clip", "device": "cpu", "shots": 2, "seeds": [0], "protocol": "all",
             "arms": ["no-adapters", "no-consistency"], "criterion": "mse", "prompt_length": 1, "prompt_depth": 3, "context": "",
             "ending": "", "preset": "pets", "descriptions": "said.json", "clean_student": True, "augmentation": "none",
             "optimizer": "adamw", "schedule": "cosine", "max_steps": 2, "batch_size": 4, "gradient_accumulation": 2, "save_steps": 1},
            {"classes.jsonl": drawn_rows(4), "more.jsonl": drawn_rows(2, seed=3),
             "own.jsonl": drawn_rows(2, ("purple ring", "red ring"), seed=4),
             "said.json": _json({name: ["there is a " + name, "this shows it"][: 1 + at % 2] for at, name in enumerate(CLASSES)})},
        ),
    ),
}  # fmt: skip

MODELS: dict[str, Callable[[Path], object]] = {"small-clip": tiny_clip}
