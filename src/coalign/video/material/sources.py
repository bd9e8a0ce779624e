"""Where the frames of a video come from, as records name it: a video file, a folder of pictures, or ready features."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.data.media.clips import NEAR, Clip
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import open_picture
from coalign.data.messages import FieldError, describe
from coalign.data.subtitles import parse_seconds

if TYPE_CHECKING:
    from PIL.Image import Image

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
        fps: pictures a second of a folder, and of ready features; None: as they are asked for.
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
        if self.video.is_dir():
            return self._pictures(seconds)
        if self.start is None and self.end is None:
            return ((time, frame.picture) for time, frame in Clip(self.video).frames_every(seconds))
        return self._stretch(seconds)

    def at(self, time: float) -> Image:
        """The picture that is shown so many seconds after the start of the stretch; the last one for a time after the end.

        Raises:
            MediaError: see `every`.
        """
        assert self.video is not None
        if self.video.is_dir():
            files = self._files()
            return open_picture(files[min(round(time * (self.fps or 1.0)), len(files) - 1)])
        clip = Clip(self.video)
        (frame,) = clip.frames_at([min((self.start or 0.0) + time, clip.info.seconds)])
        return frame.picture

    def evenly(self, count: int, fps: float) -> list[Image]:
        """At most `count` pictures, of those every `1 / fps` seconds, evenly spread from the first to the last.

        Raises:
            MediaError: see `every`.
        """
        found = [picture for _, picture in self.every(1 / fps)]
        if len(found) <= count:
            return found
        step = (len(found) - 1) / max(count - 1, 1)
        return [found[round(place * step)] for place in range(count)]

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

    def _stretch(self, seconds: float) -> Iterator[tuple[float, Image]]:
        clip, begin = Clip(self.video), self.start or 0.0
        end = clip.info.seconds if self.end is None else min(self.end, clip.info.seconds)
        count = max(math.ceil((end - begin) / seconds - NEAR), 1)
        times = [begin + number * seconds for number in range(count)]
        for time, frame in zip(times, clip.frames_at(times), strict=True):
            yield time - begin, frame.picture

    def _pictures(self, seconds: float) -> Iterator[tuple[float, Image]]:
        files = self._files()
        rate, begin = self.fps or 1 / seconds, self.start or 0.0
        last = (len(files) - 1) / rate if self.end is None else self.end
        number = 0
        while (time := begin + number * seconds) <= last + NEAR and round(time * rate) < len(files):
            yield time - begin, open_picture(files[round(time * rate)])
            number += 1

    def _files(self) -> list[Path]:
        assert self.video is not None
        files = sorted(one for one in self.video.iterdir() if one.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise MediaError(
                str(self.video), "no pictures in it", f"files such as {', '.join(PICTURE_SUFFIXES)}"
            )
        return files


def parse_video(columns: Mapping[str, Any], folder: Path, *, required: bool = True) -> Path | None:
    """The video file or folder of pictures that a record names, relative to the file of records.

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
    return parse_path(columns[name], name, folder)


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
