"""Whole runs on a tiny chat model in a folder: what `coalign run METHOD` does, without the command line's own part."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file as load_tensors

from coalign.cli.running.run import execute
from coalign.core.options import build
from coalign.core.runs import Run
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model

Rows = Iterable[Mapping[str, Any]]
SMALL = {"batch_size": 4, "learning_rate": 1e-2, "max_length": 200, "device": "cpu"}
WORDS = ("sky", "sea", "tree", "sun", "moon", "rain", "road", "bird")


def save_tiny_model(
    folder: Path, *, seed: int = 0, template: str | None = CHATML, context: int = 256, scale: float = 1.0
) -> Path:
    """A Llama of two layers with a byte tokenizer, as a model folder; `context` in tokens. With a larger `scale` of its weights
    what it says depends on every token.
    """
    tokenizer = byte_tokenizer(template)
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": context,
    }
    model: Any = make_model("llama", seed=seed, vocab_size=len(tokenizer), scale=scale, **ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(n: int = 8, **columns: Any) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"What is the {WORDS[i % 8]} like, {i}?",
            "chosen": f"The {WORDS[i % 8]} is fine.",
            "rejected": f"I will not say {i}",
            **columns,
        }
        for i in range(n)
    ]


def feedback(n: int = 8) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if i % 2 else "rejected"], "label": bool(i % 2)}
        for i, row in enumerate(pairs(n))
    ]


def rankings(n: int = 8, **columns: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "responses": [row["rejected"], row["chosen"], "Hm."], "scores": [0, 1, 0], **columns}
        for row in pairs(n)
    ]  # fmt: skip


def demonstrations(n: int = 8) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs(n)]


def judgments(n: int = 8, fine: int = 4) -> list[dict[str, Any]]:
    """Of so many answers the first `fine` are praised."""
    said = ["None"] * fine + ["Too short."] * (n - fine)
    return [
        {"prompt": row["prompt"], "response": row["rejected"], "judgment": one}
        for row, one in zip(pairs(n), said, strict=True)
    ]


def assert_same_weights(one: Run, other: Run) -> None:
    first, second = (load_tensors(next(run.model.glob("*.safetensors"))) for run in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def run_system(name: str, system: Any, folder: Path, **options: Any) -> Run:
    """Run a system or a `learner` in `folder`; again with the same options to continue."""
    return execute(name, system, build(system.Config, {**SMALL, **options}), folder)


def assert_complete(run: Run) -> dict[str, Any]:
    """Every part of a finished run is there; gives its stored report."""
    assert run.state == "done"
    for part in ("config.yaml", "environment.json", "events.jsonl", "report.html", "report.json"):
        assert (run.path / part).stat().st_size > 0, part
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "## Data" in card
    assert (run.model / "tokenizer_config.json").exists()
    assert any(run.model.glob("*.safetensors"))
    assert run.status()["headline"]
    assert run.events("data")
    return json.loads((run.path / "report.json").read_text(encoding="utf-8"))


def notes(run: Run) -> str:
    return "\n".join(event["note"] for event in run.events("data"))
