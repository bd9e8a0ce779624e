"""What `coalign data check` finds in pictures and clips by decoding every one of them."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from coalign.core.errors import RecordProblem
from coalign.core.progress import progress
from coalign.data.media.clips import Clip, ClipInfo
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import MAX_PIXELS, Picture, open_picture, picture_hash
from coalign.data.media.records import MediaKind, MediaRecord, MediaSet
from coalign.report.pictures import MOST_PICTURES, Shown, Thumbnail, thumbnail

FRAMES_SHOWN = 4
"""Frames of a clip in the report."""
CAPTIONS_SHOWN = 3
"""Captions of a record in the report."""
SHOWN_GROUPS = 20
"""Groups of equal pictures in the terminal."""
SMALLEST = 16
"""Pixels of a side below which a picture is warned about."""


@dataclass(frozen=True)
class Spread:
    """Least, middle and largest of a quantity."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        return cls(min(values), statistics.median(values), max(values)) if values else None


@dataclass(frozen=True)
class MediaCheck:
    """The findings.

    Attributes:
        usable: there is at least one record that can be decoded, and none that would stop a run.
        n_records: read and decoded.
        problems: rows that cannot be used, and files that cannot be decoded, each as `file: problem`.
        columns: part to the column that plays it.
        captions: captions of all records; `several` records have more than one, `without` none.
        modes: records by how their pixels are stored.
        formats: records by file format, or codec.
        conversions: what was done to their pixels, and how often.
        sizes: different width x height, the most frequent first.
        width, height, seconds, rate, frames: of all; the last three of clips.
        equal: ids of records with the same pixels, group by group.
        equal_captions: captions that belong to different pictures, with their number.
        labels: records by class.
        variable_rate, turned, miscounted: clips of a variable frame rate, turned by their container, whose container
            states another number of frames.
        shown: for the report.
    """

    source: str
    kind: MediaKind
    usable: bool
    n_records: int
    n_bad: int
    problems: list[RecordProblem]
    columns: dict[str, str]
    unused: tuple[str, ...]
    captions: int = 0
    several: int = 0
    without: int = 0
    modes: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    conversions: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    width: Spread | None = None
    height: Spread | None = None
    seconds: Spread | None = None
    rate: Spread | None = None
    frames: Spread | None = None
    equal: list[list[str]] = field(default_factory=list)
    equal_captions: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    small: int = 0
    variable_rate: int = 0
    turned: int = 0
    miscounted: int = 0
    shown: list[Shown] = field(default_factory=list, repr=False)

    @property
    def what(self) -> str:
        """`pictures` or `clips`."""
        return "pictures" if self.kind == "image" else "clips"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; without the pictures themselves."""
        return {name: value for name, value in asdict(self).items() if name != "shown"}

    def warnings(self) -> list[str]:
        """What may be meant but often is a mistake, one sentence each."""
        equal = sum(map(len, self.equal))
        counts = [
            (
                equal,
                f"Records with the same {self.what[:-1]} as another: {equal:,}, in groups: {len(self.equal):,}.",
            ),
            (
                len(self.equal_captions),
                f"Captions that several {self.what} have: {len(self.equal_captions):,}. To retrieval each of these is right.",
            ),
            (self.small, f"Pictures with a side below {SMALLEST} pixels: {self.small:,}."),
            (
                self.variable_rate,
                f"Clips of a variable frame rate: {self.variable_rate:,}. Frames are taken by time.",
            ),
            (
                self.miscounted,
                f"Clips whose container states another number of frames than can be decoded: {self.miscounted:,}.",
            ),
        ]
        return [text for number, text in counts if number]


@dataclass
class _Seen:
    """What is gathered, record by record."""

    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    conversions: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    clips: list[ClipInfo] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)


def check_media(
    found: MediaSet,
    *,
    thumbnails: bool = False,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    label: str | None = None,
) -> MediaCheck:
    """Decode every picture or clip that `scan_media` found.

    Args:
        thumbnails: keep small pictures for a report.
        skip_bad: records that cannot be used do not make the data unusable.
        max_pixels: larger pictures are refused by their header.
        label: show a progress bar under this name.
    """
    seen = _Seen()
    problems = list(found.problems)
    whole: list[MediaRecord] = []
    shown: list[Shown] = []
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(progress(len(found.records), label, unit="file")) if label else None
        for one in found.records:
            try:
                pictures = _looked_at(one, seen, max_pixels, thumbnails and len(shown) < MOST_PICTURES)
            except MediaError as error:
                column = found.columns.get(found.kind, found.kind)
                problems.append(one.problem(column, f"{error.file}: {error.problem}", error.expected))
            else:
                whole.append(one)
                if pictures:
                    shown.append(Shown(pictures, _told(one), _values(one)))
            if bar:
                bar.advance()
    sizes = [f"{width} x {height}" for width, height in seen.sizes]
    return MediaCheck(
        source=found.source,
        kind=found.kind,
        usable=bool(whole) and (skip_bad or not problems),
        n_records=len(whole),
        n_bad=len(problems),
        problems=problems,
        columns=dict(found.columns),
        unused=found.unused,
        captions=sum(len(one.captions) for one in whole),
        several=sum(len(one.captions) > 1 for one in whole),
        without=sum(not one.captions for one in whole),
        modes=_counted(seen.modes),
        formats=_counted(seen.formats),
        conversions=_counted(seen.conversions),
        sizes=_counted(Counter(sizes)),
        width=Spread.of([width for width, _ in seen.sizes]),
        height=Spread.of([height for _, height in seen.sizes]),
        seconds=Spread.of([one.seconds for one in seen.clips]),
        rate=Spread.of([one.rate for one in seen.clips]),
        frames=Spread.of([one.frames for one in seen.clips]),
        equal=[ids for ids in seen.groups.values() if len(ids) > 1],
        equal_captions=_equal_captions(whole, seen.groups),
        labels=_counted(Counter(one.label for one in whole if one.label is not None)),
        small=sum(min(size) < SMALLEST for size in seen.sizes),
        variable_rate=sum(one.variable for one in seen.clips),
        turned=sum(one.turned for one in seen.clips),
        miscounted=sum(one.stated_frames not in (0, one.frames) for one in seen.clips),
        shown=shown,
    )


def _looked_at(one: MediaRecord, seen: _Seen, max_pixels: int, keep: bool) -> list[Thumbnail]:
    """Decode a record into what was seen, and give its thumbnails where they are kept.

    Raises:
        MediaError: it cannot be decoded; then it is in no count.
    """
    if one.picture is not None:
        return _picture(one, one.picture, seen, max_pixels, keep)
    assert one.clip is not None
    return _clip(one, one.clip, seen, keep)


def _picture(one: MediaRecord, given: Picture, seen: _Seen, max_pixels: int, keep: bool) -> list[Thumbnail]:
    done: Counter[str] = Counter()
    info = given.info()
    picture = open_picture(given, max_pixels=max_pixels, conversions=done)
    seen.modes[info.mode] += 1
    seen.formats[info.format] += 1
    seen.conversions += done
    seen.sizes.append(picture.size)
    seen.groups.setdefault(picture_hash(picture), []).append(one.id)
    return [thumbnail(picture)] if keep else []


def _clip(one: MediaRecord, clip: Clip, seen: _Seen, keep: bool) -> list[Thumbnail]:
    digest = hashlib.sha256()
    for frame in clip.frames():
        digest.update(f"{frame.time:.3f}:{frame.pixels.shape}:".encode())
        digest.update(frame.pixels.tobytes())
    info = clip.info
    seen.formats[info.codec] += 1
    seen.sizes.append((info.width, info.height))
    seen.clips.append(info)
    seen.groups.setdefault(digest.hexdigest(), []).append(one.id)
    if not keep:
        return []
    frames = {frame.index: frame for frame in clip.frames_spread(FRAMES_SHOWN)}
    return [thumbnail(frame.pixels, f"{frame.time:.2f} s") for frame in frames.values()]


def _equal_captions(records: Iterable[MediaRecord], groups: dict[str, list[str]]) -> dict[str, int]:
    """Captions of more than one picture: caption to the number of different pictures that have it."""
    content = {one: digest for digest, ids in groups.items() for one in ids}
    owners: dict[str, set[str]] = {}
    for one in records:
        for caption in one.captions:
            owners.setdefault(" ".join(caption.split()).casefold(), set()).add(content[one.id])
    counts = Counter({caption: len(pictures) for caption, pictures in owners.items() if len(pictures) > 1})
    return _counted(counts)


def _counted(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())


def _told(one: MediaRecord) -> str:
    more = len(one.captions) - CAPTIONS_SHOWN
    told = [*one.captions[:CAPTIONS_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
    return " | ".join(told) or one.label or ""


def _values(one: MediaRecord) -> dict[str, bool | int | float | str | None]:
    label: dict[str, bool | int | float | str | None] = (
        {"label": one.label} if one.label and one.captions else {}
    )
    return {"id": one.id, **label}
