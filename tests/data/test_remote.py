"""Files by URL: those of a file system in memory and of a stand-in of the hub, read as local ones, fetched once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from coalign.core.errors import DataError, MissingExtraError
from coalign.data.files import remote
from coalign.data.files.written import write_shards
from coalign.data.rows import files_of, iter_rows
from tests.models.hub_server import running

ROWS = [{"id": f"r{n}", "prompt": f"say {n}"} for n in range(7)]


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def laid(system: Any, tmp_path: Path, suffix: str, per_file: int | None = 3) -> None:
    """The rows as files of `memory://data`."""
    for path in write_shards(tmp_path / f"part{suffix}", ROWS, len(ROWS), per_file):
        system.pipe_file(f"/data/{path.name}", path.read_bytes())


def values(source: str) -> list[dict]:
    return [{name: (row.value or {})[name] for name in ROWS[0]} for row in iter_rows(source)]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".tar"])
@pytest.mark.parametrize("source", ["memory://data", "memory://data/*{}", "memory://d*/part-0000*{}"])
def test_folders_and_globs_are_read_as_local_ones(
    memory: Any, tmp_path: Path, suffix: str, source: str
) -> None:
    if suffix == ".tar" and source == "memory://data":
        source += "/*.tar"
    laid(memory, tmp_path, suffix)
    assert values(source.format(suffix)) == ROWS
    assert [one.name for one in files_of(source.format(suffix))] == [
        f"part-{number:05d}-of-00003{suffix}" for number in range(3)
    ]


def test_a_file_is_fetched_when_its_turn_comes_and_again_when_it_has_changed(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid(memory, tmp_path, ".jsonl")
    asked: list[str] = []
    copy = remote.RemoteFile._copy

    def counting(self: remote.RemoteFile, target: Path) -> None:
        asked.append(target.name)
        copy(self, target)

    monkeypatch.setattr(remote.RemoteFile, "_copy", counting)
    rows = iter_rows("memory://data/*.jsonl")
    next(rows)
    assert asked == ["part-00000-of-00003.jsonl"]
    assert len(list(rows)) == 6
    assert len(asked) == 3
    assert values("memory://data/*.jsonl") == ROWS
    assert len(asked) == 3
    changed = {"id": "r6", "prompt": "say 60"}
    memory.pipe_file("/data/part-00002-of-00003.jsonl", json.dumps(changed).encode())
    assert values("memory://data/*.jsonl") == [*ROWS[:6], changed]
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("memory://data/*.csv", r"memory://data/\*\.csv: no file matches"),
        ("memory://data/none.jsonl", "none.jsonl: no such file"),
        ("memory://data/*", "files of several formats"),
        ("memory://data/p*.jsonl", "part-00002-of-00003.jsonl:1: column 1: not JSON"),
        ("nowhere://data/*", "nowhere://data/.*: cannot be read .*Protocol not known"),
    ],
)
def test_what_cannot_be_read_is_said(memory: Any, tmp_path: Path, source: str, said: str) -> None:
    laid(memory, tmp_path, ".jsonl")
    memory.pipe_file("/data/part-00002-of-00003.jsonl", b"no JSON")
    if source.endswith("*") and source.startswith("memory"):
        memory.pipe_file("/data/x.parquet", b"PAR1")
    if source.endswith("p*.jsonl"):
        (bad,) = (row.problem for row in iter_rows(source) if row.problem)
        assert "not JSON" in str(bad)
        assert bad.source.endswith("part-00002-of-00003.jsonl")
        return
    with pytest.raises(DataError, match=said):
        list(iter_rows(source))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match="s3:// needs a library") as found:
        list(iter_rows("s3://bucket/data/*.parquet"))
    assert "s3fs" in str(found.value.hint)


def test_the_hub_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "hub_problem", lambda: "no answer within 3 s")
    with pytest.raises(DataError, match="the hub cannot be reached: no answer within 3 s"):
        list(iter_rows("hf://datasets/me/corpus/data/*.parquet"))


def test_files_of_the_hub_are_read_by_their_names(tmp_path: Path) -> None:
    answer = {"instruction": {"T": 3, "V": 7}, "synergy": {"TV": 0.6}, "votes": {"TV": 0.4}}
    rows = [{"id": f"r{n}", **answer} for n in range(9)]
    with running() as hub:
        hub.files["datasets/me/corpus"] = {"README.md": b"# rows"}
        for path in write_shards(tmp_path / "train.parquet", rows, 9, 4):
            hub.files["datasets/me/corpus"][f"data/{path.name}"] = path.read_bytes()
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hub")}
        command = [sys.executable, "-m", "coalign", "score", "amg", "hf://datasets/me/corpus/data/*.parquet"]
        how: dict[str, Any] = {"capture_output": True, "text": True, "env": {**os.environ, **settings}}
        found = subprocess.run(command, **how, check=False)
        assert found.returncode == 0, found.stderr
        assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == [one["id"] for one in rows]
        sent = hub.sent
        assert subprocess.run(command, **how, check=True).stdout == found.stdout
        assert hub.sent == sent
        command[-1] = "hf://datasets/me/nothing/*.parquet"
        missing = subprocess.run(command, **how, check=False)
        assert missing.returncode == 1
        assert "hf://datasets/me/nothing/*.parquet: no file matches" in missing.stderr
        assert "Traceback" not in missing.stderr
