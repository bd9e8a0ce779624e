"""Where the frames of a video come from, as records name it: a video file, a folder of pictures, or ready features."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from coalign.core.cache import cache_root
from coalign.core.errors import RecordProblem
from coalign.core.files import atomic_path
from coalign.data.files.subtitles import parse_seconds
from coalign.data.media.clips import NEAR, Clip
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import open_picture
from coalign.data.media.sources import LONGEST_PATH, resolve
from coalign.data.messages import FieldError, describe
from coalign.data.rows import Row, iter_rows, parse_each

if TYPE_CHECKING:
    from PIL.Image import Image

Made = TypeVar("Made")
VIDEO_COLUMNS = ("video", "video_path", "clip", "path", "file")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".gif")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FEATURE_SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")


@dataclass(frozen=True)
class Frames:
    """Frames of one video, none of them decoded yet.

    Attributes:
        id: of the record.
        video: a video file, or a folder of pictures in the order of their names; None where there are only features.
        fps: pictures a second of a folder, and of ready features; None: one.
        start, end: seconds of the stretch that is meant; None: all of it.
    """

    id: str
    video: Path | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None

    def every(self, seconds: float) -> Iterator[tuple[float, Image]]:
        """(time from the start of the stretch, picture) every so many seconds, first at 0.

        Raises:
            MediaError: a file that cannot be decoded, or a stretch that begins after its end.
        """
        assert self.video is not None
        if self.start is None and self.end is None and not self.video.is_dir():
            for time, frame in opened(self.video).frames_every(seconds):
                yield time, frame.picture
            return
        begin, _ = self._ends()
        times = self._times(seconds)
        for time, picture in zip(times, self._shown(times), strict=True):
            yield time - begin, picture

    def at(self, time: float) -> Image:
        """The picture that is shown so many seconds after the start of the stretch; the last one for a time after the end.

        Raises:
            MediaError: see `every`.
        """
        begin, end = self._ends()
        return next(self._shown([min(begin + time, end)]))

    def evenly(self, count: int, fps: float) -> list[Image]:
        """At most `count` pictures, of those every `1 / fps` seconds, evenly spread from the first to the last; these alone
        are kept.

        Raises:
            MediaError: see `every`.
        """
        times = self._times(1 / fps)
        if len(times) > count:
            step = (len(times) - 1) / max(count - 1, 1)
            times = [times[round(place * step)] for place in range(count)]
        return list(self._shown(times))

    def content(self) -> str:
        """What tells these frames from others: a hash over the bytes of the file, or of the folder's pictures by their names, with
        rate and stretch.
        """
        assert self.video is not None
        whole = hashlib.sha256(f"{self.fps} {self.start} {self.end}".encode())
        for file in self._files() if self.video.is_dir() else [self.video]:
            with file.open("rb") as data:
                whole.update(hashlib.file_digest(data, "sha256").digest())
        return whole.hexdigest()

    def _ends(self) -> tuple[float, float]:
        """First and last second of the stretch in the file."""
        assert self.video is not None
        if self.video.is_dir():
            last = (len(self._files()) - 1) / (self.fps or 1.0)
        else:
            last = opened(self.video).info.seconds
        begin = self.start or 0.0
        if begin > last:
            raise MediaError(
                str(self.video), f"no frame at {begin:g} s", f"a start up to its end, {last:.3f} s"
            )
        return begin, last if self.end is None else min(self.end, last)

    def _times(self, seconds: float) -> list[float]:
        """Places in the file every so many seconds of the stretch; a folder's last picture is one, a clip's end is none."""
        assert self.video is not None
        begin, end = self._ends()
        whole = (end - begin) / seconds
        count = math.floor(whole + NEAR) + 1 if self.video.is_dir() else math.ceil(whole - NEAR)
        return [begin + number * seconds for number in range(max(count, 1))]

    def _shown(self, times: Sequence[float]) -> Iterator[Image]:
        assert self.video is not None
        if not self.video.is_dir():
            return (frame.picture for frame in opened(self.video).frames_at(times))
        files, rate = self._files(), self.fps or 1.0
        return (open_picture(files[min(round(one * rate), len(files) - 1)]) for one in times)

    def _files(self) -> list[Path]:
        assert self.video is not None
        files = sorted(one for one in self.video.iterdir() if one.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise MediaError(
                str(self.video), "no pictures in it", f"files such as {', '.join(PICTURE_SUFFIXES)}"
            )
        return files


def opened(path: Path) -> Clip:
    """A clip, whose times are found once as long as the file stays as it is."""
    about = path.stat()
    return _opened(path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _opened(path: Path, *_: int) -> Clip:
    return Clip(path)


def parse_video(columns: Mapping[str, Any], folder: Path, *, required: bool = True) -> Path | None:
    """The video file or folder of pictures that a record names, relative to the file of records; a clip that is in the record
    (a hub feature, bytes, base64, a data URL) is laid into the cache.

    Raises:
        FieldError: none is named, or it is not there.
    """
    name = next((one for one in (*VIDEO_COLUMNS, "frames") if columns.get(one)), None)
    if name is None:
        if required:
            raise FieldError(
                "missing", f"a path under one of {', '.join((*VIDEO_COLUMNS, 'frames'))}", "video"
            )
        return None
    value = columns[name]
    if isinstance(value, str) and len(value) <= LONGEST_PATH and not value.startswith("data:"):
        return parse_path(value, name, folder)
    if not isinstance(value, str | bytes | Mapping):
        raise FieldError(describe(value), "a path, or a clip in the record", name)
    try:
        found, called = resolve(value, None, folder)
    except MediaError as error:
        raise error.of_field(name) from error
    return _stored(found, called) if isinstance(found, bytes) else found


def _stored(data: bytes, called: str) -> Path:
    """A clip that lies in a record as a file in the cache, under its content."""
    suffix = Path(called).suffix if Path(called).suffix.lower() in VIDEO_SUFFIXES else ".mp4"
    path = cache_root() / "clips" / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    return path


def parse_path(value: Any, field: str, folder: Path) -> Path:
    """A path of a record that exists, relative to `folder`.

    Raises:
        FieldError: not text, an address, or nothing there.
    """
    if not isinstance(value, str):
        raise FieldError(describe(value), "a path", field)
    if "://" in value:
        raise FieldError("an address", "a file on this machine: fetch it first", field)
    path = folder / value
    if not path.exists():
        raise FieldError(f"no such file ({value})", "a path relative to the file of records", field)
    return path


def parse_fps(columns: Mapping[str, Any]) -> float | None:
    """Frames a second of a record's features or pictures.

    Raises:
        FieldError: not a number above 0.
    """
    if columns.get("fps") is None:
        return None
    fps = parse_seconds(columns["fps"], "fps")
    if fps == 0:
        raise FieldError("0", "a number above 0", "fps")
    return fps


def read_material(
    source: str | Path,
    of_video: Callable[[Path, Path | None], Made],
    of_row: Callable[[Row, Path], Made],
    *,
    suffixes: Sequence[str],
    field: str,
) -> tuple[list[Made], list[RecordProblem]]:
    """What a file of records says of videos, or a folder of videos with a text beside each; and what is wrong with the rest.

    Args:
        of_video: a video of a folder and its text, None where there is none, to what is made of both.
        of_row: a record, and the path of all, to the same. Both raise `FieldError`.
        suffixes: of texts, in the order in which they are looked for.
        field: of a problem that names none, in a folder.
    """
    path = Path(source)
    problems: list[RecordProblem] = []
    files = [one for one in path.iterdir() if one.suffix.lower() in VIDEO_SUFFIXES] if path.is_dir() else []
    if not files:
        return list(parse_each(iter_rows(source), source, lambda row: of_row(row, path), problems)), problems
    made = []
    for video in sorted(files):
        beside = next((one for each in suffixes if (one := video.with_suffix(each)).is_file()), None)
        try:
            made.append(of_video(video, beside))
        except FieldError as error:
            place = str(beside or video)
            problems.append(RecordProblem(place, None, error.field or field, error.problem, error.expected))
    return made, problems
