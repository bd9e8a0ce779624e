"""`coalign judge` over many items: shards in and out, blocks, continued after a kill, in memory that does not grow."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.files import read_rows
from coalign.data.files.written import write_shards
from coalign.data.rows import iter_rows
from coalign.judging import report, store
from coalign.judging import run as judge_run
from coalign.judging.protocol import JudgeItem
from coalign.judging.store import ReplyStore
from tests.cli.test_corpus import killed_and_continued, peak
from tests.evaluation.judge_files import pair_rows
from tests.evaluation.scripted import ScriptedGenerator, longer_is_better

LENGTH = """
def length(prompts, completions, **columns):
    return [float(len(one[0]["content"])) for one in completions]
"""


@pytest.fixture
def by_length(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "own.py").write_text(LENGTH, encoding="utf-8")
    return ("--judge", "function", "--judge-function", f"{tmp_path / 'own.py'}:length")


def verdicts(run: Path, pattern: str = "verdicts.jsonl") -> list[dict]:
    return [
        {name: one for name, one in (row.value or {}).items() if name != "__key__"}
        for row in iter_rows(str(run / "artefacts" / pattern))
    ]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "tar"])
@pytest.mark.parametrize("per_file", [None, 25])
def test_shards_of_every_format_go_in_and_out(
    tmp_path: Path, coalign: Callable, by_length: tuple[str, ...], kind: str, per_file: int | None
) -> None:
    rows = pair_rows(60)
    write_shards(tmp_path / "plain.jsonl", rows, 60)
    write_shards(tmp_path / f"in/part.{kind}", rows, 60, 25)
    one, many = tmp_path / "one", tmp_path / "many"
    assert coalign("judge", "--data", str(tmp_path / "plain.jsonl"), *by_length, "--out", str(one)).code == 0
    shards = () if per_file is None else ("--shard-rows", str(per_file))
    args = ("judge", "--data", str(tmp_path / "in"), *by_length, "--verdict-format", kind, *shards)
    found = coalign(*args, "--out", str(many))
    assert found.code == 0, found.err
    files = list((many / "artefacts").glob(f"verdicts*.{kind}"))
    assert len(files) == (1 if per_file is None else 3)
    assert verdicts(many, f"verdicts*.{kind}") == verdicts(one)
    assert (many / "artefacts/results.json").read_bytes() == (one / "artefacts/results.json").read_bytes()


def test_an_id_in_two_shards_is_named(tmp_path: Path, coalign: Callable, by_length: tuple[str, ...]) -> None:
    rows = pair_rows(6)
    write_shards(tmp_path / "in/part.jsonl", [*rows, rows[2]], 7, 4)
    found = coalign("judge", "--data", str(tmp_path / "in"), *by_length, "--out", str(tmp_path / "run"))
    assert found.code == 1
    assert "the id 'q2' appears twice" in found.err


@pytest.mark.parametrize("orders", ["both", "given"])
def test_blocks_have_the_verdicts_of_one(
    tmp_path: Path, coalign: Callable, judge_by: Any, monkeypatch: pytest.MonkeyPatch, orders: str
) -> None:
    write_shards(tmp_path / "pairs.jsonl", pair_rows(50), 50)
    alive: list[int] = []
    streams: list[int] = []

    class Counting(ScriptedGenerator):
        def generate(self, prompts: Any, sampling: Any, **how: Any) -> Any:
            alive.append(sum(type(one) is JudgeItem for one in gc.get_objects()))
            streams.append(sampling.first)
            return super().generate(prompts, sampling, **how)

    judge_by(Counting(longer_is_better))
    args = ("judge", "--data", str(tmp_path / "pairs.jsonl"), "--device", "cpu", "--orders", orders)
    assert coalign(*args, "--out", str(tmp_path / "one")).code == 0
    assert max(alive) >= 50
    alive.clear()
    streams.clear()
    monkeypatch.setattr(judge_run, "BLOCK", 8)
    assert coalign(*args, "--out", str(tmp_path / "many")).code == 0
    assert max(alive) <= 3 * 8  # as given and swapped
    assert streams == [place * (2 if orders == "both" else 1) for place in range(0, 50, 8)]
    for name in ("verdicts.jsonl", "results.json"):
        one, many = ((tmp_path / run / "artefacts" / name).read_bytes() for run in ("one", "many"))
        assert many == one


def test_two_files_of_responses_are_paired_as_they_are_read(
    tmp_path: Path, coalign: Callable, by_length: tuple[str, ...]
) -> None:
    mine = [{"id": f"r{n}", "prompt": f"say {n % 5}", "response": "x" * n} for n in range(20)]
    theirs = [{"prompt": f"say {n % 5}", "response": "y" * (20 - n)} for n in range(25)]
    write_shards(tmp_path / "mine.jsonl", mine, 20)
    write_shards(tmp_path / "theirs.parquet", theirs, 25)
    args = ("judge", "--data", str(tmp_path / "mine.jsonl"), "--against", str(tmp_path / "theirs.parquet"))
    assert coalign(*args, *by_length, "--out", str(tmp_path / "run")).code == 0
    said = [one["opinions"][0]["scores"] for one in verdicts(tmp_path / "run")]
    assert said == [[float(n), float(20 - n)] for n in range(20)]


def test_a_report_of_many_pairs_shows_some_spread_evenly(
    tmp_path: Path, coalign: Callable, by_length: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "EVERY", 20)
    monkeypatch.setattr(report, "SOME", 10)
    write_shards(tmp_path / "pairs.jsonl", pair_rows(60), 60)
    args = ("judge", "--data", str(tmp_path / "pairs.jsonl"), *by_length, "--out", str(tmp_path / "run"))
    assert coalign(*args).code == 0
    whole = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    (pairs,) = (one for one in whole["sections"] if one["title"] == "Pairs")
    assert len(pairs["rows"]) == 10
    assert "10 of 60, spread evenly; the files of verdicts have all." in pairs["note"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_items(tmp_path: Path, by_length: tuple[str, ...]) -> None:
    found = []
    for count in (12_000, 60_000):
        rows = (
            {"id": f"p{n}", "prompt": f"say {n}", "response_a": "x" * (n % 999), "response_b": "y" * 1500, "label": n % 3}
            for n in range(count)
        )  # fmt: skip
        write_shards(tmp_path / f"{count}.jsonl", rows, count)
        args = ("judge", "--data", str(tmp_path / f"{count}.jsonl"), *by_length)
        found.append(peak(*args, "--out", str(tmp_path / f"run-{count}")))
    assert found[1] < found[0] + 25  # the items are 120 megabytes of text


@pytest.mark.slow
def test_a_judge_that_is_killed_goes_on(tmp_path: Path, by_length: tuple[str, ...]) -> None:
    rows = ({**one, "id": f"q{n}"} for n, one in enumerate(pair_rows(6) * 1000))
    write_shards(tmp_path / "in/part.parquet", rows, 6000, 2500)
    command = [sys.executable, "-m", "coalign", "judge", "--data", str(tmp_path / "in"), *by_length]
    out = tmp_path / "run"
    killed_and_continued([*command, "--out", str(out)], out / "artefacts/judged.jsonl", 200)
    assert len({one["index"] for one in read_rows(out / "artefacts/judged.jsonl")}) == 6000
    whole = [one["id"] for one in verdicts(out)]
    assert whole == [f"q{n}" for n in range(6000)]


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=150), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_replies_are_found_on_disk_as_in_memory(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, bool]], most: int
) -> None:
    path = tmp_path_factory.mktemp("replies") / "replies.jsonl"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "WAIT", most)
        memory, disk = ReplyStore(), ReplyStore(path)
        for turn, (number, again) in enumerate(asked):
            if again:  # another process goes on
                disk.close()
                disk = ReplyStore(path)
            key = store.content_hash(number)
            row = {"key": key, "prompt_hash": "p", "text": str(turn), "finish_reason": "stop", "tokens": 1,
                   "prompt_tokens": None, "top": None}  # fmt: skip
            memory.add([row])
            disk.add([row])
            assert len(disk) == len(memory)
        for number in range(61):
            key = store.content_hash(number)
            assert (key in disk) == (key in memory)
            if key in memory:
                assert disk.get(key, cached=True) == memory.get(key, cached=True)
        disk.close()
