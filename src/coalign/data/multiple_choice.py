"""Multiple-choice questions answered by log-likelihood: which answer does a model find most probable?

Two readings of one scoring, as in common harnesses: by the log-probability of the whole answer, and by its mean over
the answer's tokens, which does not favour short answers.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.data.messages import FieldError
from coalign.data.records import Message, Ranking
from coalign.data.rows import Row, iter_rows, parse_each

if TYPE_CHECKING:
    from torch import Tensor

QUESTION = ("question", "prompt", "ctx", "query")
CHOICES = ("choices", "endings", "options")
ANSWER = ("answer", "answerKey", "label", "gold")


@dataclass(frozen=True)
class ChoiceAccuracy:
    """Shares of questions whose right answer is the most probable one; a tie is no hit."""

    by_sum: float
    by_mean: float


def read_questions(source: str | Path, *, limit: int | None = None) -> list[Ranking]:
    """Multiple-choice questions as rankings: the choices as responses, 1 for the right one and 0 for the others.

    A row has a question (`question`, `prompt`, `ctx`), a list of choices (`choices`, `endings`; also ARC's mapping of
    `text` and `label`), and the right one (`answer`, `answerKey`, `label`): its position counted from 0, its letter
    or label, or its text.

    Args:
        source: any source of rows (`coalign.data.rows.iter_rows`).
        limit: read only the first rows.

    Raises:
        DataError: the source cannot be read, or rows are not such questions; every one named.
    """
    problems: list[RecordProblem] = []
    rows = itertools.islice(iter_rows(source), limit)
    questions = list(parse_each(rows, source, lambda row: question_of(row, str(source)), problems))
    if problems or not questions:
        bad = rows_with(problems)
        raise DataError(
            f"{source}: {bad} of {bad + len(questions)} rows are not multiple-choice questions.",
            problems,
            hint='A row: {"question": "...", "choices": ["...", "..."], "answer": 0}',
        )
    return questions


def as_text(question: Ranking) -> Ranking:
    """The question for a model without a chat template: `question`, a line with `Answer:`, then the choice."""
    content = f"{question.prompt[-1]['content']}\nAnswer:"
    return replace(
        question,
        prompt=[Message(role="user", content=content)],
        responses=tuple(f" {one.lstrip()}" for one in question.responses),
    )


def choice_accuracy(sums: Tensor, lengths: Tensor, values: Tensor, question_index: Tensor) -> ChoiceAccuracy:
    """How often the right choice is the most probable one.

    Args:
        sums: [B] log-probability of each choice, summed over its tokens.
        lengths: [B] tokens of each choice.
        values: [B] 1 for the right choice of a question, 0 for the others.
        question_index: [B] the question of each choice, non-decreasing from 0.

    Raises:
        ValueError: no question, or one without exactly one right choice.
    """
    if not len(question_index):
        raise ValueError("there is no question")
    right = torch.bincount(question_index, weights=values.double())
    if bool((right != 1).any()):
        raise ValueError("every question needs exactly one right choice")
    means = sums / lengths.clamp(min=1)
    return ChoiceAccuracy(*(_hits(scores, values, question_index) for scores in (sums, means)))


def _hits(scores: Tensor, values: Tensor, question_index: Tensor) -> float:
    counts = torch.bincount(question_index).tolist()
    hits = 0
    for one, of in zip(torch.split(scores, counts), torch.split(values, counts), strict=True):
        hits += bool(one[of == 1] > one[of != 1].max())
    return hits / len(counts)


def question_of(place: Row, source: str) -> Ranking:
    """One row of such questions.

    Raises:
        FieldError: it is none.
    """
    row = place.value or {}
    name, question = _first(row, QUESTION)
    if not isinstance(question, str) or not question.strip():
        raise FieldError("is missing or empty", "a question", name)
    name, given = _first(row, CHOICES)
    texts, labels = _choices(name, given)
    name, answer = _first(row, ANSWER)
    right = _position(name, answer, texts, labels)
    return Ranking(
        prompt=[Message(role="user", content=question)],
        responses=tuple(texts),
        scores=tuple(float(index == right) for index in range(len(texts))),
        source=place.source(source),
        plain=True,
    )


def _first(row: dict[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    return next(((name, row[name]) for name in names if name in row), (names[0], None))


def _choices(name: str, given: Any) -> tuple[list[str], list[str]]:
    labels = list(string.ascii_uppercase)
    texts: Any = given
    if isinstance(given, dict):
        texts = given.get("text")
        labels = [str(one) for one in given.get("label") or labels]
    usable = isinstance(texts, list) and len(texts) >= 2
    if not usable or not all(isinstance(one, str) and one.strip() for one in texts):
        raise FieldError(f"holds {given!r}"[:80], "a list of two or more texts", name)
    if len(set(texts)) < len(texts):
        raise FieldError("holds the same text twice", "different choices", name)
    return texts, labels


def _position(name: str, answer: Any, texts: list[str], labels: list[str]) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(texts):
        return answer
    if isinstance(answer, str):
        shown = labels[: len(texts)]
        for known in (texts, shown):
            if answer in known:
                return known.index(answer)
        if answer.isdigit() and int(answer) < len(texts):
            return int(answer)
    expected = f"a position from 0 to {len(texts) - 1}, a letter, or one of the choices"
    raise FieldError(f"holds {answer!r}"[:80], expected, name)
