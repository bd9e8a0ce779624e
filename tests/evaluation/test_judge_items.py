"""Files to judge: columns, verdicts of people, bad rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import DataError
from coalign.data.messages import FieldError
from coalign.judging.items import parse_choice, read_items
from coalign.judging.protocol import Rubric
from tests.evaluation.judge_files import pair_rows, write_rows


def test_pairs_with_people(tmp_path: Path) -> None:
    found = read_items(write_rows(tmp_path / "p.jsonl", pair_rows()))
    assert found.kind == "pairs"
    assert [one.id for one in found.items] == [f"q{k}" for k in range(6)]
    assert found.items[1].responses == ("short", "a longer answer, number 1")
    assert found.labels[:2] == [("first", "first", "tie"), ("second", "second", "second")]
    assert "annotator1, annotator2, annotator3" in found.recognised


@pytest.mark.parametrize(
    ("row", "responses", "labels"),
    [
        ({"prompt": "?", "chosen": "good", "rejected": "bad"}, ("good", "bad"), ("first",)),
        ({"question": "?", "answer_1": "x", "answer_2": "y", "winner": "model_b"}, ("x", "y"), ("second",)),
        ({"instruction": "Do", "input": "it", "response1": "x", "response2": "", "label": "tie"}, ("x", ""), ("tie",)),
        ({"prompt": "?", "output": "x"}, ("x",), ()),
        ({"prompt": [{"role": "user", "content": "?"}], "response_a": "x", "response_b": "y"}, ("x", "y"), ()),
    ],
)  # fmt: skip
def test_columns_of_the_field(
    tmp_path: Path, row: dict[str, Any], responses: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    found = read_items(write_rows(tmp_path / "p.jsonl", [row]))
    assert found.items[0].responses == responses
    assert found.labels[0] == labels
    assert found.items[0].prompt[-1]["role"] == "user"


def test_named_columns_reference_and_rubric(tmp_path: Path) -> None:
    row = {
        "prompt": "?", "gpt": "x", "llama": "y", "said": "A", "gold": "z",
        "rubric": {"criteria": "wit", "score_descriptions": {"1": "dull"}}, "constraints": [1],
    }  # fmt: skip
    path = write_rows(tmp_path / "p.jsonl", [row])
    found = read_items(path, pair_columns=["llama", "gpt"], label_columns=["said"], reference_column="gold")
    one = found.items[0]
    assert (one.responses, one.reference, found.labels[0]) == (("y", "x"), "z", ("first",))
    assert one.rubric == Rubric(criteria="wit", levels={1: "dull"})
    assert one.extra["constraints"] == [1]
    with pytest.raises(DataError, match="no column 'claude'"):
        read_items(path, pair_columns=["llama", "claude"])


def test_bad_rows_are_named_or_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *pair_rows(2),
        {"id": "b", "prompt": "?", "response_a": True, "response_b": "y"},
        {"id": "c", "prompt": " ", "response_a": "x", "response_b": None},
        {"id": "d", "prompt": "?", "response_a": "x", "response_b": "y", "annotator1": 7},
    ]
    path = write_rows(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read_items(path)
    message = str(caught.value)
    assert "3 of 5 rows cannot be judged" in message
    assert f"{path}:3: response_a: the boolean true, expected text" in message
    assert f"{path}:4: response_b: missing, expected text" in message
    assert f"{path}:5: annotator1: the number 7, expected 1, A or first" in message
    found = read_items(path, on_bad_record="skip", rejects=tmp_path / "bad.jsonl")
    assert (len(found.items), found.n_bad) == (2, 3)
    assert [json.loads(one)["line"] for one in (tmp_path / "bad.jsonl").read_text().splitlines()] == [3, 4, 5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "?"}], "nothing to judge in the columns prompt"),
        ([{"id": "a", "prompt": "?", "output": "x"}] * 2, "the id 'a' appears twice"),
        ([{"prompt": "?", "output": True}], "1 of 1 rows cannot be judged"),
    ],
)
def test_files_that_cannot_be_judged(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_items(write_rows(tmp_path / "p.jsonl", rows))


@pytest.mark.parametrize(("value", "choice"), [(1, "first"), (2.0, "second"), (" Tie ", "tie"), ("0", "tie")])
def test_choices(value: Any, choice: str) -> None:
    assert parse_choice(value) == choice


@pytest.mark.parametrize("value", [True, None, 3, "better", ""])
def test_no_choices(value: Any) -> None:
    with pytest.raises(FieldError):
        parse_choice(value)
