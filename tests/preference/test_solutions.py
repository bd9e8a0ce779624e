"""Final answers in solutions, and a model's own solutions marked by them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from coalign.core.errors import DataError
from coalign.data.records import Demonstration, Source
from coalign.preference.data.solutions import mark, questions_of


def demonstration(place: int, completion: str, **extra: Any) -> Demonstration:
    return Demonstration(
        prompt=[{"role": "user", "content": f"question {place}"}],
        completion=completion,
        source=Source("q.jsonl", place + 1, place),
        extra=extra,
    )


def row(*texts: str) -> dict[str, Any]:
    return {"responses": list(texts), "finish_reasons": ["stop"] * len(texts)}


def test_questions_have_answers_of_their_own_or_of_a_column() -> None:
    (question,) = questions_of([demonstration(0, "so 5\n#### 6")])
    assert question.answer.text == "6"
    (from_column,) = questions_of([demonstration(0, "no number", answer=7.0)], "answer")
    assert from_column.answer.text == "7"
    assert question.id == from_column.id
    assert question.id != questions_of([demonstration(1, "#### 6")])[0].id


def test_questions_without_an_answer_are_all_named() -> None:
    with pytest.raises(DataError, match=r"(?s)2 of 3 records have no final answer.*answer-column"):
        questions_of([demonstration(0, "none"), demonstration(1, "#### 1"), demonstration(2, "none")])
    with pytest.raises(DataError, match=r"q\.jsonl:1: answer: holds True"):
        questions_of([demonstration(0, "#### 1", answer=True)], "answer")


def test_samples_are_marked_and_counted() -> None:
    questions = questions_of(
        [demonstration(0, "#### 1"), demonstration(1, "#### 2"), demonstration(2, "#### 3")]
    )
    rows = [row("A: 1", "A: 2", "A: 1", " "), row("A: 2", "it is 2"), row("who knows", "A: 9")]
    rows[2]["finish_reasons"][1] = "length"
    marked = mark(questions, rows)
    first, second, third = marked.groups
    assert first.responses == ("#### 1", "A: 1", "A: 2")
    assert math.isnan(first.scores[0])
    assert first.scores[1:] == (1.0, 0.0)
    assert second.scores[1:] == (1.0, 1.0)
    assert third.scores[1:] == (0.0, 0.0)
    assert (marked.right, marked.wrong, marked.repeated, marked.empty) == (4, 4, 1, 1)
    assert (marked.unanswered, marked.unfinished, marked.contrasts) == (1, 1, 1)
    assert marked.accuracy == 0.5
    told = marked.told()
    assert "4 of 8 sampled solutions to 3 questions are right" in told
    assert "1 give no final answer" in told
    assert math.isnan(mark([], []).accuracy)


def test_answers_that_nobody_can_compare_are_left_out() -> None:
    (question,) = questions_of([demonstration(0, "#### 35")])
    marked = mark([question], [row("The answer is 3,5", "The answer is 35", "A: 36")])
    assert marked.groups[0].scores[1:] == (1.0, 0.0)
    assert (marked.right, marked.wrong, marked.unscorable) == (1, 1, 1)
    assert "1 answers cannot be compared with the right ones and are left out" in marked.told()
