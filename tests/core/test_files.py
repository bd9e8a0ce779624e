from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core import files
from coalign.core import files as disk
from coalign.core.errors import CoalignError

KILLED = """
import os, signal, sys
from pathlib import Path
from coalign.core.files import atomic_path
with atomic_path(Path(sys.argv[1])) as path:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    result = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert list(tmp_path.glob("*.json")) == [target], "readers that glob see no half-written file"
    disk.remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    disk.write_text(target, "old")

    def write_and_fail() -> None:
        with disk.atomic_path(target) as path:
            path.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("one", "two"):
        with disk.atomic_path(target) as path:
            path.mkdir()
            (path / name).write_text(name)
    assert [one.name for one in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_writing_nothing_is_an_error_and_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("w")
    with pytest.raises(FileNotFoundError), disk.atomic_path(target):
        pass
    assert (target / "weights").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(files, "_sync", Mock(side_effect=OSError(code, os.strerror(code))))
    with pytest.raises(CoalignError, match=r"No space left on the disk while writing .*a\.txt"):
        disk.write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_an_append_to_a_full_disk_leaves_the_rows_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "rows.jsonl"
    disk.append_rows(target, [{"n": 1}])

    def torn(file: object, data: bytes) -> None:
        file.write(data[:5])  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write_all", torn)
        with pytest.raises(CoalignError, match="No space left"):
            disk.append_rows(target, [{"n": 2}])
    disk.append_rows(target, [{"n": 3}])
    assert disk.read_rows(target) == [{"n": 1}, {"n": 3}]


@settings(max_examples=50)
@given(st.integers(min_value=0), st.lists(st.dictionaries(st.text(), st.text() | st.integers()), max_size=4))
def test_a_torn_line_costs_only_itself(
    tmp_path_factory: pytest.TempPathFactory, cut: int, rows: list[dict[str, object]]
) -> None:
    target = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    disk.append_rows(target, rows)
    whole = target.read_bytes()
    torn = whole[: cut % (len(whole) + 1)]
    target.write_bytes(torn)
    kept = rows[: torn.count(b"\n")]
    disk.append_rows(target, [{"after": True}])
    assert disk.read_rows(target) == [*kept, {"after": True}], "an append never joins onto a torn line"
    target.write_bytes(torn)
    assert disk.read_rows(target, repair=True) == kept
    assert disk.read_rows(target) == kept, "the file itself is repaired"


def test_long_torn_lines_are_cut_too(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 10_000)
    disk.append_rows(target, [{"c": 1}])
    assert disk.read_rows(target) == [{"a": 1}, {"c": 1}]


def test_a_changed_file_is_named_with_its_line(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_text('{"a": 1}\nnot json\n{"b": 1}\n')
    with pytest.raises(CoalignError, match=r"rows.jsonl:2: not JSON"):
        disk.read_rows(target, repair=True)


def test_rows_keep_line_separators_inside_text_and_absent_ones_are_none(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\u0085c\nd"}]
    assert disk.read_rows(tmp_path / "rows.jsonl") == []
    disk.write_rows(tmp_path / "rows.jsonl", rows)
    assert disk.read_rows(tmp_path / "rows.jsonl") == rows


def test_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        disk.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, "{", "[1,]", "{no}"])
def test_json_from_outside_fails_in_one_way(text: str) -> None:
    with pytest.raises(ValueError, match=r"deep|digits|line 1"):
        files.parse_json(text)
    assert files.parse_json('{"a": [1, 2.5]}', parse_float=str) == {"a": [1, "2.5"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_halves_of_surrogate_pairs_are_seen_in_every_encoding(encoding: str) -> None:
    for text in ('{"a": "\\ud800"}', '{"a": "\ud800"}'):
        body = text.encode(encoding, "surrogatepass")
        with pytest.raises(ValueError, match="half a surrogate pair"):
            files.parse_json(body)
        assert files.parse_json(body, any_text=True) == {"a": "\ud800"}
    assert files.parse_json('{"a": "\U0001f600"}'.encode(encoding)) == {"a": "\U0001f600"}
