"""A model with random weights, and prompts, for pages and servers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.conftest import coalign as coalign
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model
from tests.preference.tiny_runs import write


@pytest.fixture
def model(tmp_path: Path) -> str:
    tokenizer = byte_tokenizer(CHATML)
    folder = tmp_path / "model"
    made = make_model("llama", dtype=torch.float32, vocab_size=len(tokenizer), eos_token_id=1)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    words = ("sea", "sky", "a", "green")
    return str(write(tmp_path / "prompts.jsonl", [{"prompt": f"say {word}"} for word in words]))
