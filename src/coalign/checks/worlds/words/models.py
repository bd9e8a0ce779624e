"""Language models over words: a tokenizer made from the texts of a world, and training on whole texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

T = TypeVar("T")

PAD, END = "<pad>", "<end>"
PIECES = r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]|\s"
"""A word, digit or sign with the space before it; a space or line break that belongs to none."""


def word_tokenizer(
    texts: Iterable[str],
    *,
    start: str | None = None,
    markers: Sequence[str] = (),
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    """Words with the space before them, single digits, signs, the line break: those of `texts` and no others.

    Args:
        start: a token that stands before every text (BOS).
        markers: special tokens of a chat template.
        chat_template: in Jinja.
    """
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    words = {
        one for text in texts for begun in (text, f" {text}") for one, _ in split.pre_tokenize_str(begun)
    }
    # At the start of a text or a line a word stands without a space.
    words |= {one.lstrip() for one in words} | {f" {one.lstrip()}" for one in words} | {"\n", " "}
    special = [PAD, END, *([start] if start else []), *markers]
    vocabulary = {word: n for n, word in enumerate([*special, *sorted(words - {""})])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    inner.pre_tokenizer = split
    inner.decoder = decoders.Fuse()
    if start:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, vocabulary[start])]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=start,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(markers),
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def end_with(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The same model; its answers end with the tokenizer's end token."""
    end = cast(int, tokenizer.eos_token_id)
    model.config.eos_token_id = end
    model.generation_config.eos_token_id = end  # type: ignore[union-attr]
    return model


def train_on_texts(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    steps: int,
    generator: torch.Generator,
    contexts: Sequence[str] | None = None,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
) -> None:
    """Cross-entropy over whole texts and their end, Adam, learning rate falling to zero. Trains `model` itself.

    Args:
        contexts: for each text what stands before it; read, not learned. They bring their own special tokens.
    """
    end = cast(int, tokenizer.eos_token_id)
    rows = [[*ids, end] for ids in _ids(tokenizer, texts)]
    before = _ids(tokenizer, contexts) if contexts is not None else [[] for _ in rows]
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * (1 - step / steps)
    )
    model.train()
    for _ in range(steps):
        picked = torch.randint(len(rows), (batch_size,), generator=generator).tolist()
        width = max(len(before[row]) + len(rows[row]) for row in picked)
        batch = [(before[row], rows[row], width - len(before[row]) - len(rows[row])) for row in picked]
        ids = torch.tensor([[*context, *text, *[end] * pad] for context, text, pad in batch])
        labels = torch.tensor(
            [[*[-100] * len(context), *text, *[-100] * pad] for context, text, pad in batch]
        )
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def pick(options: Sequence[T], draw: torch.Generator) -> T:
    """One of the options."""
    return options[int(torch.randint(len(options), (1,), generator=draw))]


def shuffled(options: Sequence[Any], draw: torch.Generator) -> list[Any]:
    """All options in a drawn order."""
    return [options[place] for place in torch.randperm(len(options), generator=draw).tolist()]


def _ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    return cast("list[list[int]]", tokenizer(list(texts), add_special_tokens=False)["input_ids"])
