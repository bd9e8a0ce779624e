"""Rows as files: every format in one file and in shards, and what is left when one of them cannot be written."""

from __future__ import annotations

import errno
import tarfile
from pathlib import Path

import pytest

from coalign.core.errors import CoalignError, DataError
from coalign.data.files import written
from coalign.data.files.written import shards_of, write_shards
from coalign.data.media.tars import tar_records
from coalign.data.rows import iter_rows

ROWS = [
    {"id": f"r{n}", "prompt": [{"role": "user", "content": f"ü {n}"}], "responses": ["a"] * n}
    for n in range(7)
]


def read(source: Path | str) -> list[dict]:
    found = tar_records([Path(source)]) if str(source).endswith(".tar") else iter_rows(str(source))
    return [dict(row.value or {}) for row in found]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("per_file", [None, 1, 3, 7, 100])
def test_rows_come_back_as_they_were(tmp_path: Path, suffix: str, per_file: int | None) -> None:
    out = tmp_path / f"rows{suffix}"
    files = write_shards(out, iter(ROWS), len(ROWS), per_file)
    assert [row for path in files for row in read(path)] == ROWS
    assert len(files) == (1 if per_file is None else -(-7 // per_file))
    assert sorted(tmp_path.iterdir()) == files
    assert read(tmp_path / f"rows*{suffix}") == ROWS


def test_tars_have_a_member_a_row_numbered_through_all_shards(tmp_path: Path) -> None:
    files = write_shards(tmp_path / "rows.tar", ROWS, len(ROWS), 3)
    names = []
    for path in files:
        with tarfile.open(path) as tar:
            names.append(tar.getnames())
    assert names == [[f"{place:09d}.json" for place in part] for part in (range(3), range(3, 6), [6])]
    found = [row for path in files for row in read(path)]
    assert [{name: row[name] for name in ROWS[0]} for row in found] == ROWS


def test_shards_of_another_number_go(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    (tmp_path / "rows-2.jsonl").touch()  # not a shard
    write_shards(out, ROWS, len(ROWS), 2)
    assert len(shards_of(out)) == 4
    files = write_shards(out, ROWS, len(ROWS), 4)
    assert shards_of(out) == files
    assert (tmp_path / "rows-2.jsonl").exists()


def test_a_full_disk_in_one_shard_is_said_and_leaves_whole_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = written.json_bytes, []

    def full(row: dict) -> bytes:
        calls.append(row)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return encode(row)

    monkeypatch.setattr(written, "json_bytes", full)
    with pytest.raises(
        CoalignError, match=r"No space left on the disk while writing .*rows-00001-of-00003\.tar"
    ):
        write_shards(tmp_path / "rows.tar", ROWS, len(ROWS), 3)
    (whole,) = tmp_path.iterdir()
    assert [row["id"] for row in read(whole)] == ["r0", "r1", "r2"]


@pytest.mark.parametrize("rows", [[{"a": 1}, {"a": "b"}], [{"a": {}}], [{"a": 2**70}], [{"a": "\ud800"}]])
@pytest.mark.parametrize("group", [1, 10])
def test_what_parquet_has_no_type_for_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict], group: int
) -> None:
    monkeypatch.setattr(written, "GROUP", group)
    with pytest.raises(DataError, match="a column holds values of different types"):
        write_shards(tmp_path / "rows.parquet", rows, len(rows))
    assert not list(tmp_path.iterdir())


def test_types_of_columns_are_those_of_all_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"a": None, "b": 1},
        {"a": [], "b": 2},
        {"a": [{"c": "x"}]},
        {"a": [{"d": 3}], "b": 0.5, "e": "new"},
    ]
    monkeypatch.setattr(written, "GROUP", 1)
    write_shards(tmp_path / "rows.parquet", rows, len(rows))
    found = read(tmp_path / "rows.parquet")
    assert [one["b"] for one in found] == [1, 2, None, 0.5]
    assert [one["a"] for one in found] == [None, [], [{"c": "x", "d": None}], [{"c": None, "d": 3}]]
    assert [one["e"] for one in found] == [None, None, None, "new"]
