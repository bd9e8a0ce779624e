"""Multiple-choice questions: the forms of files, and accuracy by log-likelihood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import DataError
from coalign.data.multiple_choice import as_text, choice_accuracy, read_questions
from tests.preference.tiny_runs import write

TWO = {"question": "?", "choices": ["a", "b"]}


def written(folder: Path, *rows: Any) -> Path:
    return write(folder / "questions.jsonl", rows)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1},
        {"question": "2 + 2?", "choices": ["3", "4"], "answer": "B"},
        {"prompt": "2 + 2?", "choices": ["3", "4"], "answer": "4"},
        {"ctx": "2 + 2?", "endings": ["3", "4"], "label": "1"},
        {"question": "2 + 2?", "choices": {"text": ["3", "4"], "label": ["1", "2"]}, "answerKey": "2"},
    ],
)
def test_forms_of_a_question(row: dict[str, Any], tmp_path: Path) -> None:
    (question,) = read_questions(written(tmp_path, row))
    assert question.prompt[0]["content"] == "2 + 2?"
    assert question.responses == ("3", "4")
    assert question.scores == (0.0, 1.0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "question: is missing"),
        ({"question": "?", "answer": 0}, "choices: holds None"),
        ({"question": "?", "choices": ["a"], "answer": 0}, "two or more texts"),
        ({"question": "?", "choices": ["a", "a"], "answer": 0}, "same text twice"),
        ({**TWO, "answer": 2}, "answer: holds 2, expected a position from 0 to 1"),
        ({**TWO, "answer": True}, "holds True"),
        (TWO, "answer: holds None"),
    ],
)
def test_rows_that_are_no_questions_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(written(tmp_path, {**TWO, "answer": 0}, row))
    assert message in str(caught.value)
    assert "questions.jsonl:2" in str(caught.value)
    assert len(read_questions(tmp_path / "questions.jsonl", limit=1)) == 1


def test_accuracy_by_hand() -> None:
    sums = torch.tensor([-2.0, -3.0, -1.0, -1.0, -4.0])
    lengths = torch.tensor([1, 3, 1, 1, 8])
    values = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    found = choice_accuracy(sums, lengths, values, torch.tensor([0, 0, 1, 1, 1]))
    assert (found.by_sum, found.by_mean) == (0.5, 0.0), "a tie is no hit"
    with pytest.raises(ValueError, match="exactly one"):
        choice_accuracy(sums[:2], lengths[:2], torch.ones(2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="no question"):
        choice_accuracy(sums[:0], lengths[:0], values[:0], torch.zeros(0, dtype=torch.long))


def test_a_question_for_a_model_without_a_template(tmp_path: Path) -> None:
    row = {"question": "2 + 2?", "choices": ["3", " 4"], "answer": 1}
    question = as_text(read_questions(written(tmp_path, row))[0])
    assert question.prompt[0]["content"] == "2 + 2?\nAnswer:"
    assert question.responses == (" 3", " 4")
