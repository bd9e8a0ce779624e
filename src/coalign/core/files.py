"""Files that are either whole or absent, and row files that survive a kill in the middle of a line."""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from coalign.core.errors import CoalignError, ConfigError, RunError
from coalign.core.progress import progress

if TYPE_CHECKING:
    from filelock import BaseFileLock

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or quota."""
DEEPEST = 100
"""Levels of lists and mappings in each other that JSON from outside may have."""
_PART = 1 << 20
_LONGEST_PREFIX = 40
"""Characters of a file's name in that of its temporary folder, which must not be longer than the system allows either."""


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on any error it is removed.

    Works for a file and for a folder (create it at the yielded path). The temporary name starts with a dot
    and ends in `.tmp`, so that a reader that globs for results never sees a half-written one.
    """
    with _clear_when_full(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:_LONGEST_PREFIX]}.", suffix=".tmp")
        )
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


def append_rows(target: Path, rows: Iterable[Any]) -> None:
    """Append rows to a JSON Lines file with one write and one sync.

    A kill can leave the last line torn: `read_rows` with `repair` cuts it off, and so does the next append. A write
    that fails leaves the file as it was.
    """
    data = "".join(map(json_line, rows)).encode("utf-8")
    with _clear_when_full(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a+b", buffering=0) as file:
            end = _end_of_last_line(file)
            file.truncate(end)
            try:
                _write_all(file, data)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


def json_line(row: Any) -> str:
    """A row as JSON that every reader takes, in one line: NaN and infinities, which JSON has not, are null."""
    return json_bytes(row).decode("utf-8") + "\n"


def json_bytes(value: Any) -> bytes:
    """The same as bytes, without the end of the line."""
    try:
        return _TEXT.encode(value).encode("utf-8")
    except ValueError:  # also text that is not valid Unicode
        return dump_json(value, default=_plain).encode("utf-8")


def dump_json(value: Any, **options: Any) -> str:
    """`value` as JSON that can be written and that every reader takes: NaN and infinities, which JSON has not, are null;
    text that is not valid Unicode is escaped, and with it all of the value that is not ASCII.

    Args:
        options: of `json.dumps`.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    except ValueError:
        plain = json.loads(json.dumps(value, **options), parse_constant=lambda _: None)
        text = json.dumps(plain, ensure_ascii=False, indent=options.get("indent"))
    return text if is_valid(text) else json.dumps(json.loads(text), indent=options.get("indent"))


def is_valid(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def open_to_append(target: Path) -> IO[bytes]:
    """A file to which `write_all` appends."""
    return target.open("ab", buffering=0)


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


_TEXT = json.JSONEncoder(ensure_ascii=False, default=_plain, allow_nan=False)


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


def parse_json(text: str | bytes, *, any_text: bool = False, **options: Any) -> Any:
    """`json.loads` of text from outside.

    Args:
        any_text: take halves of surrogate pairs as well, which are no valid text: the caller looks for them itself.
        options: of `json.loads`.

    Raises:
        ValueError: it is not JSON, holds a number that is too long to be read or half of a surrogate pair, or is nested
            deeper than `DEEPEST`: what walks through it later has a stack that ends sooner than that of the reader.
    """
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        value = json.loads(text, **options)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from error
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(value):
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    if not any_text:
        escaped = "\\ud" in text.lower() and not is_valid(json.dumps(value, ensure_ascii=False))
        if escaped or not is_valid(text):
            raise ValueError("half a surrogate pair, which is no text")
    return value


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        held = (one.values() if isinstance(one, dict) else one for one in level)
        level = [part for one in held for part in one if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content; of a large one with its progress."""
    made, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file, progress(size // _PART, f"Reading {path.name}", "megabyte") as bar:
        while part := file.read(_PART):
            made.update(part)
            bar.advance(len(part) // _PART)
    return made.hexdigest()


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
            except (ValueError, RecursionError) as error:
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


def read_template(path: Path, places: Sequence[str] = ()) -> str:
    """A text of the user's own.

    Args:
        places: what it has to hold (`{question}`).

    Raises:
        ConfigError: it cannot be read, or lacks a place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    if missing := [one for one in places if one not in text]:
        raise ConfigError(f"{path}: lacks {' and '.join(missing)}.")
    return text
