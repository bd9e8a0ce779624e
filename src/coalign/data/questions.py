"""Questions with gold answers and, where they are there, the passages that answer them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError, describe
from coalign.data.passages import Passage, parse_passages
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each

PASSAGE_COLUMNS = ("passages", "references", "ctxs", "contexts", "documents")
"""Names under which files hold the passages of a question."""


@dataclass(frozen=True)
class Question:
    """A question with its gold answers.

    Attributes:
        answers: any of them is right; empty where there is none to be had.
        split: `train` or `test`, where the file says it.
        passages: that were retrieved for it, best first; empty where the file has none.
        extra: the other columns.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    split: str | None = None
    passages: tuple[Passage, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


def read_questions(
    source: str, *, split: str = "train", limit: int | None = None, need_answers: bool = True
) -> list[Question]:
    """Questions from any file of rows: `question`, and `answers` (a list), `gold_answer` or `answer`.

    TriviaQA's `answer` with `aliases` and `normalized_aliases` is read too. A column `split` may say train or test, one
    of `PASSAGE_COLUMNS` holds passages (`coalign.data.passages.parse_passages`; DPR's `ctxs` are such).

    Args:
        need_answers: refuse a question without a gold answer.

    Raises:
        DataError: the source cannot be read, or a row has no question or no answer or unusable passages; every problem
            is listed.
    """
    problems: list[RecordProblem] = []

    def read(row: Row) -> Question:
        return _question(row, need_answers)

    questions = list(itertools.islice(parse_each(iter_rows(source, split), source, read, problems), limit))
    if problems:
        raise DataError(f"{source}: {len(problems)} problems.", problems)
    assert_unique((one.id for one in questions), source)
    return questions


def _question(row: Row, need_answers: bool) -> Question:
    value = row.value or {}
    text, answers, part = value.get("question"), _answers(value), value.get("split")
    found = [
        ("question", describe(text), "text", not isinstance(text, str) or not text.strip()),
        ("answers", "no answer", "a text or a list of texts", need_answers and not answers),
        ("split", describe(part), "train or test", part not in (None, "train", "test")),
    ]
    wrong = [FieldError(problem, expected, name) for name, problem, expected, bad in found if bad]
    column = next((name for name in PASSAGE_COLUMNS if value.get(name) is not None), None)
    passages: tuple[Passage, ...] = ()
    if column:
        try:
            passages = parse_passages(value[column])
        except FieldError as error:
            place = "" if error.position is None else f"[{error.position}]"
            wrong.append(FieldError(error.problem, error.expected, f"{column}{place}"))
    if wrong:
        raise ExceptionGroup("a question that cannot be used", wrong)
    claimed = {"id", "question", "answers", "gold_answer", "answer", "split", column}
    extra = {name: one for name, one in value.items() if name not in claimed}
    return Question(str(value.get("id", row.index)), str(text), answers, part, passages, extra)


def _answers(row: Any) -> tuple[str, ...]:
    """The gold answers as texts; of a worked solution that ends in `#### 72` (GSM8K) what stands there."""
    for name in ("answers", "gold_answer", "answer"):
        value = row.get(name)
        if isinstance(value, dict):
            value = [value.get("value"), *(value.get("aliases") or [])]
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        texts = [_gold(one) for one in values if isinstance(one, str | int | float)]
        found = [one for one in texts if one]
        if found:
            return tuple(dict.fromkeys(found))
    return ()


def _gold(value: str | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).rpartition("####")[2].strip()


def split_questions(
    questions: Sequence[Question], test_fraction: float
) -> tuple[list[Question], list[Question]]:
    """Training and test questions: by their `split` where all have one, else the last share is the test.

    Raises:
        DataError: one part is empty, or only some have a split.
    """
    named = [one for one in questions if one.split is not None]
    if named and len(named) < len(questions):
        raise DataError(f"{len(named)} of {len(questions)} questions have a split, expected all or none.")
    if named:
        training = [one for one in questions if one.split == "train"]
        test = [one for one in questions if one.split == "test"]
    else:
        kept = len(questions) - math.ceil(test_fraction * len(questions))
        training, test = list(questions[:kept]), list(questions[kept:])
    if not test or not training:
        raise DataError(
            f"{len(training)} questions to learn from and {len(test)} to test on, expected some of both."
        )
    return training, test
