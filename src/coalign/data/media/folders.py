"""Folders of pictures or clips as rows: with a metadata file, with a text beside each, or a folder a class."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import DataError, RecordProblem
from coalign.data.files.shards import split_of, splits_named
from coalign.data.media.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from coalign.data.rows import Row, iter_rows

MEDIA_SUFFIXES = IMAGE_SUFFIXES + VIDEO_SUFFIXES
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_FILE_NAME = "file_name"


def folder_rows(folder: Path, split: str, kind: Literal["image", "video"] | None) -> Iterator[Row] | None:
    """The rows of a folder of media; None for one that holds none.

    A row has `image` or `video` (the path), and what is known of it: the columns of its metadata, the lines of
    `name.txt` (or `name.caption`) as `captions`, `name.json`, or the name of its folder as `label`, where all files lie
    in folders below and nothing else is said of them. Folders named by splits are splits.

    Raises:
        DataError: pictures and clips together where `kind` is None; a metadata file without `file_name`.
    """
    files = [one for one in sorted(folder.rglob("*")) if _visible(one, folder)]
    media = [one for one in files if one.suffix.lower() in MEDIA_SUFFIXES]
    if not media:
        return None
    top = {one.relative_to(folder).parts[0] for one in media if len(one.relative_to(folder).parts) > 1}
    named = splits_named(top)
    if named:
        wanted = [
            one
            for one in media
            if split_of(Path(one.relative_to(folder).parts[0])) == named.get(split, split)
        ]
        if not wanted:
            raise DataError(
                f"{folder}: no files of the split {split!r}, only in: {', '.join(sorted(top))}.",
                hint="Give a split.",
            )
        media = wanted
        root = folder / media[0].relative_to(folder).parts[0]
    else:
        root = folder
    metadata = {one.parent: one for one in files if one.name in _METADATA}
    if any(root in (one, *one.parents) or one == folder for one in metadata):
        near = {
            place: file
            for place, file in metadata.items()
            if place == folder or root in (place, *place.parents)
        }
        return _described(near, root, folder)
    kinds = {_kind(one) for one in media}
    if kind is None and len(kinds) > 1:
        raise DataError(
            f"{folder}: pictures and clips together.", hint="Say which are meant (image or video)."
        )
    chosen = [one for one in media if kind in (None, _kind(one))]
    return _beside(chosen, root, set(files)) if chosen else None


def _visible(path: Path, folder: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _kind(path: Path) -> Literal["image", "video"]:
    return "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image"


def _described(metadata: Mapping[Path, Path], root: Path, folder: Path) -> Iterator[Row]:
    """The rows of metadata files, whose `file_name` is relative to them."""
    before = 0
    for place, file in metadata.items():
        count = 0
        for row in iter_rows(file):
            count += 1
            value = row.value
            if value is not None:
                name = next((one for one in (_FILE_NAME, "image", "video") if one in value), None)
                if name is None:
                    raise DataError(f"{file}: no column {_FILE_NAME}, only: {', '.join(value)}.")
                path = place / str(value[name])
                if root != folder and place == folder and root not in path.parents:
                    continue  # of another split
                rest = {key: one for key, one in value.items() if key != name}
                value = {_kind(path): str(path.absolute()), **rest, "id": rest.get("id", str(value[name]))}
            yield Row(value, row.line, before + row.index, row.problem, row.raw, str(file), before)
        before += count


def _beside(media: list[Path], root: Path, files: set[Path]) -> Iterator[Row]:
    """A row a file: what lies beside it, or the class that its folder names."""
    texts = {one: _text_beside(one, files) for one in media}
    jsons = {one: one.with_suffix(".json") for one in media if one.with_suffix(".json") in files}
    described = any(texts.values()) or bool(jsons)
    classes = not described and all(one.parent != root for one in media)
    for index, path in enumerate(media):
        name = path.relative_to(root)
        value: dict[str, Any] = {_kind(path): str(path.absolute()), "id": str(name)}
        problem, text = None, texts[path]
        try:
            if path in jsons:
                value |= _columns(jsons[path])
            if text is not None:
                value["captions"] = [
                    line.strip() for line in text.read_text("utf-8-sig").splitlines() if line.strip()
                ]
        except (ValueError, OSError) as error:
            problem = RecordProblem(
                str(text or jsons[path]), None, "text", f"cannot be read ({error})", "UTF-8 text"
            )
        if classes:
            value["label"] = name.parts[0]
        yield Row(None if problem else value, None, index, problem, file="", before=0)


def _text_beside(path: Path, files: set[Path]) -> Path | None:
    return next((one for one in map(path.with_suffix, (".txt", ".caption")) if one in files), None)


def _columns(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
