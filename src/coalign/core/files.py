"""Files that are either whole or absent, and row files that survive a kill in the middle of a line."""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from coalign.core.errors import CoalignError, RunError

if TYPE_CHECKING:
    from filelock import BaseFileLock

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or quota."""


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on any error it is removed.

    Works for a file and for a folder (create it at the yielded path). The temporary name starts with a dot
    and ends in `.tmp`, so that a reader that globs for results never sees a half-written one.
    """
    with _clear_when_full(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
        path = temporary / target.name
        try:
            yield path
            if path.is_file():
                _sync(path)
                path.replace(target)
            elif not path.is_dir():
                raise FileNotFoundError(errno.ENOENT, "nothing was written", str(target))
            else:
                if target.exists():
                    target.rename(temporary / f"{target.name}.old")
                path.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Remove what killed writers left under `folder`. Only for a folder in which no other process writes."""
    for path in list(folder.rglob(".*.tmp")):
        shutil.rmtree(path, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` atomically (UTF-8)."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinities are refused: they are not JSON."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_rows(target: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON Lines, atomically."""
    with atomic_path(target) as path, path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json_line(row))


def append_rows(target: Path, rows: Iterable[Any], *, ascii_only: bool = False, sync: bool = True) -> None:
    """Append rows to a JSON Lines file with one write and one sync.

    `ascii_only` escapes all else, so that texts that are not valid Unicode can be kept too. Without `sync` the rows
    outlive the process, and perhaps not a power cut.

    A kill can leave the last line torn: `read_rows` with `repair` cuts it off, and so does the next append. A write
    that fails leaves the file as it was.
    """
    data = "".join(json_line(row, ascii_only) for row in rows).encode("utf-8")
    with _clear_when_full(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a+b", buffering=0) as file:
            end = _end_of_last_line(file)
            file.truncate(end)
            try:
                _write_all(file, data)
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


def json_line(row: Any, ascii_only: bool = False) -> str:
    """A row as JSON that every reader takes, in one line: NaN and infinities, which JSON has not, are null."""
    try:
        return (_ASCII if ascii_only else _TEXT).encode(row) + "\n"
    except ValueError:
        text = json.dumps(row, ensure_ascii=ascii_only, default=_plain)
        return json.dumps(json.loads(text, parse_constant=lambda _: None), ensure_ascii=ascii_only) + "\n"


@contextlib.contextmanager
def open_to_append(targets: Sequence[Path]) -> Iterator[list[IO[bytes]]]:
    """Files to which `write_all` appends."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(one.open("ab", buffering=0)) for one in targets]


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write bytes to an unbuffered file.

    Raises:
        CoalignError: the disk is full.
    """
    with _clear_when_full(Path(file.name)):
        _write_all(file, data)


def _plain(value: Any) -> Any:
    """Values that columns of Parquet files and of data sets have, and JSON has not: numbers, ISO times, base64."""
    match value:
        case decimal.Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case _ if hasattr(value, "tolist"):  # NumPy's
            return value.tolist()
        case _:
            raise TypeError(f"{type(value).__name__} cannot be written as JSON")


_TEXT, _ASCII = (
    json.JSONEncoder(ensure_ascii=ascii_only, default=_plain, allow_nan=False) for ascii_only in (False, True)
)


def hold_file(path: Path, *, hint: str) -> BaseFileLock:
    """Hold `path` for this process until it ends or the lock is released; a lock file stands beside it.

    Args:
        hint: what to do when another process holds it.

    Raises:
        RunError: another process does.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"{path} is in use by another process.", hint=hint) from error
    return lock


def parse_json(text: str | bytes, **options: Any) -> Any:
    """`json.loads` of text from outside.

    Args:
        options: of `json.loads`.

    Raises:
        ValueError: it is not JSON, holds a number that is too long to be read, or is nested too deeply.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_rows(source: Path, *, repair: bool = False) -> list[Any]:
    """Read a JSON Lines file written by this module; an absent file has no rows.

    Args:
        repair: cut off a torn last line (left by a kill while appending) from the file instead of failing.

    Raises:
        CoalignError: a line is not JSON and it is not a torn last line.
    """
    if not source.exists():
        return []
    data = source.read_bytes()
    if repair and data and not data.endswith(b"\n"):
        data = data[: data.rfind(b"\n") + 1]
        os.truncate(source, len(data))
    rows = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise CoalignError(f"{source}:{number}: not JSON ({error}); the file was changed.") from error
    return rows


def stream_rows(source: Path, *, start: int = 0) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON Lines file one by one, each with the byte at which its line begins; an absent file has none.

    A torn last line (left by a kill while appending) is passed over.

    Args:
        start: byte at which to begin, that of a line.

    Raises:
        CoalignError: a line is not JSON and it is not a torn last line.
    """
    if not source.exists():
        return
    with source.open("rb") as file:
        place = file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                yield place, json.loads(line)
            except ValueError as error:
                raise CoalignError(
                    f"{source}, byte {place}: not JSON ({error}); the file was changed."
                ) from error
            place += len(line)


@contextlib.contextmanager
def _clear_when_full(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise CoalignError(
                f"No space left on the disk while writing {target}.",
                hint="Free some space and run the same command again: nothing half-written was kept.",
            ) from error
        raise


def _end_of_last_line(file: IO[bytes]) -> int:
    """The size of the file without a torn last line."""
    end = size = file.seek(0, os.SEEK_END)
    tail = b""
    while end > 0 and b"\n" not in tail:
        start = max(0, end - 4096)
        file.seek(start)
        tail = file.read(end - start)
        end = start
    return min(size, end + tail.rfind(b"\n") + 1)


def _write_all(file: IO[bytes], data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
