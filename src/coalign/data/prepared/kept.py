"""What was made of files of data, kept in the cache under their content: a second start reads it and not the files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import marshal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import coalign
from coalign.core.cache import cache_root
from coalign.core.files import atomic_path
from coalign.core.inputs import file_digest
from coalign.core.processes.locks import hold, release
from coalign.data.prepared.packing import assert_plain

SMALLEST = 1 << 20
"""Bytes of files below which nothing is kept: they are read faster than looked up."""
_LOOK = 0.2
"""Seconds between two looks at what another process makes."""
_TOLD_AFTER = 2.0
"""Seconds of waiting after which it is told."""
_LIBRARIES = ("transformers", "tokenizers", "jinja2")


def key_of(*settings: Any) -> str:
    """A name for what follows from these settings under this version of the code and of the libraries."""
    return hashlib.blake2b(
        repr((_code(), settings)).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()


def contents(files: Iterable[Path]) -> list[tuple[str, str]] | None:
    """Name and content of each file; None where they are too few or too small to be kept, or one cannot be read."""
    try:
        listed = list(files)
        if sum(one.stat().st_size for one in listed) < SMALLEST:
            return None
        return [(str(one), file_digest(one)) for one in listed]
    except OSError:
        return None


def kept_folder(what: str, key: str) -> Path:
    """Where it is kept; it may not exist yet."""
    return cache_root() / what / key


@contextlib.contextmanager
def in_turn(made: Path, work: Callable[[], bool] | None = None) -> Iterator[bool]:
    """Let one of the processes that need something of the cache make it (the processes of a launcher, two runs), while the
    others wait for it.

    Args:
        made: the file that is there once it is made.
        work: a part of it that others may make meanwhile; it returns whether it did anything.

    Yields:
        Whether it is to be made here; not where it is there by now.
    """
    lock = made.parent.with_name(f"{made.parent.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    waited = 0.0
    while not made.exists() and not hold(lock):
        if work is not None and work():
            continue
        if waited <= _TOLD_AFTER < waited + _LOOK:
            told = f"Data: another process reads or tokenises these records; this one waits for it ({lock})."
            print(told, file=sys.stderr, flush=True)
        waited += _LOOK
        time.sleep(_LOOK)
    try:
        yield not made.exists()
    finally:
        release(lock)


def write_plain(path: Path, value: Any) -> bool:
    """Write numbers, texts, lists and mappings, atomically; False where something else is among them."""
    try:
        assert_plain(value)
    except ValueError:
        return False
    with atomic_path(path) as temporary:
        temporary.write_bytes(marshal.dumps(value, 2))
    return True


def read_plain(path: Path) -> Any:
    """What `write_plain` wrote; None where nothing is, or it cannot be read."""
    try:
        return marshal.loads(path.read_bytes())
    except (OSError, ValueError, EOFError, TypeError):
        return None


@functools.cache
def _code() -> tuple[str, ...]:
    """What reading and encoding depend on besides the data: a changed file of the data room counts as another version."""
    folder = Path(coalign.__file__).parent / "data"
    states = [
        f"{one.relative_to(folder)} {one.stat().st_size} {one.stat().st_mtime_ns}"
        for pattern in ("*.py", "*.jinja")
        for one in sorted(folder.rglob(pattern))
    ]
    source = hashlib.blake2b("\n".join(states).encode(), digest_size=16).hexdigest()
    return coalign.__version__, source, sys.version, *map(_version, _LIBRARIES)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
