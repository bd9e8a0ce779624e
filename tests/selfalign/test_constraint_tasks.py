"""Prompts with constraints: reading, splitting, measuring."""

from __future__ import annotations

from pathlib import Path

import pytest

from coalign.core.errors import DataError
from coalign.judging.verifiers.tasks import measure_responses, read_tasks, split_tasks
from tests.preference.tiny_runs import write

SHORT = [{"verifier": "max_words", "n": 3}]


def test_bundled_prompts() -> None:
    training, held_out = split_tasks(read_tasks("quickstart"), 0.2, 0)
    assert len(training) + len(held_out) >= 120
    assert not {task.id for task in training} & {task.id for task in held_out}


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "Hi", "constraints": SHORT},
        {"id": "b", "prompt": "Hi"},
        {"id": "c", "prompt": "Hi", "constraints": [{"verifier": "max_word", "n": 3}]},
        {"id": "a", "prompt": "Ho", "constraints": SHORT},
    ]
    path = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read_tasks(path)
    text = str(caught.value)
    assert f"{path}:2: constraints: is missing" in text
    assert f"{path}:3: constraints[0].verifier: 'max_word' is unknown" in text
    assert "max_words" in text
    assert f"{path}:4: id: 'a' occurs twice" in text


def test_group_constraint_needs_a_group(tmp_path: Path) -> None:
    constraints = [{"verifier": "consistent_options", "options": ["yes", "no"]}]
    path = write(tmp_path / "p.jsonl", [{"id": "a", "prompt": "Hi", "constraints": constraints}])
    with pytest.raises(DataError, match="group_id: has no other prompt in its group"):
        read_tasks(path)


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "prompt": f"Hi {n}", "constraints": SHORT, "group_id": f"g{n // 2}"} for n in range(40)
    ]
    training, held_out = split_tasks(read_tasks(write(tmp_path / "p.jsonl", rows)), 0.25, 3)
    assert len(held_out) == 10
    assert not {task.group for task in training} & {task.group for task in held_out}
    again = split_tasks(read_tasks(tmp_path / "p.jsonl"), 0.25, 3)
    assert [task.id for task in again[1]] == [task.id for task in held_out]


def test_no_held_out_prompt_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"id": "a", "prompt": "Hi", "constraints": SHORT}])
    with pytest.raises(DataError, match="both sides need some"):
        split_tasks(read_tasks(path), 0.0, 0)


def test_measuring(tmp_path: Path) -> None:
    constraints = [*SHORT, {"verifier": "must_include", "keywords": ["sun"]}]
    rows = [{"id": "a", "prompt": "Hi", "constraints": constraints}]
    tasks = {task.id: task for task in read_tasks(write(tmp_path / "p.jsonl", rows))}
    responses = ["the sun", "one two three four", "sun"]
    (row,) = measure_responses(tasks, [{"id": "a", "responses": responses}])
    assert row["csr"] == [1.0, 0.0, 1.0]


def test_group_members_are_compared_sample_by_sample(tmp_path: Path) -> None:
    constraints = [{"verifier": "consistent_options", "options": ["yes", "no"]}]
    rows = [{"id": i, "prompt": f"Hi {i}", "constraints": constraints, "group_id": "g"} for i in "ab"]
    tasks = {task.id: task for task in read_tasks(write(tmp_path / "p.jsonl", rows))}
    said = {"a": ["yes", "yes"], "b": ["yes", "no"]}
    measured = measure_responses(tasks, [{"id": i, "responses": said[i]} for i in "ab"])
    assert [row["csr"] for row in measured] == [[1.0, 0.0], [1.0, 0.0]]
