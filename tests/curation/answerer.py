"""A tiny chat model that gives one reply to everything: a judge, an expert and a writer of lists in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.tiny import make_model

SAYS = '- use few words\nIt is safe. [[A]] {"turn": 1, "satisfied": false, "dissatisfied": true, "categories": ["style"]}'
"""A point of a list, what moderation asks for, a verdict, and a signal of the first turn that judges a reply."""


def save_answerer(folder: Path, reply: str = SAYS) -> Path:
    """Train until the reply, one token of the tokenizer, follows whatever was asked; a second."""
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.add_tokens([reply])
    said = tokenizer.convert_tokens_to_ids(reply)
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": 16_384,
    }  # fmt: skip
    model: Any = make_model("llama", vocab_size=len(tokenizer), scale=1.0, **ids)
    head = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)
    head = head if isinstance(head, list) else head["input_ids"]
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        noise = torch.randint(3, 300, (4, 40), generator=draw)
        tail = torch.tensor([[*head[-4:], said, tokenizer.eos_token_id]]).expand(4, -1)
        rows = torch.cat([noise, tail], dim=1)
        labels = rows.clone()
        labels[:, :-2] = -100
        loss = model(input_ids=rows, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
