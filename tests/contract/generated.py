"""Tiny runs of systems that make pictures: (options, files)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.vision.drawn import labelled_squares

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]

SMALL: dict[str, Tiny] = {
    "ict": (
        {"data": "squares.jsonl", "image_size": 8, "width": 8, "multipliers": [1, 2], "layers_per_block": 1, "attention": [1],
         "max_steps": 3, "batch_size": 4, "first_levels": 2, "last_levels": 8, "learning_rate": 1e-3, "ema": 0.5,
         "eval_fraction": 0.34, "eval_steps": 2, "save_steps": 1, "logging_steps": 1, "samples": 4, "sampling_batch": 3,
         "device": "cpu"},
        {"squares.jsonl": labelled_squares()},
    ),
}  # fmt: skip

VARIANTS: dict[str, tuple[str, Tiny]] = {
    "ict as consistency training was, with classes": (
        "ict",
        (
            {"data": "squares.jsonl", "image_size": 8, "width": 8, "multipliers": [1, 2], "layers_per_block": 1, "attention": [],
             "max_steps": 3, "batch_size": 4, "curriculum": "square-root", "first_levels": 2, "last_levels": 8, "noise": "uniform",
             "weighting": "none", "distance": "squared", "teacher_ema": 0.9, "classes": True, "grey": True, "optimizer": "adamw",
             "save_steps": 1, "logging_steps": 1, "samples": 4, "steps_at": [5.0, 0.8], "device": "cpu"},
            {"squares.jsonl": labelled_squares()},
        ),
    ),
}  # fmt: skip

MODELS: dict[str, Callable[[Path], object]] = {}
