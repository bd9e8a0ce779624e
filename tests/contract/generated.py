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

REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "ict": [
        ({"data": "x", "sigma_max": 0.001}, "not above sigma_min"),
        ({"data": "x", "last_levels": 5}, "below first_levels"),
        ({"data": "x", "teacher_ema": 1.0}, "would stay the network"),
        ({"data": "x", "teacher_schedule": "constant"}, "teacher_schedule has no effect without teacher_ema"),
        ({"data": "x", "noise": "uniform", "noise_mean": 0.0}, "noise_mean has no effect"),
        ({"data": "x", "noise_mean": 900.0}, "outside of the levels"),
        ({"data": "x", "distance": "squared", "huber_constant": 0.1}, "huber_constant has no effect"),
        ({"data": "x", "distance": "lpips"}, "'lpips' is unknown"),
        ({"data": "x", "curriculum": "constant", "first_levels": 3}, "first_levels has no effect"),
        ({"data": "x", "steps_at": [0.5, 0.8]}, "not in descending order"),
        ({"data": "x", "steps_at": [90.0]}, "not between sigma_min"),
        ({"data": "x", "model": "unet.json", "width": 64}, "width has no effect"),
        ({"data": "x", "model": "unet.json", "revision": "main"}, "revision has no effect"),
        ({"data": "x", "attention": [3]}, "names resolution 3"),
        ({"data": "x", "eval_steps": 3}, "eval_steps has no effect without eval_fraction"),
        ({"data": "x", "ema": 1.0}, "ema is 1"),
        ({"data": "x", "samples": 1}, "at least 2"),
    ],
    "spright": [
        ({"data": "x"}, "model is needed to fine-tune"),
        ({"data": "x", "tune": False, "spatial_share": 0.3}, "spatial_share has no effect without tune"),
        ({"data": "x", "tune": False, "model": "y"}, "model has no effect with --no-tune"),
        ({"data": "x", "tune": False, "caption_tokens": 9}, "caption_tokens has no effect without captioner"),
        ({"data": "x", "tune": False, "captioner_endpoint": "ftp://h"}, "expected an address"),
        ({"tune": False, "captioner": "x", "pictures": "y", "detector": "z"}, "captioner has no effect without data"),
        ({"tune": False, "pictures": "x"}, "detector is needed"),
        ({"tune": False, "pictures": "x", "detector": "y", "detections": "z"}, "exclude each other"),
        ({"tune": False, "pictures": "x", "prompts": "y", "detector": "z"}, "exclude each other"),
        ({"tune": False, "pictures": "x", "detector": "y", "guidance": 3.0}, "guidance has no effect without prompts"),
        ({"tune": False, "prompts": "x", "detector": "y"}, "model is needed to make pictures"),
        ({"prompts": "x", "detector": "y", "model": "z"}, "say --no-tune"),
        ({"data": "x", "model": "y", "pictures": "z", "detector": "d"}, "say --no-tune"),
        ({"data": "x", "model": "y", "more_objects_than": 3}, "detector is needed to count"),
        ({"data": "x", "model": "y", "most_pictures": 3}, "most_pictures has no effect without more_objects_than"),
        ({"data": "x", "model": "y", "detector": "z"}, "detector has no effect"),
        ({"data": "x", "model": "y", "train_text_encoder": False, "text_learning_rate": 1e-3}, "text_learning_rate has no effect"),
        ({"data": "x", "model": "y", "ema": 1.0}, "ema is 1"),
    ],
}  # fmt: skip
