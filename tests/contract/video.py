"""Tiny runs of systems over clips: (options, files)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.video import tiny

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]
ALIGNER = {"device": "cpu", "width": 16, "joint": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 16,
           "max_steps": 2, "batch_size": 2, "save_steps": 1, "learning_rate": 1e-2}  # fmt: skip

RETRIEVER = {"frames": 3, "words": 12, "queries": 2, "decoder_layers": 1, "temporal_layers": 1, "heads": 2, "feed_forward": 16,
             "max_steps": 2, "batch_size": 3, "save_steps": 1, "device": "cpu", "encode_batch": 2}  # fmt: skip


def _spoken(path: Path) -> object:
    """The videos with what is said in them in place of their sentences."""
    tiny.videos(path, 4)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    said = [
        {"transcript": row["sentences"], **{name: row[name] for name in ("video_id", "features")}}
        for row in rows
    ]
    return path.write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content, encoding="utf-8")


SMALL: dict[str, Tiny] = {
    "tvta": (
        {**ALIGNER, "data": "moments.jsonl", "text_encoder": "models/encoder", "eval_fraction": 0.34, "order": "coin"},
        {"moments.jsonl": tiny.videos},
    ),
    "glscl": (
        {**RETRIEVER, "data": "drawn.jsonl", "encoder": "models/image-text", "eval_fraction": 0.34, "idl_both": True,
         "mask_memory": True, "bank_data": "drawn.jsonl", "qb_least": [1, 1]},
        {"drawn.jsonl": tiny.drawn_clips},
    ),
}  # fmt: skip

VARIANTS: dict[str, tuple[str, Tiny]] = {
    "tvta that writes steps": (
        "tvta",
        (
            {**ALIGNER, "data": "spoken.jsonl", "text_encoder": "models/encoder", "eval_fraction": 0.25, "steps": True,
             "writer": "models/answerer", "prompt": "steps.txt", "chunk_words": 8, "step_tokens": 4, "least_score": 0.0,
             "page_video": "none"},
            {"spoken.jsonl": _spoken, "steps.txt": _text("{transcript}")},
        ),
    ),
    "glscl without queries": (
        "glscl",
        (
            {"data": "drawn.jsonl", "encoder": "models/image-text", "eval_data": "test-drawn.jsonl", "frames": 3, "words": 12,
             "temporal_layers": 1, "local_weight": 0, "max_steps": 2, "batch_size": 3, "save_steps": 1, "device": "cpu"},
            {"drawn.jsonl": tiny.drawn_clips, "test-drawn.jsonl": lambda path: tiny.drawn_clips(path, 3)},
        ),
    ),
    "tvta with an eval file of known features": (
        "tvta",
        (
            {**ALIGNER, "data": "known.jsonl", "eval_data": "test-known.jsonl", "order": "shuffled"},
            {"known.jsonl": lambda path: tiny.videos(path, 3, text_features=True),
             "test-known.jsonl": lambda path: tiny.videos(path, 2, text_features=True)},
        ),
    ),
}  # fmt: skip
