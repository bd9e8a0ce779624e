"""Files to judge, and tiny models that judge them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tests.preference.tiny_chat import VOCABULARY, tiny_tokenizer


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
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, num_labels=outputs,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
