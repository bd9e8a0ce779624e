"""A tiny base model that learned to write tasks after seeds, to answer and to grade them: seconds to train, no template."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from coalign.data.messages import render_transcript
from coalign.selfalign.synthesis.tasks import SeedTask, draw_tasks, numbered_blocks

SHARED = "COALIGN_TESTS_SHARED"
"""Names a folder that all processes of a test run share (`tests/conftest.py`)."""
COLOURS = ("red", "blue", "green", "grey", "white", "black")
THINGS = ("sky", "sea", "tree", "sun", "moon", "rain")
SEEDS = [
    {
        "id": f"s{n}",
        "instruction": f"Name the colour of the {thing}.",
        "input": "",
        "output": f"It is {colour}.",
    }
    for n, (thing, colour) in enumerate(zip(THINGS, COLOURS, strict=True))
]


def task(thing: str, colour: str) -> str:
    return f"Say of the {thing} that it is {colour}."


def documents(requests: Sequence[str], grades: Sequence[str], n: int, seed: int = 0) -> list[tuple[str, str]]:
    """(what is there, how it goes on), as plain text and as a dialogue.

    Args:
        requests: what stands before the seeds; a trailing line break is added.
        grades: what asks for a grade, with `{question}` and `{answer}`; without any, nothing is in dialogues either.
    """
    draw = random.Random(seed)
    seeds = [SeedTask(**one) for one in SEEDS]
    found = []
    for number in range(n):
        thing, colour = draw.choice(THINGS), draw.choice(COLOURS)
        kind = number % 3 if grades else number % 2
        if kind == 0:
            text = f"{draw.choice(requests)}\n{numbered_blocks(draw_tasks(seeds, 1, draw))}"
            more = [task(draw.choice(THINGS), draw.choice(COLOURS)) for _ in range(2)]
            said = f" {more[0]}\n2. Input:\n<noinput>\n###\n3. Instruction: {more[1]}\n3. Input:\n<noinput>\n###\n"
        elif kind == 1:
            text, said = task(thing, colour), f"The {thing} is {colour}."
        else:
            said = f"{draw.choice((7, 9, 9, 10))}||fine"
            text = draw.choice(grades).format(
                question=task(thing, colour), answer=f"The {thing} is {colour}."
            )
        chat = render_transcript([{"role": "user", "content": text}])
        found.append((text if kind != 1 else f"{text}\n", said))
        if grades:
            found.append((chat, f" {said.strip()}" if kind else said))
    return found


def save_writer(path: Path, requests: Sequence[str], grades: Sequence[str]) -> Path:
    """A model folder with it, trained once for all processes of a test run."""
    shared = os.environ.get(SHARED)
    if shared is None:
        return _save(path, requests, grades)
    made = Path(shared) / f"writer-{zlib.crc32(repr((requests, grades)).encode())}"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            _save(made.with_suffix(".tmp"), requests, grades).rename(made)
    shutil.copytree(made, path, dirs_exist_ok=True)
    return path


def _save(path: Path, requests: Sequence[str], grades: Sequence[str]) -> Path:
    for one in _trained(requests, grades):
        one.save_pretrained(path)
    return path


def _trained(requests: Sequence[str], grades: Sequence[str], steps: int = 450) -> tuple[Any, Any]:
    """Model and tokenizer."""
    pairs = documents(requests, grades, 240)
    tokenizer = _tokenizer([one + other for one, other in pairs])
    end: Any = tokenizer.eos_token_id
    rows = [(tokenizer.encode(text), [*tokenizer.encode(said), end]) for text, said in pairs]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, eos_token_id=end, pad_token_id=end, bos_token_id=None,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    draw = random.Random(1)
    rows.sort(key=lambda row: len(row[0]))
    for step in range(steps):
        start = draw.randrange(len(rows) - 8)
        part = rows[start : start + 8]
        width = max(len(text) + len(said) for text, said in part)
        ids, labels = torch.full((8, width), end), torch.full((8, width), -100)
        for place, (text, said) in enumerate(part):
            whole = torch.tensor([*text, *said])
            ids[place, : len(whole)] = whole
            labels[place, len(text) : len(whole)] = whole[len(text) :]
        logits = model(input_ids=ids).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / steps)
    return model.eval(), tokenizer


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=800, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
