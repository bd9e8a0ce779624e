"""WebDataset shards: members of a tar file that share a name up to its first dot are one record.

Members are listed, not loaded: a picture is read from its place when it is opened. A shard that ends early or is damaged
raises, where others stop without a word.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import parse_json
from coalign.data.files.remote import fetched, is_remote
from coalign.data.files.row import Row
from coalign.data.files.shards import is_glob
from coalign.data.media.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Stretch
from coalign.data.messages import half_pair

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_BLOCK = 512
_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
_TEXT = ("txt", "text", "caption", "captions")


def is_tar(name: str) -> bool:
    """Whether a name stands for tar shards: a file, a URL, a glob or a range of them, or a folder that holds nothing else."""
    path = Path(name).expanduser()
    if os.path.isdir(path):  # no error for a name that no file can have
        files = [one for one in path.iterdir() if one.is_file() and not one.name.startswith(".")]
        return (
            bool(files)
            and any(one.suffix == ".tar" for one in files)
            and all(one.suffix in (".tar", ".json", ".md", ".idx") for one in files)
        )
    if is_glob(name) and not is_remote(name) and not path.suffix:
        found = _matching(path)
        return bool(found) and all(one.suffix == ".tar" for one in found)
    return name.lower().endswith((".tar", *_PACKED))


def tars_of(name: str) -> list[Path]:
    """The shards that a name stands for, in order.

    Raises:
        DataError: none is there, one of a range is missing, or they are compressed.
    """
    if is_remote(name) and not name.lower().endswith(_PACKED):
        return [path for one in _expanded(name) for path in fetched(one)]
    path = Path(name).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if name.lower().endswith(_PACKED):
        raise DataError(
            f"{name}: a compressed tar, whose members cannot be read one by one.",
            hint="Unpack it to a .tar: pictures are compressed themselves.",
        )
    found = [Path(one).expanduser() for one in _expanded(name)]
    if is_glob(name) and not path.exists():
        found = _matching(path)
    missing = next((one for one in found if not one.is_file()), None)
    if missing is not None or not found:
        raise DataError(f"{missing or name}: no such file.")
    return found


def _matching(path: Path) -> list[Path]:
    return sorted(one for one in map(Path, glob.glob(str(path), recursive=True)) if one.is_file())


def _expanded(name: str) -> list[str]:
    """`a-{00..11}.tar` as twelve names."""
    found = _BRACES.search(name)
    if found is None:
        return [name]
    first, last, width = int(found[1]), int(found[2]), len(found[1])
    return [
        one
        for number in range(first, last + 1)
        for one in _expanded(f"{name[: found.start()]}{number:0{width}d}{name[found.end() :]}")
    ]


def tar_rows(shards: Sequence[Path]) -> Iterator[Row]:
    """A row a record: `image` or `video` (a `Stretch` of the shard), `captions` of text members, `label` of `cls`, and
    the columns of `json`; `__key__` is its name.

    Raises:
        DataError: a shard that is no tar, damaged, or cut off; one with members of a record that do not follow each other.
    """
    return _rows(shards, _row)


def tar_records(shards: Sequence[Path]) -> Iterator[Row]:
    """A row a record of text: the columns of `json`, and a column for each member of text (`prompt.txt`; `text` of `txt`) and
    each picture (`image` of `jpg`); `__key__` is its name.

    Raises:
        DataError: as `tar_rows`.
    """
    return _rows(shards, _record)


def _rows(
    shards: Sequence[Path], make: Callable[[str, dict[str, Stretch], Path, int, int], Row]
) -> Iterator[Row]:
    before = index = 0
    for path in shards:
        start = index
        for key, members in _grouped(path):
            yield make(key, members, path, index, before)
            index += 1
        if index == start:
            raise DataError(
                f"{path}: no record in it.", hint="Members named like 0001.jpg and 0001.txt are needed."
            )
        before = index


def _grouped(path: Path) -> Iterator[tuple[str, dict[str, Stretch]]]:
    key, members = "", dict[str, Stretch]()
    done: set[str] = set()
    for member in _members(path):
        folder, _, name = member.name.rpartition("/")
        if name.startswith("."):
            continue
        stem, _, kind = name.partition(".")
        own = f"{folder}/{stem}" if folder else stem
        if members and (own != key or kind.lower() in members):
            yield key, members
            members = {}
        if own != key:
            done.add(key)
        if own != key and own in done:
            raise DataError(
                f"{path}: the members of {own} do not follow each other: {member.name} comes after those of {key}.",
                hint="Write the shard anew with its members in the order of their names.",
            )
        key = own
        members[kind.lower()] = member
    if members:
        yield key, members


def _members(path: Path) -> Iterator[Stretch]:
    """The files of a tar.

    Raises:
        DataError: no tar, damaged, or without its end.
    """
    size = path.stat().st_size
    last = "its beginning"
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # of a reader that goes back
                if member.offset_data + member.size > size:
                    raise DataError(f"{path}: cut off within {member.name}.", hint="Fetch it again.")
                last = member.name
                if member.isfile():
                    yield Stretch(path, member.name, member.offset_data, member.size)
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path}: not a tar file that can be read ({error}).", hint="Fetch it again."
        ) from error
    with path.open("rb") as file:
        # The reader stops at a damaged header as at the end: there it must have found a block of zeros.
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise DataError(
                f"{path}: {'cut off' if end >= size else 'damaged'} after {last}: the archive has no end there.",
                hint="Fetch it again.",
            )


def _record(key: str, members: dict[str, Stretch], path: Path, index: int, before: int) -> Row:
    value: dict[str, Any] = {"__key__": key}
    for kind, member in members.items():
        name, _, suffix = kind.rpartition(".")
        try:
            if suffix == "json" and not name:
                found = parse_json(member.read().decode("utf-8-sig"), any_text=True)
                if not isinstance(found, dict):
                    raise ValueError("not a JSON object")
                value |= {column: one for column, one in found.items() if column not in value}
            elif suffix in ("txt", "text"):
                value[name or "text"] = member.read().decode("utf-8-sig")
            elif f".{suffix}" in IMAGE_SUFFIXES:
                value[name or "image"] = member
            else:
                value[kind] = str(member)
        except ValueError as error:
            problem = RecordProblem(
                str(member), None, kind, f"cannot be read ({error})", "UTF-8 text or JSON", index - before
            )
            return Row(None, None, index, problem, file=str(path), before=before)
    halved = half_pair(value)
    if halved is not None:
        problem = RecordProblem(str(path), None, *halved, index - before)
        return Row(None, None, index, problem, file=str(path), before=before)
    return Row(value, None, index, file=str(path), before=before)


def _row(key: str, members: dict[str, Stretch], path: Path, index: int, before: int) -> Row:
    value: dict[str, Any] = {"__key__": key}
    problem = None
    for kind, member in members.items():
        suffix = "." + kind.rpartition(".")[2]
        try:
            if suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES:
                part = "image" if suffix in IMAGE_SUFFIXES else "video"
                value[part if part not in value else kind] = member
            elif kind in _TEXT:
                lines = member.read().decode("utf-8-sig").splitlines()
                value["captions"] = [one.strip() for one in lines if one.strip()]
            elif kind in ("cls", "label", "cls.txt"):
                value["label"] = member.read().decode("utf-8").strip()
            elif kind == "json":
                found = json.loads(member.read())
                if not isinstance(found, dict):
                    raise ValueError("not a JSON object")
                value |= {name: one for name, one in found.items() if name not in value}
            else:
                value[kind] = member
        except ValueError as error:
            problem = RecordProblem(
                str(member), None, kind, f"cannot be read ({error})", "UTF-8 text or JSON", index
            )
    return Row(None if problem else value, None, index, problem, file=str(path), before=before)
