"""A world of copying as a system message says it: four words are to be written in a stated order, case, with a stated
separator and ending.

Four dimensions have four values each, so there are 256 combinations; a value is stated by one of three tokens, and the
four stand in any order. What an answer meets is known exactly, value by value. A word is one token in each of its three
cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from coalign.checks.steps import example
from coalign.checks.tiny_models import sample, seeded, stream, tiny_transformer
from coalign.curation.stated_values.collection import cross_system_pairs
from coalign.training.batches import Example

DIMENSIONS = ("order", "case", "separator", "ending")
OPTIONS, WORDINGS, FORMS = 4, 3, 3
END, ASK, PLAIN = 0, 1, 2
"""Ends an answer, ends a prompt, stands four times in a system message that states nothing."""
SEPARATORS = range(3, 7)
MARKS = ((), (7,), (8,), (9,))
"""The four endings: nothing, a period, an exclamation mark, the count of the words."""
FIRST_STATED = 10
FIRST_WORD = FIRST_STATED + len(DIMENSIONS) * OPTIONS * WORDINGS

Combination = tuple[int, ...]
"""The value of each dimension."""
EVERY = list(itertools.product(range(OPTIONS), repeat=len(DIMENSIONS)))


@dataclass(frozen=True)
class Row:
    """An instruction under one combination, with the answer that meets it."""

    words: tuple[int, ...]
    combination: Combination
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class StatedWorld:
    """What the arms of a seed share.

    Attributes:
        instructions: to learn from, each under three combinations.
        held_out: further instructions, each under a combination that none of the others has.
    """

    seed: int
    words: int = 12
    length: int = 3
    instructions: int = 2000
    held_out: int = 300
    known: int = 200

    @property
    def vocabulary(self) -> int:
        return FIRST_WORD + self.words * FORMS

    @cached_property
    def combinations(self) -> tuple[list[Combination], list[Combination]]:
        """(those of training, those that are kept unseen)."""
        order = torch.randperm(len(EVERY), generator=stream(self.seed, "combinations")).tolist()
        shuffled = [EVERY[place] for place in order]
        return shuffled[: self.known], shuffled[self.known :]

    def rows(self, combinations: Sequence[Combination], *, systems: int = 3) -> list[list[Row]]:
        """The instructions to learn from, each under `systems` of the combinations."""
        return self._rows("training", self.instructions, combinations, systems)

    @cached_property
    def items(self) -> list[Row]:
        """Held-out instructions under combinations that no training row has."""
        return [row for (row,) in self._rows("held out", self.held_out, self.combinations[1], 1)]

    def answer(self, words: Sequence[int], combination: Combination) -> list[int]:
        """The tokens that meet every value, the end included."""
        _, case, separator, ending = combination
        tokens: list[int] = []
        for place, word in enumerate(ordered(words, combination[0])):
            tokens += [SEPARATORS[separator]] if place else []
            tokens.append(FIRST_WORD + FORMS * word + _form(case, place))
        return [*tokens, *MARKS[ending], END]

    def met(self, row: Row, answer: Sequence[int]) -> list[float]:
        """For each dimension 1 where the answer meets the row's value, else 0; each by itself."""
        tokens = [one for one in answer if one != END]
        places = [place for place, one in enumerate(tokens) if one >= FIRST_WORD]
        written = [divmod(tokens[place] - FIRST_WORD, FORMS) for place in places]
        first, last = (places[0], places[-1]) if places else (0, -1)
        between = [one for one in tokens[first : last + 1] if one < FIRST_WORD]
        order, case, separator, ending = row.combination
        return [
            float([word for word, _ in written] == ordered(row.words, order)),
            float(
                bool(written) and all(form == _form(case, place) for place, (_, form) in enumerate(written))
            ),
            float(between == [SEPARATORS[separator]] * (len(row.words) - 1)),
            float(bool(written) and tuple(tokens[last + 1 :]) == MARKS[ending]),
        ]

    def satisfied(self, model: nn.Module, *, stated: bool = True) -> list[list[float]]:
        """`[items][dimensions]` of greedy answers to the held-out items."""
        prompts = [row.prompt if stated else _unstated(row.prompt) for row in self.items]
        most = 2 * self.length + 2
        generator = stream(self.seed, "evaluation")
        answers = sample(model, prompts, generator, n=1, max_new_tokens=most, temperature=0.0, end=END)
        return [self.met(row, answer) for row, (answer,) in zip(self.items, answers, strict=True)]

    def untrained_model(self) -> nn.Module:
        """A transformer of 2 layers and width 64 with random weights."""
        return seeded(lambda: tiny_transformer(self.vocabulary, width=64, layers=2, heads=4), self.seed)

    def _rows(
        self, purpose: str, count: int, combinations: Sequence[Combination], systems: int
    ) -> list[list[Row]]:
        draw = stream(self.seed, f"rows/{purpose}")
        rows = []
        for _ in range(count):
            words = tuple(torch.randperm(self.words, generator=draw)[: self.length].tolist())
            drawn = torch.randperm(len(combinations), generator=draw)[:systems].tolist()
            rows.append([self._row(words, combinations[place], draw) for place in drawn])
        return rows

    def _row(self, words: tuple[int, ...], combination: Combination, draw: torch.Generator) -> Row:
        wording = torch.randint(WORDINGS, (len(DIMENSIONS),), generator=draw).tolist()
        stated = [
            FIRST_STATED + WORDINGS * (OPTIONS * dimension + value) + wording[dimension]
            for dimension, value in enumerate(combination)
        ]
        order = torch.randperm(len(stated), generator=draw).tolist()
        asked = [FIRST_WORD + FORMS * one for one in words]
        prompt = [*(stated[place] for place in order), *asked, ASK]
        return Row(words, combination, prompt, self.answer(words, combination))


def ordered(words: Sequence[int], order: int) -> list[int]:
    """As given, reversed, sorted, or with the first word last."""
    given = list(words)
    return [given, given[::-1], sorted(given), [*given[1:], *given[:1]]][order]


def demonstrations(rows: Sequence[Sequence[Row]], *, stated: bool = True) -> list[Example]:
    """Every row with its answer; without `stated` the system message says nothing."""
    return [
        example(row.prompt if stated else _unstated(row.prompt), [row.answer])
        for mine in rows
        for row in mine
    ]


def pairs(rows: Sequence[Sequence[Row]], seed: int) -> list[Example]:
    """One pair an instruction: its answer to a system message over that to another one."""
    draw = stream(seed, "pairs")
    found = []
    for mine in rows:
        triples = cross_system_pairs(len(mine))
        system, chosen, rejected = triples[int(torch.randint(len(triples), (1,), generator=draw))]
        found.append(example(mine[system].prompt, [mine[chosen].answer, mine[rejected].answer], [1.0, 0.0]))
    return found


def _form(case: int, place: int) -> int:
    """Lower, upper or title case, or lower and upper in turn."""
    return case if case < FORMS else place % 2


def _unstated(prompt: Sequence[int]) -> list[int]:
    return [*[PLAIN] * len(DIMENSIONS), *prompt[len(DIMENSIONS) :]]
