"""A corpus of image-text pairs as a pipeline takes it: rows of `id`, `image` and `caption`, read as they come."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import DataError
from coalign.data.media.pictures import Picture
from coalign.data.media.records import columns_of, folder_of, media_rows
from coalign.data.media.sources import Stretch, exists
from coalign.data.rows import Row as FileRow
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Step
from coalign.loops.steps.usual import Filter

UNREADABLE = "unreadable"
"""Column of a row that is none: what is wrong with it."""
_LOOK_AHEAD = 100


@dataclass(frozen=True)
class PairCorpus:
    """Sources read one after the other, each as `coalign.data.media.records.media_rows` reads it. A picture with several
    captions is as many pairs.

    Args:
        on_bad_record: `fail` at a row that cannot be read, or reject it.
        limit: pairs read of each source.
    """

    sources: tuple[str, ...]
    image_column: str | None = None
    caption_column: str | None = None
    origin_column: str = "origin"
    on_bad_record: Literal["fail", "skip"] = "fail"
    limit: int | None = None

    @classmethod
    def of(cls, config: Any) -> PairCorpus:
        """The corpus that the options name."""
        return cls(
            tuple(config.data), config.image_column, config.caption_column, config.origin_column,
            config.on_bad_record, config.limit,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Row]:
        """Rows with `id`, `image`, `caption`, `origin` where it is said, and the other columns; ids of several sources begin
        with the source.

        Raises:
            DataError: a row that cannot be read (under `fail`), or an id that appears twice.
        """
        several, seen = len(self.sources) > 1, set[int]()
        for source in self.sources:
            for row in itertools.islice(self._pairs(source), self.limit):
                name = f"{source}:{row['id']}" if several else row["id"]
                if hash(name) in seen:
                    raise DataError(
                        f"{source}: the id {name!r} appears twice.",
                        hint="Give every row its own id, or none.",
                    )
                seen.add(hash(name))
                yield {**row, "id": name}

    def assert_readable(self) -> None:
        """Read the first rows of every source, before a model is loaded.

        Raises:
            DataError: a source that cannot be read, or without a column of pictures or of captions.
        """
        for source in self.sources:
            if "captions" not in self._columns[source]:
                raise DataError(f"{source}: no column with captions.", hint="Name it with --caption-column.")

    @property
    def steps(self) -> list[Step]:
        """What comes before the scores: rows that cannot be read are rejected, where they do not fail."""
        if self.on_bad_record == "fail":
            return []
        return [Filter("readable", lambda row: "not a pair" if UNREADABLE in row else None)]

    def picture(self, row: Row) -> Picture:
        """The picture of a row."""
        return Picture(row["image"])

    @cached_property
    def _columns(self) -> dict[str, dict[str, str]]:
        given = {"image": self.image_column, "captions": self.caption_column}
        found = {}
        for source in self.sources:
            rows = itertools.islice(media_rows(source, kind="image"), _LOOK_AHEAD)
            values = [row.value for row in rows if row.value is not None]
            if not values:
                raise DataError(f"{source}: none of the first {_LOOK_AHEAD} rows can be read.")
            wanted = {part: column for part, column in given.items() if column is not None}
            found[source] = columns_of(values, source, "image", wanted)
        return found

    def _pairs(self, source: str) -> Iterator[Row]:
        columns = self._columns[source]
        image, text = columns["image"], columns["captions"]
        for row in media_rows(source, kind="image"):
            value = row.value
            own = value.get(columns.get("id", "")) if value is not None else None
            name = str(row.index if own is None else own)
            problem = (
                str(row.problem or "unreadable")
                if value is None
                else _problem(row, source, value, image, text)
            )
            if problem:
                if self.on_bad_record == "fail":
                    raise DataError(
                        f"{source} cannot be used.\n{problem}",
                        hint="Correct it, or leave such rows out with --on-bad-record skip.",
                    )
                yield {"id": name, UNREADABLE: problem}
                continue
            assert value is not None
            captions = [value[text]] if isinstance(value[text], str) else list(value[text])
            rest = {key: one for key, one in value.items() if key not in (image, text) and _is_plain(one)}
            origin = rest.pop(self.origin_column, None)
            rest |= {} if origin is None else {"origin": str(origin)}
            shown = portable(value[image], folder_of(row, source))
            for number, caption in enumerate(captions):
                own_name = f"{name}/{number}" if len(captions) > 1 else name
                yield {**rest, "id": own_name, "image": shown, "caption": caption}


def portable(image: Any, folder: Path | None) -> Any:
    """A picture as a row of JSON can name it from anywhere: an absolute path, a stretch of a tar file, or a data URL."""
    if isinstance(image, list) and len(image) == 1:
        return portable(image[0], folder)
    if isinstance(image, Stretch):
        return image.to_json()
    if isinstance(image, Mapping):
        if "offset" in image:  # as an earlier cut wrote it
            return dict(image)
        if image.get("bytes") is not None:
            return portable(image["bytes"], folder)
        return portable(image.get("path"), folder)
    if isinstance(image, bytes | bytearray):
        return "data:image/*;base64," + base64.b64encode(image).decode("ascii")
    if isinstance(image, str | Path):
        text = str(image)
        if text.startswith("data:") or "://" in text or len(text) > 4096:
            return text
        path = (folder / Path(text).expanduser()) if folder is not None else Path(text).expanduser()
        return str(path.absolute()) if exists(path, text) or not _is_base64(text) else text
    return image


def _is_base64(text: str) -> bool:
    """Whether a text without a file behind it is rather the picture itself."""
    return len(text) > 255


def _problem(row: FileRow, source: str, value: Mapping[str, Any], image: str, text: str) -> str:
    """What is wrong with a row, as `file:line: field: problem, expected`; empty where nothing is. That its picture cannot be
    decoded is found when it is.
    """
    place = row.source(source)
    if value.get(image) in (None, "", []):
        return str(place.problem(image, "missing", "a picture"))
    captions = value.get(text)
    listed = [captions] if isinstance(captions, str) else captions
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(one, str) for one in listed):
        return str(
            place.problem(
                text, "missing" if not captions else f"is {captions!r:.80}", "a text, or a list of texts"
            )
        )
    return ""


def _is_plain(value: Any) -> bool:
    """Whether a column can stand in a row of JSON."""
    return not isinstance(value, Stretch | bytes | bytearray)
