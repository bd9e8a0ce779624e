"""The data of a run by content, so that a run that goes on goes on with the data that it was started with."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RunError
from coalign.core.files import file_sha256
from coalign.core.names import near_path

NAMES = re.compile(r"(^|_)(data|prompts|seeds|tasks|documents|include_path)$")
"""Options that name data: `data`, `eval_data`, `prompts`, ...; files that a run writes to are under other names."""
_PART = re.compile(r"(?<=\.py)@\w*$")
"""Of a file of code: the name in it."""
_SUFFIX = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|txt|ya?ml|tar)(\.(gz|zst))?$", re.IGNORECASE)
"""Of files: no hub id ends so."""
_KNOWN: dict[str, tuple[tuple[int, int, int], str]] = {}
_MANY = 10_000
"""Files of a folder beyond which only names and sizes are compared."""


def fingerprints(config: Mapping[str, Any]) -> dict[str, str]:
    """The content of every local file of data that a configuration names, by path; folders and globs as a whole.

    Args:
        config: plain values, as `coalign.core.options.to_dict` gives them; parts of a mix with settings are mappings
            (`coalign.data.sources.canonical_sources`). Hub ids and standard input have no content here.
    """
    found = {}
    for name, value in config.items():
        if NAMES.search(name):
            for path in _paths(value):
                found[path] = _fingerprint(path)
    return {path: digest for path, digest in found.items() if digest}


def assert_there(config: Mapping[str, Any]) -> None:
    """Refuse data that a configuration names by a path and that is not there, before anything is made for it. What may be
    a name (a hub id, data that comes along) is left to whoever reads it.

    Args:
        config: as of `fingerprints`.

    Raises:
        DataError: with the first such path.
    """
    for name, value in config.items():
        for given in _given(value) if NAMES.search(name) else ():
            path = os.path.expanduser(given)
            is_path = given.startswith((os.sep, "/", ".", "~")) or (
                _SUFFIX.search(given) and "://" not in given
            )
            if is_path and not os.path.exists(path) and not _has_magic(path):
                raise DataError(
                    f"{given}: no such file.", hint=f"`{name}` names it. {near_path(given)}".strip()
                )


def assert_unchanged(before: Mapping[str, str], folder: Path) -> None:
    """Refuse to go on where a file of data is another one by now.

    Args:
        before: `fingerprints` at the start.
        folder: of the run, for the message.

    Raises:
        RunError: naming every file that has changed or is gone.
    """
    changed = [
        f"  {path}: {'has another content now' if os.path.exists(path) or _has_magic(path) else 'is gone'}"
        for path, digest in before.items()
        if _fingerprint(path) != digest
    ]
    if changed:
        raise RunError(
            f"{folder} was started with other data:\n" + "\n".join(changed),
            hint="Put the data back to continue the run, or give another --out.",
        )


def _paths(value: Any) -> Iterator[str]:
    for one in _given(value):
        yield os.path.abspath(os.path.expanduser(one))


def _given(value: Any) -> Iterator[str]:
    """The names in a value, as they are written."""
    if isinstance(value, Mapping):
        yield from _given(value.get("path"))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _given(one)
    elif isinstance(value, str) and value not in ("", "-"):
        yield _PART.sub("", value)


def _fingerprint(path: str) -> str:
    """Empty where nothing is."""
    if os.path.isfile(path):
        return _digest(path)
    if os.path.isdir(path):
        files = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
        files = [one for one in files if not os.path.relpath(one, path).startswith(".")]
        files = [one for one in files if os.path.basename(os.path.dirname(one)) != "__pycache__"]
    else:
        files = (
            [one for one in glob.glob(path, recursive=True) if os.path.isfile(one)]
            if _has_magic(path)
            else []
        )
    if not files:
        return ""
    whole = hashlib.sha256()
    for file in sorted(files):
        content = _digest(file) if len(files) <= _MANY else _size(file)
        whole.update(f"{os.path.relpath(file, path)}\0{content}\0".encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


def _size(path: str) -> str:
    try:
        return str(os.path.getsize(path))
    except OSError:
        return ""


def _digest(path: str) -> str:
    """Empty for a file that cannot be read, or is gone since it was listed: who reads it says so."""
    try:
        return file_digest(path)
    except OSError:
        return ""


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file. A process hashes a file once, as long as its size, time of change and inode stay."""
    about = os.stat(path)
    state = (about.st_size, about.st_mtime_ns, about.st_ino)
    known = _KNOWN.get(os.path.abspath(path))
    if known is not None and known[0] == state:
        return known[1]
    found = file_sha256(Path(path))
    _KNOWN[os.path.abspath(path)] = (state, found)
    return found


def _has_magic(path: str) -> bool:
    return glob.has_magic(path)
