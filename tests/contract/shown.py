"""Tiny runs of systems that learn from pictures: (options, files)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.preference.tiny_runs import write

Tiny = tuple[Mapping[str, Any], Mapping[str, Any]]


def _domains(path: Path) -> object:
    """Two classes in two domains, the pictures inside the rows."""
    from tests.vision.pictures import domain_pictures

    return write(path, domain_pictures(path.with_suffix(""), inline=True))


def _image(number: int, bright: bool, wide: bool, folder: Path) -> str:
    import base64

    from tests.vision.pictures import picture

    path = picture(folder, f"{number}.png", bright=bright, wide=wide, seed=number, side=32)
    return base64.b64encode(path.read_bytes()).decode()


def _ranked(path: Path) -> object:
    """Questions and answers about squares, one of the questions with a tie."""
    rows = [
        {"id": f"r{n}", "image": _image(n, n % 2 == 0, n % 3 == 0, path.with_suffix("")),
         "questions": ["what colour is the circle", "what is shown", "where is the ring"], "question_ranks": [1, 2, 1 + n % 2],
         "answers": [f"the circle is red and number {n}", "red"], "answer_scores": [0.9, 0.4]}
        for n in range(8)
    ]  # fmt: skip
    return write(path, rows)


def _instructions(path: Path) -> object:
    """Conversations of two types, of which every second has two turns and one several answers."""
    rows = []
    for n in range(8):
        said = [
            {"from": "human", "value": f"<image>\nwhat colour is thing {n}"},
            {"from": "gpt", "value": ["it is red", f"red {n}"]},
        ]
        if n % 2:
            said += [{"from": "human", "value": "where is it"}, {"from": "gpt", "value": "at the top left"}]
        image = _image(n, n % 2 == 0, n % 3 == 0, path.with_suffix(""))
        rows.append({"id": f"i{n}", "image": image, "type": "ab"[n // 4], "conversations": said})
    return write(path, rows)


def _clip(path: Path) -> object:
    from tests.pairs.tiny import tiny_clip

    return tiny_clip(path)


def _resnet(path: Path) -> object:
    from tests.vision.pictures import save_tiny_resnet

    return save_tiny_resnet(path)


SMALL: dict[str, Tiny] = {
    "itta": (
        {"model": "models/resnet", "device": "cpu", "data": "domains.jsonl", "max_steps": 3, "batch_per_domain": 2,
         "learning_rate": 1e-3, "held_out": 0.25, "eval_steps": 2, "save_steps": 1, "logging_steps": 1, "test_batch": 3,
         "target": ["dark"]},
        {"domains.jsonl": _domains},
    ),
    "align2llava": (
        {"annotations": ["ranked.jsonl"], "data": ["instructions.jsonl"], "reward_model": "models/drawn-clip", "device": "cpu",
         "epochs": 2, "batch_size": 3, "save_steps": 1, "eval_fraction": 0.25, "alpha": 0.75, "beta": 0.7, "score_batch": 3,
         "model": "models/wide", "max_new_tokens": 6, "request_batch": 2, "max_failures": 1.0},
        {"ranked.jsonl": _ranked, "instructions.jsonl": _instructions},
    ),
}  # fmt: skip
VARIANTS: dict[str, tuple[str, Tiny]] = {
    "itta without the learned consistency, in turn": (
        "itta",
        (
            {"model": "models/resnet", "device": "cpu", "data": "domains.jsonl", "max_steps": 2, "batch_per_domain": 2,
             "consistency": "squared", "augment": False, "held_out": 0.25, "adapted": "extractor", "styles": "batch",
             "test_batch": 4, "save_steps": 0},
            {"domains.jsonl": _domains},
        ),
    ),
}  # fmt: skip
MODELS: dict[str, Callable[[Path], object]] = {"drawn-clip": _clip, "resnet": _resnet}
