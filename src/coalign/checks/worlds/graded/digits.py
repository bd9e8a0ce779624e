"""Tasks on strings of digits, with answers that are right but for some corrupted places.

A question is an operation and a string; its answer is what the operation makes of it. Answers are spoilt at k of their places,
k from 0 to 9, some by an inserted or a missing symbol; an answer's quality is 9 - k. A judge is asked for it with the right answer
before it, or without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from coalign.training.distillation import TokenExample
from coalign.training.self_distillation import TwoViews

DIGITS = 10
LENGTH = 9
END, ASK, ANSWER, REFERENCE = range(DIGITS, DIGITS + 4)
OPERATIONS: dict[str, Callable[[list[int]], list[int]]] = {
    "copy": lambda x: x,
    "reverse": lambda x: x[::-1],
    "increment": lambda x: [(one + 1) % DIGITS for one in x],
    "sort": sorted,
}
FIRST_OPERATION = REFERENCE + 1
VOCABULARY = FIRST_OPERATION + len(OPERATIONS)
INDELS = 0.3
"""Share of corruptions that insert or leave out a symbol in place of changing one."""


@dataclass(frozen=True)
class Graded:
    """A spoilt answer.

    Attributes:
        operation: its number; None where nothing was asked, the question being empty.
        quality: 9 - k for k corruptions.
    """

    operation: int | None
    question: list[int]
    reference: list[int]
    answer: list[int]
    quality: int

    def request(self, *, reference: bool) -> list[int]:
        """Token ids of what the judge is asked; its reply is a digit."""
        known = [REFERENCE, *self.reference] if reference else []
        asked = [] if self.operation is None else [FIRST_OPERATION + self.operation, *self.question]
        return [*asked, *known, ANSWER, *self.answer, ASK]


def graded_answers(count: int, generator: np.random.Generator) -> list[Graded]:
    """Questions of all operations alike, every number of corruptions equally often."""
    found = []
    for _ in range(count):
        operation = int(generator.integers(len(OPERATIONS)))
        question = generator.integers(DIGITS, size=LENGTH).tolist()
        reference = list(OPERATIONS[list(OPERATIONS)[operation]](question))
        k = int(generator.integers(DIGITS))
        found.append(Graded(operation, question, reference, _spoilt(reference, k, generator), 9 - k))
    return found


def compared_strings(count: int, generator: np.random.Generator) -> list[Graded]:
    """Strings that were asked for by nobody, and spoilt copies of them: what a reader can compare before it is a judge."""
    found = []
    for _ in range(count):
        reference = generator.integers(DIGITS, size=LENGTH).tolist()
        k = int(generator.integers(DIGITS))
        found.append(Graded(None, [], reference, _spoilt(reference, k, generator), 9 - k))
    return found


def _spoilt(right: list[int], k: int, generator: np.random.Generator) -> list[int]:
    """The answer with k of its nine places corrupted."""
    made: list[int] = []
    places = set(generator.permutation(LENGTH)[:k].tolist())
    for place, one in enumerate(right):
        if place not in places:
            made.append(one)
        elif generator.random() >= INDELS:
            made.append(int((one + generator.integers(1, DIGITS)) % DIGITS))
        elif generator.random() < 0.5:
            made += [one, int(generator.integers(DIGITS))]
    return made


def noisy_grades(
    answers: Sequence[Graded], generator: np.random.Generator, noise: float = 2.0
) -> list[float]:
    """What a noisy judge with the reference says: quality and normal noise, from 0 to 9."""
    true = np.array([one.quality for one in answers], np.float64)
    return np.clip(true + noise * generator.standard_normal(len(true)), 0, 9).tolist()


def similarities(answers: Sequence[Graded]) -> list[float]:
    """Cosine of the counts of symbols in answer and reference."""
    found = []
    for one in answers:
        a, b = (np.bincount(row, minlength=DIGITS).astype(np.float64) for row in (one.answer, one.reference))
        scale = float(np.linalg.norm(a) * np.linalg.norm(b))
        found.append(float(a @ b) / scale if scale else 0.0)
    return found


def views_of(answers: Sequence[Graded], labels: Sequence[int]) -> list[TwoViews]:
    """Requests with and without the reference, the label and the end as their reply."""
    views = []
    for place, (one, label) in enumerate(zip(answers, labels, strict=True)):
        pair = []
        for reference in (True, False):
            request = one.request(reference=reference)
            pair.append(TokenExample([*request, label, END], [False] * len(request) + [True, True]))
        views.append(TwoViews(str(place), *pair))
    return views


@torch.no_grad()
def scores_of(model: torch.nn.Module, answers: Sequence[Graded], *, reference: bool = False) -> list[float]:
    """The mean digit under the judge's probabilities of digits, batch by batch."""
    found: list[float] = []
    for start in range(0, len(answers), 250):
        logits = _next_logits(model, answers[start : start + 250], reference=reference)
        found += (logits[:, :DIGITS].softmax(-1) @ torch.arange(DIGITS).float()).tolist()
    return found


def digit_losses(model: torch.nn.Module, answers: Sequence[Graded], digits: Sequence[int]) -> torch.Tensor:
    """[n] cross-entropy of the digit in reply to each request with the reference."""
    logits = _next_logits(model, answers, reference=True)
    return torch.nn.functional.cross_entropy(logits, torch.tensor(digits), reduction="none")


def _next_logits(model: torch.nn.Module, answers: Sequence[Graded], *, reference: bool) -> torch.Tensor:
    """[n, V] of the token after each request."""
    rows = [one.request(reference=reference) for one in answers]
    width = max(map(len, rows))
    # Padded at the right: a causal model does not see it at the last token of a request.
    ids = torch.tensor([row + [END] * (width - len(row)) for row in rows])
    return model(input_ids=ids).logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
