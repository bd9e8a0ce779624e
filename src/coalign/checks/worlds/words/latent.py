"""A world with a latent expert: a small transformer that reads general tasks in two forms and a domain in one of them only.

Tasks turn three symbols into three symbols. General tasks (copy, reverse, rotate, swap; over letters or over signs) are
seen as loose lines and in the form in which tasks are asked, with and without answers. Domain tasks (over signs: the next
sign, the one before, the tag of each, the opposite, two further) are seen as loose lines alone. So the skill is there, and
the model has never shown it in the form in which it is asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from coalign.checks.starts import pretrained
from coalign.checks.steps import example
from coalign.checks.tiny_models import seeded, tiny_transformer
from coalign.training.batches import Example

SYMBOLS = 10
"""Letters, signs and tags, of each."""
WORDS = 4
"""Tokens without meaning that stand between the parts of loose lines."""
ORDERS = {"copy": (0, 1, 2), "reverse": (2, 1, 0), "rotate": (1, 2, 0), "swap": (1, 0, 2)}
"""General operations: where each symbol of the answer stands in the input."""
TURNS = {"next": 1, "before": -1, "opposite": SYMBOLS // 2, "further": 2}
"""Domain operations but `tag`: how far each sign is turned."""
GENERAL = tuple(ORDERS)
DOMAIN = ("next", "before", "tag", "opposite", "further")
WIDTH = 3
"""Symbols of an input and of an answer."""
DOCUMENTS = 6000
ITEMS = 6
"""Tasks of a document, as many as an evaluation prompt has."""

Task = tuple[str, tuple[int, ...]]
"""Operation and input symbols."""


@dataclass(frozen=True)
class LatentWorld:
    """Tokens: 0 padding, then the marks, words, operations, letters, signs, tags.

    A document holds six tasks; where its general ones are over signs, all of them are.

    Attributes:
        lists: share of documents that list general tasks in the form in which they are asked, without answers. In the
            others every task is solved.
        mixed: share of those others in which each task is of a kind of its own; in the rest all are of one kind.
        domain: share of domain lines among the kinds.
        formatted: share of general tasks in the form in which they are asked; what is left are general lines.
        signs: share of documents whose general tasks are over signs; the others are over letters.
    """

    seed: int
    lists: float = 0.1
    mixed: float = 0.03
    domain: float = 0.33
    formatted: float = 0.33
    signs: float = 0.5

    task, given, answer, end = 1, 2, 3, 4
    """Marks: a task begins, its input, its answer, its end."""
    first_word = 5
    first_operation = first_word + WORDS
    first_letter = first_operation + len(GENERAL) + len(DOMAIN)
    first_sign = first_letter + SYMBOLS
    first_tag = first_sign + SYMBOLS
    vocabulary = first_tag + SYMBOLS

    @cached_property
    def tags(self) -> list[int]:
        """The tag of each sign, a permutation of the seed."""
        found = list(range(SYMBOLS))
        random.Random(f"{self.seed}/tags").shuffle(found)
        return found

    def code(self, operation: str) -> int:
        """The token of an operation."""
        return self.first_operation + (*GENERAL, *DOMAIN).index(operation)

    def draw(self, operations: Sequence[str], draw: random.Random, *, signs: bool = False) -> Task:
        """A task of one of the operations; general ones are over letters, or over signs if told."""
        operation = draw.choice(operations)
        first = self.first_sign if signs or operation in DOMAIN else self.first_letter
        return operation, tuple(first + draw.randrange(SYMBOLS) for _ in range(WIDTH))

    def read(self, tokens: Sequence[int]) -> Task | None:
        """The task that a model wrote after the mark of its beginning, up to its end; None where it is none."""
        if len(tokens) != WIDTH + 3 or tokens[1] != self.given or tokens[-1] != self.end:
            return None
        number = tokens[0] - self.first_operation
        names = (*GENERAL, *DOMAIN)
        return (names[number], tuple(tokens[2:-1])) if 0 <= number < len(names) else None

    def solve(self, task: Task) -> tuple[int, ...] | None:
        """The right answer; None for a domain task over what is no sign, which has none."""
        operation, symbols = task
        if operation in ORDERS:
            return tuple(symbols[place] for place in ORDERS[operation])
        signs = [symbol - self.first_sign for symbol in symbols]
        if not all(0 <= sign < SYMBOLS for sign in signs):
            return None
        if operation == "tag":
            return tuple(self.first_tag + self.tags[sign] for sign in signs)
        return tuple(self.first_sign + (sign + TURNS[operation]) % SYMBOLS for sign in signs)

    def asked(self, task: Task) -> list[int]:
        """A task in the form in which it is asked, ready for the answer."""
        return [self.task, self.code(task[0]), self.given, *task[1], self.answer]

    def listed(self, task: Task) -> list[int]:
        """A task in that form, without an answer."""
        return [*self.asked(task)[:-1], self.end]

    def answer_to(self, task: Task) -> list[int]:
        """The right answer and its end."""
        return [*(self.solve(task) or ()), self.end]

    def whole(self, task: Task) -> list[int]:
        """A task in the form in which it is asked, with its right answer."""
        return [*self.asked(task), *self.answer_to(task)]

    def begun(self, task: Task) -> list[int]:
        """A task as the shortest loose line, up to its answer."""
        return [self.code(task[0]), *task[1], self.first_word]

    def line(self, task: Task, draw: random.Random) -> list[int]:
        """A solved task as a loose line: up to two words before the input, one before the answer."""
        words = [self.first_word + draw.randrange(WORDS) for _ in range(1 + draw.randrange(3))]
        return [self.code(task[0]), *words[1:], *task[1], words[0], *self.answer_to(task)]

    def base(self, *, steps: tuple[int, int], enough: Callable[[nn.Module], bool], every: int) -> nn.Module:
        """The generalist, a transformer of 3 layers and width 64: trained from scratch on documents without domain tasks, then
        on those with, until it knows enough of these.

        Args:
            steps: of the first part, and at most of the second.
            enough: of a model, asked every so many steps of the second part.
        """
        model: nn.Module = seeded(
            lambda: tiny_transformer(self.vocabulary, 64, 3, 4, positions=128, spread=0.1), self.seed
        )

        def on_step(number: int, model: nn.Module) -> bool:
            return number % every == 0 and enough(model)

        for name, world, most, stop in (
            ("general", replace(self, domain=0.0, formatted=0.5), steps[0], None),
            ("domain", self, steps[1], on_step),
        ):
            rows = [world.document(number) for number in range(DOCUMENTS)]
            model = pretrained(
                model,
                rows,
                self.seed,
                steps=most,
                batch_size=32,
                learning_rate=2e-3,
                order=name,
                on_step=stop,
            )
        return model

    def document(self, number: int) -> Example:
        """What the generalist reads, by number."""
        draw = random.Random(f"{self.seed}/document {number}")
        signs = draw.random() < self.signs
        if draw.random() < self.lists:
            tasks = [self.listed(self.draw(GENERAL, draw, signs=signs)) for _ in range(ITEMS)]
        else:
            mixed = draw.random() < self.mixed
            kinds = [draw.random() for _ in range(ITEMS)] if mixed else [draw.random()] * ITEMS
            tasks = [self._solved(kind, signs, draw) for kind in kinds]
        text = [token for task in tasks for token in task]
        return example(text[:1], [text[1:]])

    def _solved(self, kind: float, signs: bool, draw: random.Random) -> list[int]:
        if kind < self.domain:
            return self.line(self.draw(DOMAIN, draw), draw)
        task = self.draw(GENERAL, draw, signs=signs)
        return self.whole(task) if kind < self.domain + self.formatted else self.line(task, draw)
