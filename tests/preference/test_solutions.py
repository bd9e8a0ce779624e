"""Final answers in solutions, and a model's own solutions marked by them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import DataError
from coalign.data.records import Demonstration, Source
from coalign.preference.data.solutions import final_answer, mark, normalised_answer, questions_of


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("48/2 = <<48/2=24>>24 clips.\n48 + 24 = 72\n#### 72", "72"),
        ("So 9 * 2 = 18\nA: 18", "18"),
        ("The answer is 1,000.", "1000"),
        ("The answer is: $1000.00 a day", "1000"),
        ("the final ANSWER = -3", "-3"),
        ("answer is −3", "-3"),
        (r"thus \boxed{0.5}", "1/2"),
        ("The answer is 1/2", "1/2"),
        ("First A: 3. No, wait.\nA: 4", "4"),
        ("He has 3 and she has 4.", "4"),
        ("from 3-4 days", "4"),
        ("Version v2 has none", None),
        ("The answer is (B).", "b"),
        ("The answer is  Both of  Them.", "both of them"),
        ("The answer is", None),
        ("I do not know", None),
        ("", None),
        ("A: 5/0", "5/0"),
        ("#### " + "7" * 5000, "7" * 5000),
    ],
)
def test_final_answers(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@given(st.integers(-(10**12), 10**12), st.sampled_from(["#### ", "The answer is $", "A: "]))
def test_an_integer_is_read_however_it_is_written(number: int, marker: str) -> None:
    assert final_answer(f"3 and 4.\n{marker}{number:,}.00.") == str(number)
    assert normalised_answer(f" {number:,}") == str(number)


@given(st.text(max_size=60))
def test_no_text_is_too_strange(text: str) -> None:
    found = final_answer(text)
    assert found is None or found
    assert final_answer(text + "\n#### 42") == "42"


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
    assert question.answer == "6"
    (from_column,) = questions_of([demonstration(0, "no number", answer=7.0)], "answer")
    assert from_column.answer == "7"
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
