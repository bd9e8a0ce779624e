"""Tiny runs of systems that make pictures: (options, files)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.vision.diffusion_models import save_captioner, save_detector, save_tiny_pipeline
from tests.vision.drawn import labelled_squares, told_squares

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]

SMALL: dict[str, Tiny] = {
    "ict": (
        {"data": "squares.jsonl", "image_size": 8, "width": 8, "multipliers": [1, 2], "layers_per_block": 1, "attention": [1],
         "max_steps": 3, "batch_size": 4, "first_levels": 2, "last_levels": 8, "learning_rate": 1e-3, "ema": 0.5,
         "eval_fraction": 0.34, "eval_steps": 2, "save_steps": 1, "logging_steps": 1, "samples": 4, "sampling_batch": 3,
         "device": "cpu"},
        {"squares.jsonl": labelled_squares()},
    ),
    "spright": (
        {"data": "told.jsonl", "captioner": "models/llava", "model": "models/pipeline", "detector": "models/yolos", "device": "cpu",
         "objects": ["cat", "cup"], "most_prompts": 3, "pictures_per_prompt": 2, "sampling_steps": 2, "guidance": 2.0,
         "caption_tokens": 4, "max_steps": 3, "batch_size": 2, "learning_rate": 1e-2, "text_learning_rate": 1e-2, "ema": 0.5,
         "image_size": 16, "save_steps": 1, "logging_steps": 1},
        {"told.jsonl": told_squares()},
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
    "spright with what is there already": (
        "spright",
        (
            {"data": "spatial.jsonl", "model": "models/pipeline", "device": "cpu", "tune": True, "caption_form": "negated",
             "flip": "swap", "spatial_share": 1.0, "train_text_encoder": False, "min_snr": 5.0, "ema": 0.0, "max_steps": 2,
             "batch_size": 2, "image_size": 16, "save_steps": 1, "logging_steps": 1, "more_objects_than": 0,
             "detector": "models/yolos"},
            {"spatial.jsonl": told_squares(spatial=True)},
        ),
    ),
    "spright on pictures made elsewhere": (
        "spright",
        (
            {"tune": False, "pictures": "spatial.jsonl", "detections": "found.jsonl"},
            {"spatial.jsonl": told_squares(spatial=True),
             "found.jsonl": [{"picture": f"p{i}", "detections": [{"label": "red square", "score": 0.9, "box": [0, 0, 3, 3]}]} for i in range(5)]},
        ),
    ),
}  # fmt: skip

MODELS: dict[str, Callable[[Path], object]] = {
    "pipeline": save_tiny_pipeline,
    "yolos": save_detector,
    "llava": save_captioner,
}
