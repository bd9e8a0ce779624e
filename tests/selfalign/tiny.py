"""A tiny model folder of any kind."""

from __future__ import annotations

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
