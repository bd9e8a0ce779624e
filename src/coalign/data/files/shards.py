"""Which files a folder or a glob stands for: shards of one data set, of one format and one split, in a fixed order."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from coalign.core.errors import DataError

_FORMATS = {
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".json": "JSON",
    ".csv": "CSV",
    ".parquet": "Parquet",
}
SUFFIXES = tuple(_FORMATS)
COMPRESSED = (".gz", ".zst")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split to the words by which names of files and folders tell it, as `datasets` reads them."""
_DESCRIPTIONS = re.compile(r"dataset_infos?\.json|dataset_dict\.json|state\.json|.*\.rejects\.jsonl")
"""Files beside shards that hold no records."""
_OTHER_DATA = frozenset(
    [
        ".arrow",
        ".avro",
        ".feather",
        ".h5",
        ".msgpack",
        ".npy",
        ".npz",
        ".orc",
        ".pickle",
        ".pkl",
        ".tar",
        ".tsv",
        ".xlsx",
        ".zip",
    ]
)
"""Suffixes of data that is not read: beside files that are, it would be left out without a word."""
_MAGIC = frozenset("*?[")


def suffix_of(path: Path) -> str:
    """The suffix that tells the format, without that of the compression; empty when it tells none."""
    suffixes = [one.lower() for one in path.suffixes if one.lower() not in COMPRESSED]
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ""


def is_glob(name: str) -> bool:
    """Whether a name stands for all files that it matches."""
    return not _MAGIC.isdisjoint(name)


def shards_of_folder(folder: Path, split: str) -> list[Path]:
    """The shards of one split in a folder, sorted by their names; empty where there is no file of a known format.

    Where names say which split a file is of (`train-00000-of-00002.parquet`, `data/test/1.jsonl`), as on the hub, those
    of `split` are taken. Hidden files and descriptions of the data set are no shards.

    Raises:
        DataError: files of several formats or in several folders; a split that no file has; a file of no split beside
            others.
    """
    visible = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not _DESCRIPTIONS.fullmatch(path.name)
    )
    found = [path for path in visible if suffix_of(path)]
    other = next((path for path in visible if path.suffix.lower() in _OTHER_DATA), None)
    if found and other is not None and other.suffix.lower() == ".tar":
        _assert_one_format([found[0], other], str(folder))
    if found and other is not None:
        raise DataError(
            f"{folder}: {other.relative_to(folder)} has no format that can be read, {found[0].relative_to(folder)} has.",
            hint=f"Name the files that are meant, for example with the glob {folder}/*{suffix_of(found[0])}.",
        )
    of = {path: split_of(path.relative_to(folder)) for path in found}
    named = {one for one in of.values() if one is not None}
    if named:
        wanted = next((name for name, words in _SPLITS.items() if split.lower() in words), split)
        unnamed = [path for path in found if of[path] is None]
        if unnamed:
            raise DataError(
                f"{folder}: {unnamed[0].relative_to(folder)} says by its name no split, others do ({', '.join(sorted(named))}).",
                hint=f"Name the files that are meant, for example {folder}/*{suffix_of(unnamed[0])} or one of them.",
            )
        found = [path for path in found if of[path] == wanted]
        if not found:
            raise DataError(
                f"{folder}: no files of the split {split!r}, only: {', '.join(sorted(named))}.",
                hint="Give a split.",
            )
    folders = list(dict.fromkeys(path.parent for path in found))
    if len(folders) > 1:
        told = ", ".join(str(one.relative_to(folder)) for one in folders[:5])
        raise DataError(
            f"{folder}: files in several folders: {told}.",
            hint=f"Name one of them, or all with the glob {folder}/**/*{suffix_of(found[0])}.",
        )
    _assert_one_format(found, str(folder))
    return found


def shards_of_glob(pattern: str) -> list[Path]:
    """The files that a glob (with `**` for folders below) matches, sorted by their names.

    Raises:
        DataError: no file matches, one has no known format, or they are of several formats or splits.
    """
    found = sorted(Path(one) for one in glob.glob(str(Path(pattern).expanduser()), recursive=True))
    found = [path for path in found if path.is_file() and not _DESCRIPTIONS.fullmatch(path.name)]
    if not found:
        raise DataError(f"{pattern}: no file matches.", hint="Check the pattern and the folder.")
    assert_shards(found, pattern)
    return found


def assert_shards(found: Sequence[Path], pattern: str) -> None:
    """Refuse files that are no shards of one data set.

    Args:
        pattern: that matches them, for messages.

    Raises:
        DataError: one has no known format, or they are of several formats or splits.
    """
    unknown = [path for path in found if not _format_of(path)]
    if unknown:
        raise DataError(
            f"{pattern}: {unknown[0]} has no format that can be read.",
            hint=f"Narrow the pattern to files of one format: {', '.join(SUFFIXES)}.",
        )
    _assert_one_format(found, pattern)
    splits = sorted({one for path in found if (one := split_of(Path(path.name)))})
    if len(splits) > 1:
        raise DataError(
            f"{pattern}: matches files of several splits: {', '.join(splits)}.", hint="Narrow the pattern."
        )


def _format_of(path: Path) -> str:
    """The format that a name tells; empty where it tells none."""
    return "WebDataset" if path.suffix.lower() == ".tar" else _FORMATS.get(suffix_of(path), "")


def _assert_one_format(files: Sequence[Path], name: str) -> None:
    formats = {_format_of(path): path for path in files}
    if len(formats) > 1:
        told = " and ".join(f"{kind} ({path.name})" for kind, path in formats.items())
        raise DataError(
            f"{name}: files of several formats: {told}.",
            hint=f"Name those that are meant with a glob, for example {Path(name).parent if is_glob(name) else name}/*"
            f"{suffix_of(files[0]) or files[0].suffix}.",
        )


def splits_named(names: Iterable[str]) -> dict[str, str]:
    """The words for splits, each with the split that it means; empty where a name is none of a split."""
    found = [split_of(Path(one)) for one in names]
    if not found or None in found:
        return {}
    return {word: split for split, words in _SPLITS.items() for word in words}


def split_of(path: Path) -> str | None:
    """The split that a file's name, or the nearest of its folders, says."""
    for part in reversed(path.parts):
        words = re.split(r"[^a-z]+", part.lower())
        for split, named in _SPLITS.items():
            if not set(words).isdisjoint(named):
                return split
    return None
