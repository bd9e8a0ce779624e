"""Shots: frames in order, the exposure of each where they alternate, and the radiance that is wanted where it is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.core.errors import DataError, RecordProblem
from coalign.data.media.clips import Clip
from coalign.data.media.errors import MediaError
from coalign.data.media.folders import IMAGE_SUFFIXES
from coalign.data.media.hdr import HDR_SUFFIXES, read_frame, read_hdr
from coalign.data.media.pictures import picture_info
from coalign.data.media.sources import resolve
from coalign.data.messages import FieldError, describe
from coalign.data.records import Source
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPOSURES_FILE = "exposures.txt"
"""Beside the frames of a folder: one exposure in stops a line, as DeepHDRVideo has it."""
FEWEST = 2


@dataclass(frozen=True)
class Shot:
    """Frames of one camera.

    Attributes:
        frames: pictures in order, or None for those of `clip`.
        exposures: of each frame, relative to the darkest; None where nothing is said: an ordinary shot.
        targets: radiance of each frame, 1 where the darkest exposure saturates.
        folder: that relative paths start from.
    """

    id: str
    frames: tuple[Any, ...] | None
    clip: Clip | None = None
    exposures: tuple[float, ...] | None = None
    targets: tuple[Any, ...] | None = None
    folder: Path | None = None
    source: Source = field(default=Source("<memory>"), compare=False)

    @cached_property
    def count(self) -> int:
        """Frames; those of a clip are counted by decoding."""
        if self.frames is not None:
            return len(self.frames)
        assert self.clip is not None
        return self.clip.info.frames

    @property
    def is_linear(self) -> bool:
        """Whether the frames are radiance (OpenEXR, Radiance)."""
        return self.frames is not None and _is_hdr(self.frames[0])

    def read(self, places: Sequence[int]) -> list[NDArray[np.float32]]:
        """Frames [H, W, 3]: from 0 to 1 as they were taken, or radiance with negative values set to 0.

        Raises:
            MediaError: a frame cannot be read.
        """
        if self.frames is None:
            assert self.clip is not None
            times = self.clip.times
            found = {one.index: one for one in self.clip.frames_at(times[place] for place in {*places})}
            return [np.divide(found[place].pixels, 255, dtype=np.float32) for place in places]
        read = {place: self._frame(self.frames[place]) for place in {*places}}
        return [read[place] for place in places]

    def _frame(self, frame: Any) -> NDArray[np.float32]:
        if self.is_linear:
            return read_hdr(frame, folder=self.folder, negative="clip")
        return read_frame(frame, folder=self.folder)

    def target(self, place: int) -> NDArray[np.float32] | None:
        """[H, W, 3] radiance of a frame, where it is known; negative values are set to 0."""
        if self.targets is None:
            return None
        return read_hdr(self.targets[place], folder=self.folder, negative="clip")


def read_shots(source: str, *, exposures: bool, limit: int | None = None) -> list[Shot]:
    """Shots from rows or from folders.

    Rows have `frames` (pictures in order; relative paths start beside the file) or `video`, and as far as they are there
    `exposures` (ratios) or `stops` for each frame, `targets` (OpenEXR or Radiance) for each, `id`. A folder is a shot, or
    holds one a folder: its pictures in the order of their names, `exposures.txt` with one exposure in stops a line, and HDR
    files beside ordinary frames as targets.

    Args:
        exposures: every shot must have them.

    Raises:
        DataError: the source cannot be read, or a shot cannot be used; every problem is listed.
    """
    problems: list[RecordProblem] = []
    path = Path(source).expanduser()
    rows = _folders(path) if path.is_dir() and not (path / "status.json").is_file() else iter_rows(source)

    def read(row: Row) -> Shot:
        return _shot(row, source, exposures)

    shots = []
    for one in parse_each(rows, source, read, problems):
        if limit is not None and len(shots) >= limit:
            break
        shots.append(one)
    if problems:
        raise DataError(f"{source}: {len(problems)} problems.", problems)
    if not shots:
        raise DataError(f"{source}: no shot.")
    assert_unique((one.id for one in shots), source)
    return shots


def _shot(row: Row, source: str, needed: bool) -> Shot:
    value = row.value or {}
    file = Path(row.file or source).expanduser()
    folder = file.parent if file.is_file() else file if file.is_dir() else None
    name = str(value.get("id", row.index))
    given, video = value.get("frames"), value.get("video")
    frames = tuple(given) if isinstance(given, list | tuple) else ()
    if video is None and len(frames) < FEWEST:
        raise FieldError(
            f"{len(frames)} frames" if isinstance(given, list | tuple) else describe(given),
            f"a list of at least {FEWEST} pictures, or `video`",
            "frames",
        )
    try:
        if video is not None:
            shot = Shot(name, None, Clip(video, folder=folder), folder=folder)
            count = shot.count
        else:
            _assert_alike(frames, folder)
            count = len(frames)
        if count < FEWEST:
            raise FieldError(f"{count} frames", f"at least {FEWEST}", "video")
        targets = _targets(value.get("targets"), count, folder)
    except MediaError as error:
        raise error.of_field("video" if video is not None else "frames") from error
    ratios = _exposures(value, count)
    if ratios is None and needed:
        raise FieldError("missing", "an exposure of each frame (or `stops`)", "exposures")
    clip = Clip(video, folder=folder) if video is not None else None
    return Shot(name, None if clip else frames, clip, ratios, targets, folder, row.source(source))


def _assert_alike(frames: Sequence[Any], folder: Path | None) -> None:
    """Refuse frames of several sizes, or radiance among ordinary pictures; of radiance only that the files are there."""
    kinds = {_is_hdr(one) for one in frames}
    if len(kinds) > 1:
        raise FieldError("OpenEXR or Radiance files among other pictures", "frames of one kind", "frames")
    if kinds == {True}:
        for one in frames:
            resolve(one, folder=folder)
        return
    sizes = [picture_info(one, folder=folder) for one in frames]
    first = (sizes[0].width, sizes[0].height)
    other = next((place for place, one in enumerate(sizes) if (one.width, one.height) != first), None)
    if other is not None:
        raise FieldError(
            f"frame {other} has {sizes[other].width} x {sizes[other].height} pixels",
            f"{first[0]} x {first[1]} as the first",
            "frames",
        )


def _exposures(value: dict[str, Any], count: int) -> tuple[float, ...] | None:
    """Relative to the darkest: ratios as they are, stops as powers of two."""
    name = next((one for one in ("exposures", "stops") if value.get(one) is not None), None)
    if name is None:
        return None
    given = value[name]
    numbers = isinstance(given, list | tuple) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in given
    )
    if not numbers or (name == "exposures" and any(one <= 0 for one in given)):
        kind = "numbers above 0" if name == "exposures" else "numbers"
        raise FieldError(describe(given), f"a list of {kind}", name)
    if len(given) != count:
        raise FieldError(f"{len(given)} for {count} frames", "one for each frame", name)
    ratios = [float(one) if name == "exposures" else 2.0 ** float(one) for one in given]
    return tuple(one / min(ratios) for one in ratios)


def _targets(given: Any, count: int, folder: Path | None) -> tuple[Any, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list | tuple) or len(given) != count:
        found = f"{len(given)} for {count} frames" if isinstance(given, list | tuple) else describe(given)
        raise FieldError(found, "an OpenEXR or Radiance file for each frame", "targets")
    for one in given:
        resolve(one, folder=folder)
    return tuple(given)


def _is_hdr(frame: Any) -> bool:
    path = frame.get("path") if isinstance(frame, dict) else frame
    return isinstance(path, str | Path) and Path(path).suffix.lower() in HDR_SUFFIXES


def _folders(path: Path) -> Iterator[Row]:
    """A folder of frames as a row, or each folder below it."""
    places = [path] if _frames_in(path) else sorted(one for one in path.iterdir() if one.is_dir())
    found = [one for one in places if _frames_in(one)]
    if not found:
        raise DataError(f"{path}: no frames in it or in a folder below it.")
    for index, place in enumerate(found):
        files = _frames_in(place)
        radiance = [str(one) for one in files if one.suffix.lower() in HDR_SUFFIXES]
        plain = [str(one) for one in files if one.suffix.lower() not in HDR_SUFFIXES]
        value: dict[str, Any] = {"id": place.name, "frames": plain or radiance}
        if plain and radiance:
            value["targets"] = radiance
        stops = next((one for one in place.iterdir() if one.name.lower() == EXPOSURES_FILE), None)
        problem = None
        if stops is not None:
            try:
                value["stops"] = [float(one) for one in stops.read_text("utf-8").split()]
            except ValueError:
                problem = RecordProblem(
                    str(stops), None, "stops", "not numbers", "one exposure in stops a line"
                )
        yield Row(None if problem else value, None, index, problem, file=str(place.absolute()))


def _frames_in(folder: Path) -> list[Path]:
    suffixes = IMAGE_SUFFIXES + HDR_SUFFIXES
    return sorted(one for one in folder.iterdir() if one.is_file() and one.suffix.lower() in suffixes)
