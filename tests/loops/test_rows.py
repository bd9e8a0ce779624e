"""Rows of answers: one schema, kept row by row, old rows read, and files that the next command takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import pytest

from coalign.core.files import append_rows, read_rows, write_rows
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, PromptRecord
from coalign.judging.items import read_items
from coalign.loops.rows import answer_rows, current, fill_rows, row_id
from coalign.models.types import Generating, Generation, Samples, Sampling, generating


class Echo:
    """Answers in batches of two, the last batch first."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def generate(self, prompts: Sequence[Any], sampling: Sampling, **how: Unpack[Generating]) -> Samples:
        done, on_batch, _ = generating(**how)
        for start in reversed(range(0, len(prompts), 2)):
            batch = list(range(start, min(start + 2, len(prompts))))
            if done.issuperset(batch):
                continue
            self.asked.append(batch)
            texts = {n: f"{prompts[n][-1]['content']}!" for n in batch}
            on_batch({n: [Generation(text, [1, 2])] * sampling.n for n, text in texts.items()})
        return []


def tasks(n: int = 5, **extra: Any) -> list[PromptRecord]:
    return [
        PromptRecord(prompt=[{"role": "user", "content": f"say {i}"}], extra={"id": f"p{i}", **extra})
        for i in range(n)
    ]


def answered(path: Path, generator: Any, n: int = 5, **more: Any) -> list[dict[str, Any]]:
    return answer_rows(path, tasks(n), lambda: generator, Sampling(n=2), label="", **more)


def test_one_schema_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = answered(path, Echo(), beside={"generator": "echo"})
    assert rows == read_rows(path)
    assert [row["id"] for row in rows] == ["p0", "p1", "p2", "p3", "p4"]
    assert rows[3] == {
        "index": 3,
        "id": "p3",
        "prompt": [{"role": "user", "content": "say 3"}],
        "responses": ["say 3!"] * 2,
        "finish_reasons": ["stop"] * 2,
        "tokens": [2, 2],
        "generator": "echo",
    }


def test_only_missing_batches_are_asked_for_and_rows_that_are_there_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = answered(path, Echo())
    write_rows(path, [{**whole[3], "responses": ["mine", "mine"]}])
    with path.open("a") as file:
        file.write('{"id": "p1", "resp')
    generator = Echo()
    rows = answered(path, generator)
    assert generator.asked == [[4], [2, 3], [0, 1]]
    assert rows[3]["responses"] == ["mine", "mine"]
    assert [*rows[:3], *rows[4:]] == [*whole[:3], *whole[4:]]

    def refuse() -> Any:
        raise AssertionError("nothing is missing")

    before = path.stat().st_mtime_ns
    assert answer_rows(path, tasks(), refuse, Sampling(n=2), label="") == rows
    assert path.stat().st_mtime_ns == before


def test_rows_of_other_prompts_are_dropped_and_settings_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"settings": 1}, {"index": 0, "id": "other", "responses": ["x"]}])
    rows = answered(path, Echo(), 2)
    assert read_rows(path) == [{"settings": 1}, *rows]


def test_prompts_may_share_an_id(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    def work(done: list[int], keep: Callable[[Any], None]) -> None:
        keep({place: {"value": place} for place in range(3)})

    rows = fill_rows(path, ["a", "a", "b"], work)
    assert [row["value"] for row in rows] == [0, 1, 2]
    assert fill_rows(path, ["a", "a", "b"], lambda *_: pytest.fail("all there")) == rows


@pytest.mark.parametrize(
    ("old", "texts"),
    [
        ({"id": "p0", "responses": [{"text": "x", "finish_reason": "length", "tokens": 3}] * 2}, ["x", "x"]),
        ({"index": 0, "id": "p0", "output": "x", "finish_reason": "length", "tokens": 3}, ["x"]),
        ({"index": 0, "answer": "x", "stop_reason": "length", "samples": [{"answer": "y"}]}, ["x", "y"]),
        ({"id": "p0", "text": "x", "finish_reason": "length", "tokens": 3}, ["x"]),
        ({"index": 0, "text": "x"}, ["x"]),
    ],
)
def test_rows_of_earlier_versions_are_read(old: dict[str, Any], texts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [old])
    (row, other) = answered(path, Echo(), 2)
    assert row["responses"] == texts
    assert len(row["finish_reasons"]) == len(row["tokens"]) == len(texts)
    assert other["responses"] == ["say 1!"] * 2


def test_a_judged_row_of_earlier_versions() -> None:
    old = {"id": "a", "response": "x", "finish_reason": "stop", "tokens": 1, "judgment": "", "fine": True}
    assert current(old) == {
        "id": "a",
        "responses": ["x"],
        "finish_reasons": ["stop"],
        "tokens": [1],
        "judgment": None,
        "label": True,
    }
    assert current({"id": "a", "text": "not an answer"}) == {"id": "a", "text": "not an answer"}


def test_the_next_command_reads_them(tmp_path: Path) -> None:
    """One answer a prompt is a demonstration, and a response to rate."""
    path = tmp_path / "rows.jsonl"
    answer_rows(path, tasks(3), Echo, Sampling(), label="")
    found = read_records(path)
    assert found.kind == "demonstration"
    assert [one.completion for one in found.records if isinstance(one, Demonstration)] == [
        "say 0!",
        "say 1!",
        "say 2!",
    ]
    items = read_items(str(path))
    assert items.kind == "responses"
    assert [(one.id, one.responses) for one in items.items][:2] == [("p0", ("say 0!",)), ("p1", ("say 1!",))]


def test_ids_change_with_the_prompt() -> None:
    one, other = tasks(2)
    assert row_id(0, one.prompt) != row_id(0, other.prompt)
    assert row_id(0, one.prompt) != row_id(1, one.prompt)
