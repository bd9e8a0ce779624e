"""A tiny chat model folder and prompts on which `act` runs in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.preference.tiny_chat import VOCABULARY, tiny_tokenizer


def make_model_folder(path: Path, kind: Any = LlamaForCausalLM, places: int = 512, **changes: Any) -> Path:
    """A random Llama with a byte tokenizer and a chat template."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=places,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **changes,
    )
    kind(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def make_prompts(path: Path, training: int = 8, held_out: int = 4) -> Path:
    """Length limits that random text meets about half of the time."""
    rows: list[dict[str, Any]] = []
    for n in range(training + held_out):
        constraints = [{"verifier": "max_characters", "n": 6 + n % 3}, {"verifier": "no_commas"}]
        split = "train" if n < training else "heldout"
        rows.append(
            {
                "id": f"p{n}",
                "prompt": f"Say {n}." + " Please." * (n % 3),
                "constraints": constraints,
                "split": split,
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SETTINGS: dict[str, Any] = {
    "samples": 4,
    "max_new_tokens": 10,
    "epochs": 2,
    "batch_size": 2,
    "save_steps": 1,
    "learning_rate": 1e-2,
    "eval_samples": 2,
    "unfinished": "as is",
    "device": "cpu",
}
