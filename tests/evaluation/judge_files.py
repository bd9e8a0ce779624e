"""Files to judge, and tiny models that judge them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import LlamaForSequenceClassification

from tests.selfalign.tiny import make_model_folder


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair_rows(n: int = 6) -> list[dict[str, Any]]:
    """The longer answer is the better one, and people say so; every third time one of them does not."""
    rows = []
    for k in range(n):
        answers = ["short", f"a longer answer, number {k}"]
        better = 1 + k % 2
        row = {"id": f"q{k}", "prompt": f"Question {k}?"}
        row |= {"response_a": answers[1 - k % 2], "response_b": answers[k % 2]}
        people = (better, better, better if k % 3 else 0)
        rows.append({**row, **{f"annotator{n}": said for n, said in enumerate(people, 1)}})
    return rows


def save_reward_model(path: Path, *, outputs: int = 1) -> str:
    """A random sequence classifier with a byte tokenizer and a chat template."""
    return str(make_model_folder(path, LlamaForSequenceClassification, 256, num_labels=outputs))
