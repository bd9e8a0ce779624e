"""Clips with captions: records of a file, or a folder of clips with a .txt beside each.

A record names a `video` (file, or `frames`: a folder of pictures), `caption` (or `text`, `sentence`) or `captions`, and where they
are there `video_id`, and `start` and `end` in seconds of the stretch that is meant. Records of one `video_id` and stretch are one
clip with several captions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.files.subtitles import parse_seconds, utf8_text
from coalign.data.messages import FieldError, describe, parse_text
from coalign.data.rows import Row
from coalign.video.material.sources import Frames, parse_fps, parse_video, read_material

CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "sentence", "sentences")


@dataclass(frozen=True)
class CaptionedClip:
    """A clip and what is said of it.

    Attributes:
        frames: what its pictures come from.
        captions: one at least.
        source, line: where it was read.
    """

    id: str
    frames: Frames
    captions: tuple[str, ...]
    source: str = ""
    line: int | None = None

    def problem(self, field: str, problem: str, expected: str) -> RecordProblem:
        return RecordProblem(self.source, self.line, field, problem, expected)


def read_clips(source: str | Path) -> list[CaptionedClip]:
    """All clips of a file of records or of a folder, in the order of their first record. Several stretches of one `video_id`
    have them in their ids.

    Raises:
        DataError: records that cannot be used, each as `file:line: field: problem, expected`; or none.
    """
    read, problems = read_material(source, _of_video, _record, suffixes=(".txt",), field="caption")
    found: dict[tuple[str, Any, Any], CaptionedClip] = {}
    for one in read:
        key = (one.id, one.frames.start, one.frames.end)
        known = found.get(key)
        found[key] = one if known is None else replace(known, captions=known.captions + one.captions)
    if problems:
        raise DataError(f"{source}: {len(problems)} records cannot be used.", problems)
    if not found:
        raise DataError(f"{source}: no clips were found.")
    several = Counter(one.id for one in found.values())
    return [
        replace(
            one,
            id=f"{one.id}@{one.frames.start or 0:g}-{'end' if one.frames.end is None else format(one.frames.end, 'g')}",
        )
        if several[one.id] > 1
        else one
        for one in found.values()
    ]


def pairs_of(clips: Sequence[CaptionedClip]) -> list[tuple[int, str]]:
    """(place of the clip, caption) of every caption, in order."""
    return [(place, text) for place, one in enumerate(clips) for text in one.captions]


def _of_video(video: Path, beside: Path | None) -> CaptionedClip:
    if beside is None:
        raise FieldError("none", f"{video.stem}.txt beside it", "caption")
    lines = tuple(line.strip() for line in utf8_text(beside).splitlines() if line.strip())
    if not lines:
        raise FieldError("empty", "a caption a line, one at least", "caption")
    return CaptionedClip(video.stem, Frames(video.stem, video), lines, str(video))


def _record(row: Row, path: Path) -> CaptionedClip:
    columns = row.value or {}
    folder = Path(row.file).parent if row.file else path.parent
    video = parse_video(columns, folder)
    assert video is not None
    stretch = [
        parse_seconds(columns[name], name) if columns.get(name) is not None else None
        for name in ("start", "end")
    ]
    start, end = stretch
    if start is not None and end is not None and end <= start:
        raise FieldError(f"{end:g}", f"a time after start ({start:g})", "end")
    name = str(columns.get("video_id") or columns.get("id") or video.stem)
    frames = Frames(name, video, parse_fps(columns), start, end)
    return CaptionedClip(name, frames, _captions(columns), row.file or str(path), row.line)


def _captions(columns: Mapping[str, Any]) -> tuple[str, ...]:
    field = next((one for one in CAPTION_COLUMNS if columns.get(one) is not None), None)
    if field is None:
        raise FieldError("missing", f"a text under one of {', '.join(CAPTION_COLUMNS)}", "caption")
    value = columns[field]
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise FieldError("an empty list", "a caption at least", field)
    try:
        return tuple(parse_text(one).strip() for one in texts)
    except FieldError as error:
        error.field = field
        if isinstance(value, list):
            error.problem = f"one of them is {describe(next(one for one in texts if not isinstance(one, str) or not one.strip()))}"
        raise
