"""Where coalign keeps what it can make again, and how much of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from coalign.core.errors import ConfigError
from coalign.core.processes.claims import alone, claim

PREPARED = {
    "records": "records of large files, read and checked",
    "tokens": "token ids of such records",
    "reference": "their log-probabilities under a reference",
    "engines": "rows that a command works on",
    "fetched": "files of the hub and of remote file systems",
}
"""Folder of the cache to what was prepared there for later starts of a training, and to what waits for workers."""
LIMIT = "COALIGN_CACHE_LIMIT"
"""Environment variable: bytes that prepared data may take (`200GB`), or `none`."""
DEFAULT_LIMIT = 100 * 10**9
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)
_UNFINISHED = re.compile(r"\.(.+)\.[^.]+\.tmp")
"""What `coalign.core.files.atomic_path` writes before it is whole, with the name that it is to have."""
_OUT = ".removed-"


@dataclass(frozen=True)
class Entry:
    """Something that was prepared.

    Attributes:
        name: under which it is claimed.
        bytes: of all its files.
        used: when it was made or last opened, seconds since the epoch.
        lost: left by a process that ended before it was whole, or kept for that process alone.
    """

    kind: str
    name: str
    path: Path
    bytes: int
    used: float
    lost: bool


def cache_root() -> Path:
    """The cache folder: `$COALIGN_CACHE`, else the platform's place for user caches. It may not exist yet."""
    override = os.environ.get("COALIGN_CACHE")
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("coalign"))


def folder_size(path: Path) -> int:
    """Bytes under `path`; 0 when it does not exist. Links are not followed, what is removed meanwhile does not count."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def cache_limit() -> int | None:
    """Bytes that prepared data may take (`LIMIT`); None where there is no limit.

    Raises:
        ConfigError: the variable holds no size.
    """
    given = os.environ.get(LIMIT, "").strip()
    return size_of(given, LIMIT) if given else DEFAULT_LIMIT


def size_of(text: str, name: str) -> int | None:
    """Bytes of a size such as 500MB or 1.5 TB; None for `none`.

    Raises:
        ConfigError: it is no size; `name` is what the message calls it.
    """
    if text.lower() == "none":
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{name}: {text!r} is no size, expected such as 500MB, 200GB or none")
    return round(float(found.group(1)) * _UNITS[found.group(2).upper()])


def use(path: Path) -> None:
    """Keep an entry, which may not be made yet, for this process as long as it lives; to be called before it is looked for.

    Raises:
        ConfigError: as of `cache_limit`, before any work.
    """
    cache_limit()
    claim(_claims(), f"{path.parent.name}/{path.name}")
    with contextlib.suppress(OSError):
        os.utime(path)


def entries(kinds: Iterable[str] = tuple(PREPARED)) -> list[Entry]:
    """What was prepared, the one that was not used for longest first."""
    found: list[Entry] = []
    for kind in kinds:
        folder = cache_root() / kind
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.suffix == ".lock":
                continue
            unfinished = _UNFINISHED.fullmatch(path.name)
            name = unfinished.group(1) if unfinished else path.name
            with contextlib.suppress(OSError):
                about = path.lstat()
                size = folder_size(path) if path.is_dir() else about.st_size
                lost = bool(unfinished) or path.name.startswith(".")
                found.append(Entry(kind, name, path, size, about.st_mtime, lost))
    return sorted(found, key=lambda one: one.used)


def remove(entry: Entry) -> bool:
    """Remove an entry; False, and it stays, where a living process makes use of it, or it cannot be moved."""
    with alone(_claims(), f"{entry.kind}/{entry.name}") as free:
        if not free:
            return False
        away = entry.path.with_name(f"{_OUT}{uuid.uuid4().hex}")
        try:
            entry.path.rename(away)
        except OSError:  # read-only, or Windows with one of its files open
            return not entry.path.exists()
    if away.is_dir():
        shutil.rmtree(away, ignore_errors=True)
    else:
        away.unlink(missing_ok=True)
    return True


def in_use(entry: Entry) -> bool:
    """Whether a living process makes use of it, or nobody can tell."""
    with alone(_claims(), f"{entry.kind}/{entry.name}") as free:
        return not free


def trim(limit: int | None, kinds: Iterable[str] = tuple(PREPARED)) -> list[Entry]:
    """Remove what ended processes left unfinished, then what was not used for longest, until prepared data of these kinds
    take at most `limit` bytes; what is in use stays.

    Returns:
        what was removed.
    """
    found = entries(kinds)
    left = sum(one.bytes for one in found)
    removed: list[Entry] = []
    for one in sorted(found, key=lambda entry: not entry.lost):
        if (one.lost or (limit is not None and left > limit)) and remove(one):
            removed.append(one)
            left -= one.bytes
    return removed


def hold_limit() -> None:
    """Trim prepared data to the limit, and say what was removed; to be called once something was added.

    Raises:
        ConfigError: as of `cache_limit`.
    """
    removed = trim(cache_limit())
    whole = [one for one in removed if not one.lost]
    if whole:
        size = shown_size(sum(one.bytes for one in whole))
        told = (
            f"Cache: {len(whole)} of prepared data, not used for longest, removed ({size}) to hold {LIMIT}."
        )
        print(told, file=sys.stderr, flush=True)


def shown_size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _claims() -> Path:
    return cache_root() / "claims.lock"
