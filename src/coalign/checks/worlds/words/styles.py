"""The last digit of a sum of three digits, worked out in several ways of writing, and a small language model that knows some
of them.

The model reads documents: up to three questions with their solutions, all in one way of writing, some without the question.
So it can add, has a way of writing of its own (the most frequent one), and takes up the way of writing that it is shown. Some
ways it never saw. Whoever trains it on answers of one way can see how much of its skill is left in it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from coalign.checks.steps import frozen_logps, one_each
from coalign.checks.tiny_models import sample, seeded, stream, tiny_transformer
from coalign.checks.worlds.words.models import end_with, train_on_texts, word_tokenizer

_LONGEST = 45
"""Tokens of a solution, at most."""
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class Digits:
    """A question: three digits, whose sum's last digit is asked for."""

    a: int
    b: int
    c: int

    @property
    def prompt(self) -> str:
        return f"Q : {self.a} {self.b} {self.c} ?\nA :"

    @property
    def first(self) -> int:
        """Last digit of the sum of the first two."""
        return (self.a + self.b) % 10

    @property
    def second(self) -> int:
        """Last digit of the sum of the last two."""
        return (self.b + self.c) % 10

    @property
    def answer(self) -> int:
        return (self.a + self.b + self.c) % 10


def worked(one: Digits) -> str:
    """Two steps, the first two digits first."""
    return f" first {one.a} and {one.b} give {one.first} ; then {one.first} and {one.c} give {one.answer} ; it is {one.answer} ."


Style = Callable[[Digits], str]
STYLES: dict[str, Style] = {
    "short": lambda one: f" it is {one.answer} .",
    "worked": worked,
    "lecture": lambda one: (
        f" we take {one.a} , we add {one.b} , which is {one.first} , we add {one.c} , which is {one.answer} , so it is {one.answer} ."
    ),
    "last first": lambda one: (
        f" last {one.b} and {one.c} give {one.second} ; then {one.second} and {one.a} give {one.answer} ; it is {one.answer} ."
    ),
    "notation": lambda one: f" {one.a} & {one.b} > {one.first} & {one.c} > {one.answer} !",
    "verbose": lambda one: (
        f" let us look at this question with care and begin as everybody begins , with what stands at the beginning :{worked(one)}"
    ),
    "restated": lambda one: f" of {one.a} {one.b} {one.c}{worked(one)}",
    "foreign": lambda one: (
        f" primo {one.a} et {one.b} dant {one.first} ; deinde {one.first} et {one.c} dant {one.answer} ; est {one.answer} ."
    ),
}
"""Ways of writing a solution; the last digit is the answer."""
KNOWN = {"worked": 0.4, "lecture": 0.25, "short": 0.1, "last first": 0.25}
"""Those that the model read, and how often."""


@dataclass(frozen=True)
class StyleWorld:
    """The model of a seed, and questions that it never read.

    Attributes:
        test: that accuracy is measured on.
        asked: that the model answers itself, for examples.
        learnt: that every strategy answers.
    """

    seed: int
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    test: Sequence[Digits]
    asked: Sequence[Digits]
    learnt: Sequence[Digits]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]

    def answers(self, model: LlamaForCausalLM, questions: Sequence[Digits]) -> list[str]:
        """Greedy answers to questions, up to the end of the line."""
        prompts = [self.ids(one.prompt) for one in questions]
        end: int = self.tokenizer.eos_token_id  # type: ignore[assignment]
        generator = stream(self.seed, "greedy")
        found = sample(model, prompts, generator, n=1, max_new_tokens=_LONGEST, temperature=0.0, end=end)
        # In a document a line ends the answer.
        return [
            str(self.tokenizer.decode(one, skip_special_tokens=True)).partition("\n")[0] for (one,) in found
        ]

    def accuracy(self, model: LlamaForCausalLM) -> float:
        """Share of the test questions that are answered rightly."""
        said = self.answers(model, self.test)
        return sum(is_right(one, question) for one, question in zip(said, self.test, strict=True)) / len(said)

    def logps(self, contexts: Sequence[str], texts: Sequence[str]) -> list[list[float]]:
        """Token log-probabilities of texts, their end included, after contexts."""
        end: int = self.tokenizer.eos_token_id  # type: ignore[assignment]
        rows = one_each([self.ids(one) for one in contexts], [[*self.ids(one), end] for one in texts])
        return [one.tolist() for one in frozen_logps(self.model, rows).split()]

    def tuned(self, style: str, *, steps: int, learning_rate: float) -> LlamaForCausalLM:
        """The model trained on answers of one style."""
        model = copy.deepcopy(self.model)
        train_on_texts(
            model,
            self.tokenizer,
            [STYLES[style](one) for one in self.learnt],
            contexts=[one.prompt for one in self.learnt],
            steps=steps,
            batch_size=16,
            learning_rate=learning_rate,
            generator=stream(self.seed, "tuning"),
        )
        return model


def is_right(text: str, question: Digits) -> bool:
    """Whether the last digit of a text is the answer."""
    found = _DIGIT.findall(text)
    return bool(found) and int(found[-1]) == question.answer


def make_world(seed: int, *, steps: int = 1000, documents: int = 16_000) -> StyleWorld:
    """The model, trained from scratch on documents of the known styles, and its questions."""
    order = torch.randperm(1000, generator=stream(seed, "questions")).tolist()
    every = [Digits(place // 100, place // 10 % 10, place % 10) for place in order]
    test, asked, learnt, read = every[:150], every[150:200], every[200:350], every[350:]
    tokenizer = word_tokenizer([one.prompt + style(one) + "\n" for style in STYLES.values() for one in every])
    draw = stream(seed, "documents")
    texts = [_document(read, draw) for _ in range(documents)]
    model = seeded(lambda: tiny_transformer(len(tokenizer), 64, 2, 4, positions=320), seed)
    end_with(model, tokenizer)
    train_on_texts(model, tokenizer, texts, steps=steps, batch_size=32, generator=stream(seed, "base"))
    return StyleWorld(seed, model, tokenizer, test, asked, learnt)


def _document(questions: Sequence[Digits], draw: torch.Generator) -> str:
    """Solutions in one style, some without their question; the last one has it."""
    weights = torch.tensor(list(KNOWN.values()))
    style = STYLES[list(KNOWN)[int(torch.multinomial(weights, 1, generator=draw))]]
    places = torch.randint(len(questions), (3,), generator=draw).tolist()
    shown, bare = int(torch.randint(3, (1,), generator=draw)), bool(torch.randint(2, (1,), generator=draw))
    before = [questions[place] for place in places[:shown]]
    texts = [("A :" if bare else one.prompt) + style(one) + "\n" for one in before]
    last = questions[places[2]]
    return "".join(texts) + last.prompt + style(last)


def shown_before(question: Digits, examples: Sequence[str]) -> str:
    """A question with answers to other questions before it, answer texts alone."""
    return "".join(f"A :{one}\n" for one in examples) + question.prompt
