"""Sums of two numbers of two digits, worked out in words, and two language models that know different halves of it.

The *base* model reads documents: a sum is followed by its solution, in one of many ways of writing, or, as often, by
text that has nothing to do with it. It learns to add, but by itself it does not answer. The *aligned* model is much
smaller and reads questions with answers in one way of writing; it learns that and is too small to add.
Both have one vocabulary of words, digits and signs; a word brings its space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from coalign.checks.tiny_models import seeded, stream, tiny_transformer
from coalign.checks.worlds.texts import read_texts
from coalign.checks.worlds.words.models import end_with, pick, train_on_texts, word_tokenizer

_TEXTS = read_texts("sums")
STARTS, CARRIES, JOINS, CLOSINGS, CHATTER = (
    _TEXTS[name] for name in ("starts", "carries", "joins", "closings", "chatter")
)
"""Parts of a solution; and what stands after a question as often as a solution. It begins with four words and solutions with eight, so a base
model that always takes the most probable word does not answer."""
ANSWER = re.compile(r"The answer is((?: ?\d)+)")
NUMBERS = re.compile(r"\d(?: ?\d)*")


@dataclass(frozen=True)
class Sum:
    """A question: two numbers from 10 to 99."""

    one: int
    other: int

    @property
    def prompt(self) -> str:
        return f"Q : {spaced(self.one)} + {spaced(self.other)} ?\nA :"

    @property
    def total(self) -> int:
        return self.one + self.other


def spaced(number: int) -> str:
    """Digits one by one: `1 3 2`."""
    return " ".join(str(number))


def worked(question: Sum, start: str, carry: str, join: str, closing: str) -> str:
    """A solution, as it stands after the prompt."""
    (a, b), (c, d) = divmod(question.one, 10), divmod(question.other, 10)
    ones, tens = b + d, a + c + (b + d) // 10
    return (
        f" {start} {b} + {d} = {spaced(ones)} {carry} {ones // 10} {join} {a} + {c} + {ones // 10} = {spaced(tens)} ."
        f" {closing} {spaced(question.total)} ."
    )


def answer_of(text: str) -> int | None:
    """The number after `The answer is`, else the last number in the text; None where there is no number."""
    found = ANSWER.findall(text) or NUMBERS.findall(text)
    return int(found[-1].replace(" ", "")) if found else None


@dataclass(frozen=True)
class AdditionWorld:
    """What the arms of a seed share."""

    base: LlamaForCausalLM
    aligned: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    questions: tuple[Sum, ...]


def make_world(
    seed: int,
    *,
    questions: int = 300,
    documents: int = 20_000,
    base_steps: int = 700,
    aligned_steps: int = 500,
) -> AdditionWorld:
    """Both models, trained, and held-out questions."""
    tokenizer = make_tokenizer()
    order = torch.randperm(8100, generator=stream(seed, "questions")).tolist()
    sums = [Sum(10 + place // 90, 10 + place % 90) for place in order]
    held_out, known = tuple(sums[:questions]), sums[questions:]
    draw = stream(seed, "documents")
    texts = [_document(known, draw) for _ in range(documents)]
    shown = known[:documents]
    answers = [one.prompt + worked(one, "Sure .", "carry", "then", "The answer is") for one in shown]
    base = seeded(lambda: tiny_transformer(len(tokenizer), 96, 3, 4), 2 * seed)
    aligned = seeded(lambda: tiny_transformer(len(tokenizer), 32, 1, 2), 2 * seed + 1)
    for model in (base, aligned):
        end_with(model, tokenizer)
    train_on_texts(base, tokenizer, texts, steps=base_steps, generator=stream(seed, "base"))
    train_on_texts(aligned, tokenizer, answers, steps=aligned_steps, generator=stream(seed, "aligned"))
    return AdditionWorld(base, aligned, tokenizer, held_out)


def _document(sums: Sequence[Sum], draw: torch.Generator) -> str:
    question = pick(sums, draw)
    if int(torch.randint(2, (1,), generator=draw)):
        phrases = [pick(options, draw) for options in (STARTS, CARRIES, JOINS, CLOSINGS)]
        return question.prompt + worked(question, *phrases)
    return f"{question.prompt} {pick(CHATTER, draw)} {pick(CHATTER, draw)} ."


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words with the space before them, single digits, signs, the line break."""
    words = (*STARTS, *CARRIES, *JOINS, *CLOSINGS, *CHATTER, "Q A : + ? = . ,", *map(str, range(10)))
    return word_tokenizer([" ".join(words)])
