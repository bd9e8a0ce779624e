"""Pictures and clips with captions and labels, from every form in which such data comes.

rows          JSON Lines, JSON, CSV or Parquet, a folder `datasets` saved, a hub id: a column with the picture or clip
              (path, bytes, base64, data URL, hub feature), and captions or a label beside it
folder        pictures or clips, with `metadata.jsonl`, `.csv` or `.parquet` (`file_name` and columns, as imagefolder
              has it), or `name.txt` beside `name.jpg`, or a folder a class
tar           WebDataset shards: `name.jpg`, `name.txt`, `name.cls`, `name.json` are a record
A picture or clip is decoded when it is opened; that its file is there is known before.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import DataError, RecordProblem
from coalign.data.files.columnar import class_names
from coalign.data.layouts import known_layout
from coalign.data.media.clips import Clip
from coalign.data.media.errors import MediaError
from coalign.data.media.folders import MEDIA_SUFFIXES, VIDEO_SUFFIXES, folder_rows
from coalign.data.media.pictures import Picture
from coalign.data.media.sources import resolve
from coalign.data.media.tars import is_tar, tar_rows, tars_of
from coalign.data.messages import FieldError, describe
from coalign.data.records import Source
from coalign.data.rows import Row, iter_rows

IMAGE_COLUMNS = ("image", "picture", "img", "image_path", "image_file", "images", "jpg", "png", "webp")
VIDEO_COLUMNS = ("video", "clip", "video_path", "video_file", "videos", "mp4", "webm")
FILE_COLUMNS = ("file_name", "file", "filepath", "path")
"""Columns with the path of a picture or a clip: its suffix says which."""
CAPTION_COLUMNS = (
    "captions",
    "caption",
    "texts",
    "text",
    "sentences",
    "sentence",
    "title",
    "alt_text",
    "txt",
)
LABEL_COLUMNS = ("label", "classname", "class_name", "class", "category", "cls")
ID_COLUMNS = ("id", "image_id", "video_id", "key", "__key__")

MediaKind = Literal["image", "video"]
Part = Literal["captions", "label"]


@dataclass(frozen=True)
class MediaRecord:
    """A picture or a clip, and what is said of it.

    Attributes:
        id: unique among the records that were read together.
        picture, clip: the one that it is; the other is None.
        captions: none to several.
        label: the name of its class; None where it has none.
        more: the other columns.
        source: where it was read.
    """

    id: str
    picture: Picture | None
    clip: Clip | None
    captions: tuple[str, ...] = ()
    label: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    source: Source = field(default=Source("<memory>"))

    @property
    def caption(self) -> str:
        """Its first caption; empty where it has none."""
        return self.captions[0] if self.captions else ""

    def problem(self, field: str, problem: str, expected: str) -> RecordProblem:
        """Something wrong with a field of this record, at its place in the file."""
        return self.source.problem(field, problem, expected)


@dataclass(frozen=True)
class MediaSet:
    """What was read.

    Attributes:
        records: the usable ones, in order.
        problems: everything wrong with the others.
        columns: part (`image` or `video`, `captions`, `label`) to the column that plays it.
        unused: columns that are kept beside the records.
        counts: records by what they have: `with a caption`, `with several captions`, `with a label`.
    """

    records: list[MediaRecord]
    kind: MediaKind
    source: str
    problems: list[RecordProblem] = field(default_factory=list)
    columns: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def counts(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for one in self.records:
            found["with a caption"] += bool(one.captions)
            found["with several captions"] += len(one.captions) > 1
            found["with a label"] += one.label is not None
        return +found


def read_media(
    source: str | Path,
    *,
    kind: MediaKind | None = None,
    needs: Sequence[Part] = (),
    split: str = "train",
    on_bad_record: Literal["fail", "skip"] = "fail",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> MediaSet:
    """Read records of pictures or of clips.

    Args:
        source: see the module; several shards also as a glob or as `shard-{000..011}.tar`.
        kind: what is wanted, where a source has both.
        needs: what every record must have.
        split: of a data set of the hub or on disk, or of a folder whose folders are named by splits.
        on_bad_record: `skip` leaves bad records out; they are in `problems`.
        limit: read only the first rows.
        columns: part (`image`, `video`, `captions`, `label`, `id`) to the column that plays it.

    Raises:
        DataError: the source cannot be read, has no column with pictures or clips, a record is bad (under `fail`), or
            none is usable.
    """
    found = scan_media(source, kind=kind, needs=needs, split=split, limit=limit, columns=columns)
    if found.problems and on_bad_record == "fail":
        raise DataError(
            f"{source}: {len(found.problems)} of {len(found.problems) + len(found)} records cannot be used.",
            found.problems,
            hint="Correct them, or leave them out with --on-bad-record skip.",
        )
    if not found.records:
        raise DataError(f"{source}: no record can be used.", found.problems)
    return found


def scan_media(
    source: str | Path,
    *,
    kind: MediaKind | None = None,
    needs: Sequence[Part] = (),
    split: str = "train",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> MediaSet:
    """As `read_media`, but bad records never raise: they are in `problems`.

    Raises:
        DataError: the source cannot be read, or has no column with pictures or clips.
    """
    name = str(source)
    rows = itertools.islice(media_rows(name, split, kind), limit)
    first = list(itertools.islice(rows, 100))
    values = [row.value for row in first if row.value is not None]
    if not values:
        raise DataError(
            f"{name}: none of the first rows can be read.", [one.problem for one in first if one.problem]
        )
    found = columns_of(values, name, kind, columns or {})
    what: MediaKind = "video" if "video" in found else "image"
    classes = _class_names(name, split, found.get("label"), first[0])
    problems: list[RecordProblem] = []
    records: list[MediaRecord] = []
    for row in itertools.chain(first, rows):
        place = row.source(name)
        if row.value is None:
            problems += [row.problem] if row.problem else []
            continue
        try:
            one = _record(row.value, found, what, needs, place, folder_of(row, name))
            records.append(
                one if classes is None else replace(one, label=_named(one.label, classes, found["label"]))
            )
        except FieldError as error:
            problems.append(place.problem(error.field or "row", error.problem, error.expected))
    _assert_ids(records, problems)
    names = dict.fromkeys(key for value in values for key in value)
    unused = tuple(one for one in names if one not in found.values() and not one.startswith("__"))
    return MediaSet(records, what, name, problems, found, unused)


def _class_names(name: str, split: str, column: str | None, first: Row) -> list[str] | None:
    """Of a column with the numbers of classes, where the data set tells their names."""
    value = None if column is None or first.value is None else first.value.get(column)
    if column is None or not isinstance(value, int):
        return None
    file = Path(first.file or name).expanduser()
    if file.is_file() and file.suffix != ".parquet":
        return None
    return class_names(file if file.exists() else name, split, column)


def _named(label: str | None, classes: Sequence[str], column: str) -> str | None:
    if label is None or label == "-1":  # what datasets writes for a class that is not known
        return None
    if not label.isdecimal() or int(label) >= len(classes):
        raise FieldError(f"the class {label}", f"0 to {len(classes) - 1}", column)
    return classes[int(label)]


def media_rows(name: str, split: str = "train", kind: MediaKind | None = None) -> Iterator[Row]:
    """The rows of any source of media, as `read_media` takes it."""
    path = Path(name).expanduser()
    if is_tar(name):
        return tar_rows(tars_of(name))
    if path.is_dir():
        found = folder_rows(path, split, kind)
        if found is not None:
            return found
    return iter_rows(path if path.exists() else name, split, CAPTION_COLUMNS)


def is_media(source: str | Path, split: str = "train") -> bool:
    """Whether a source holds pictures or clips: a folder or tar of them, or rows with a column of them and no prompts.
    False also where it cannot be read: whoever reads it says why.
    """
    name = str(source)
    path = Path(name).expanduser()
    if name == "-":
        return False
    if is_tar(name):
        return True
    try:
        if path.is_dir() and folder_rows(path, split, "image") is not None:
            return True
        values = [row.value for row in itertools.islice(media_rows(name, split), 20) if row.value is not None]
        if not values or any(one in value for value in values for one in ("messages", "prompt", "chosen")):
            return False
        if known_layout(values[0]) is not None:
            return False
        columns_of(values, name, None, {})
    except DataError:
        return False
    return True


def folder_of(row: Row, name: str) -> Path | None:
    """Where the relative paths of a row start: beside the file that holds it."""
    path = Path(row.file or name).expanduser()
    return path.parent if path.is_file() else path if path.is_dir() else None


def columns_of(
    values: Sequence[Mapping[str, Any]], name: str, kind: MediaKind | None, given: Mapping[str, str]
) -> dict[str, str]:
    """Part to column.

    Raises:
        DataError: no column, or no one column, for the picture or clip.
    """
    names = list(dict.fromkeys(key for value in values for key in value))
    for part, column in given.items():
        if column not in names:
            raise DataError(f"{name}: no column {column!r} (for {part}), only: {', '.join(names)}.")
    found = {part: column for part, column in given.items() if part in ("image", "video")}
    if not found:
        found = _media_column(values, names, kind)
    if len(found) != 1:
        raise DataError(
            f"{name}: {'no column with pictures or clips' if not found else 'pictures and clips'} among: {', '.join(names)}.",
            hint="Both kinds: say which is meant (image or video)."
            if found
            else f"Pictures are in {', '.join(IMAGE_COLUMNS[:3])}, clips in {', '.join(VIDEO_COLUMNS[:2])}, either in "
            f"{FILE_COLUMNS[0]}; or name the column.",
        )
    for part, options in (("captions", CAPTION_COLUMNS), ("label", LABEL_COLUMNS), ("id", ID_COLUMNS)):
        column = given.get(part) or next((one for one in options if one in names), None)
        if column is not None:
            found[part] = column
    return found


def _media_column(
    values: Sequence[Mapping[str, Any]], names: Sequence[str], kind: MediaKind | None
) -> dict[str, str]:
    found = {}
    for part, options in (("image", IMAGE_COLUMNS), ("video", VIDEO_COLUMNS)):
        column = next((one for one in options if one in names), None)
        if column is not None and kind in (None, part):
            found[part] = column
    if found:
        return found
    for column in FILE_COLUMNS:
        texts = [str(value[column]) for value in values if isinstance(value.get(column), str)]
        suffixes = {Path(one).suffix.lower() for one in texts}
        if texts and suffixes <= set(MEDIA_SUFFIXES):
            what = "video" if suffixes & set(VIDEO_SUFFIXES) else "image"
            return {what: column} if kind in (None, what) else {}
    return {}


def _record(
    value: Mapping[str, Any],
    columns: Mapping[str, str],
    kind: MediaKind,
    needs: Sequence[Part],
    place: Source,
    folder: Path | None,
) -> MediaRecord:
    captions = _captions(value.get(columns.get("captions", "")), columns.get("captions", "captions"))
    label = _label(value.get(columns.get("label", "")), columns.get("label", "label"))
    if "captions" in needs and not captions:
        raise FieldError("missing", "a text that is not empty", columns.get("captions", "captions"))
    if "label" in needs and label is None:
        raise FieldError("missing", "the name of a class", columns.get("label", "label"))
    media, column = _single(value.get(columns[kind]), columns[kind]), columns[kind]
    if media is None or media == "":
        raise FieldError("missing", "a path, bytes, base64 or a data URL", column)
    try:
        resolve(media, folder=folder)
        picture = Picture(media, folder=folder) if kind == "image" else None
        clip = Clip(media, folder=folder) if kind == "video" else None
    except MediaError as error:
        raise error.of_field(column) from error
    more = {key: one for key, one in value.items() if key not in columns.values()}
    own = value.get(columns.get("id", ""))
    return MediaRecord(str(place.index if own is None else own), picture, clip, captions, label, more, place)


def _single(value: Any, column: str) -> Any:
    """The one picture of a list that holds one."""
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise FieldError(f"a list of {len(value)}", "one picture or clip a record", column)
    return value[0]


def _captions(value: Any, column: str) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(one, str) for one in listed):
        raise FieldError(describe(value), "a text, or a list of texts", column)
    if not all(one.strip() for one in listed):
        raise FieldError("a caption that is empty", "texts that are not", column)
    return tuple(listed)


def _label(value: Any, column: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise FieldError(describe(value), "the name or the number of a class", column)
    return str(value)


def _assert_ids(records: Iterable[MediaRecord], problems: list[RecordProblem]) -> None:
    seen: set[str] = set()
    for one in records:
        if one.id in seen:
            problems.append(one.problem("id", f"{one.id!r} twice", "one id a record"))
        seen.add(one.id)
