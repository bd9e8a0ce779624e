"""Clips by time: the frame shown at t is the last one whose presentation time is not after t, found by decoding.

Frames are counted by decoding them and timed by their presentation time stamps (PTS), so that a variable frame rate, a
container without a count and a key frame far away change nothing. Times are seconds from the beginning of the container,
as players and transcripts count them. Frames are turned as the container says. A missing frame is neither repeated nor
hidden: every frame carries the time from which it is shown.
"""

from __future__ import annotations

import bisect
import io
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.core.extras import require
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import MAX_PIXELS
from coalign.data.media.sources import resolve
from coalign.data.media.whole import assert_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

READABLE = "a clip that FFmpeg can decode (MP4, MOV, MKV, WebM, AVI, GIF, ...)"
_MICRO = 1_000_000
NEAR = 1e-6
"""Seconds within which two times are the same: time stamps are whole numbers of a time base."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded frame.

    Attributes:
        time: seconds from which it is shown.
        index: 0-based place among the decoded frames of the clip.
        pixels: [height, width, 3] RGB, turned as the container says.
    """

    time: float
    index: int
    pixels: NDArray[np.uint8]

    @property
    def picture(self) -> Image.Image:
        """The same as a picture of Pillow."""
        return require("PIL.Image", "video").fromarray(self.pixels)


@dataclass(frozen=True)
class ClipInfo:
    """What decoding a clip says.

    Attributes:
        width, height: pixels, after the turn.
        frames: that were decoded.
        seconds: the end of the last frame.
        rate: frames a second on average; 0.0 for one frame.
        variable: whether the frames are shown for different lengths of time.
        turned: whether the container has the frames turned or mirrored to be shown.
        stated_frames: what the container says, 0 where it says nothing.
    """

    width: int
    height: int
    frames: int
    seconds: float
    rate: float
    variable: bool
    turned: bool
    codec: str
    stated_frames: int


class Clip:
    """A clip, decoded when frames are asked for.

    Args:
        source: a path, bytes, base64, a data URL, a hub feature (`Video` with `decode=False`) or a member of a tar.
        name: for messages, where the source has none of its own.
        folder: that a relative path starts from.
        max_pixels: of a frame; larger ones are refused by the header.
    """

    def __init__(
        self,
        source: Any,
        *,
        name: str | None = None,
        folder: Path | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._data, self.name = resolve(source, name, folder)
        self._max_pixels = max_pixels

    @cached_property
    def info(self) -> ClipInfo:
        """By decoding the whole clip once.

        Raises:
            MediaError: no clip, half a clip, no frame that can be decoded, a frame without a time.
        """
        return self._found[0]

    @cached_property
    def times(self) -> tuple[float, ...]:
        """Seconds from which each frame is shown; errors are those of `info`."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[ClipInfo, tuple[float, ...]]:
        for _ in self._walked():
            pass
        return self.__dict__["_found"]

    def _walked(self) -> Iterator[tuple[Any, float]]:
        """Every frame and its time; at the end `info` and `times` are known, so that no second pass is needed for them."""
        with self._open() as (container, stream):
            codec, stated, unit = stream.codec_context.name, stream.frames, float(stream.time_base)
            times: list[float] = []
            turn, size, end = False, (0, 0), 0.0
            for frame, time in self._decoded(container, stream):
                if not times:
                    empty = np.empty((frame.height, frame.width, 1), np.uint8)
                    shown = _turned(empty, frame)
                    turn, size = shown is not empty, (shown.shape[1], shown.shape[0])
                times.append(time)
                end = time + _shown_for(frame, stream)
                yield frame, time
        steps = np.diff(times)
        if times[-1] >= end:
            end = times[-1] + (float(np.median(steps)) if len(steps) else 0.0)
        span = times[-1] - times[0]
        # Time stamps are rounded to the time base, so that equal steps may differ by two of its units.
        variable = bool(len(steps)) and float(steps.max() - steps.min()) > max(2.5 * unit, 1e-3)
        rate = (len(times) - 1) / span if span > 0 else 0.0
        info = ClipInfo(*size, len(times), end, rate, variable, turn, codec, stated)
        self.__dict__["_found"] = (info, tuple(times))

    def frames(self) -> Iterator[Frame]:
        """Every frame in the order in which they are shown; errors are those of `info`."""
        for index, (frame, time) in enumerate(self._walked()):
            yield self._frame(frame, time, index)

    def frames_at(self, times: Iterable[float]) -> list[Frame]:
        """The frame that is shown at each of the times, in their order; a time before the first frame gives the first.

        Raises:
            MediaError: see `info`; a time that is negative, not finite, or after the end.
        """
        wanted = [float(one) for one in times]
        for one in wanted:
            if not math.isfinite(one) or not -NEAR <= one <= self.info.seconds + NEAR:
                raise MediaError(
                    self.name,
                    f"no frame at {one:g} s",
                    f"a time from 0 to {self.info.seconds:.3f} s, its end",
                )
        places = [self.index_at(one) for one in wanted]
        found = {one.index: one for one in self._picked(sorted(set(places)))}
        return [found[place] for place in places]

    def frames_every(self, seconds: float) -> Iterator[tuple[float, Frame]]:
        """(time, the frame shown then) at 0, `seconds`, 2 x `seconds`, ... up to the end; one frame in memory at a time.

        Raises:
            MediaError: see `info`.
        """
        if seconds <= 0:
            raise ValueError(f"seconds is {seconds}, expected above 0")
        count = max(math.ceil((self.info.seconds - NEAR) / seconds), 1)
        yield from self._shown([number * seconds for number in range(count)])

    def frames_spread(self, count: int) -> list[Frame]:
        """The frames shown in the middle of `count` parts of equal length; of a short clip the same one several times.

        Raises:
            MediaError: see `info`.
        """
        if count < 1:
            raise ValueError(f"count is {count}, expected at least 1")
        times = [(number + 0.5) * self.info.seconds / count for number in range(count)]
        return [frame for _, frame in self._shown(times)]

    def index_at(self, time: float) -> int:
        """The place of the frame that is shown at `time`; of the first for a time before it."""
        return max(bisect.bisect_right(self.times, time + NEAR) - 1, 0)

    def _shown(self, times: Sequence[float]) -> Iterator[tuple[float, Frame]]:
        """`times` in rising order, each with its frame."""
        places = [self.index_at(one) for one in times]
        frames = self._picked(sorted(set(places)))
        frame: Frame | None = None
        for time, place in zip(times, places, strict=True):
            while frame is None or frame.index != place:
                frame = next(frames)
            yield time, frame

    def _picked(self, places: Sequence[int]) -> Iterator[Frame]:
        """The frames at rising `places`: decoded on from the key frame before the first of them."""
        if not places:
            return
        with self._open() as (container, stream):
            start = self.times[places[0]]
            decoded = self._from(container, stream, start)
            wanted = iter(places)
            place = next(wanted)
            for frame, time in decoded:
                if abs(time - self.times[place]) > NEAR:
                    continue
                yield self._frame(frame, time, place)
                following = next(wanted, None)
                if following is None:
                    return
                place = following
        raise MediaError(
            self.name, f"frame {place} is not decoded again", "a clip that decodes alike each time"
        )

    def _from(self, container: Any, stream: Any, start: float) -> Iterator[tuple[Any, float]]:
        """Frames from the key frame before `start`, or from the beginning where seeking goes too far."""
        if start <= self.times[0] + NEAR:
            yield from self._decoded(container, stream)
            return
        place = math.floor((start + _origin(container)) / float(stream.time_base))
        decoded = self._decoded(container, stream)
        try:
            container.seek(place, stream=stream, backward=True)
            first = next(decoded, None)
        except (MediaError, OSError):  # no index, or nothing after it
            first = None
        if first is not None and first[1] <= start + NEAR:
            yield first
            yield from decoded
            return
        with self._open() as (again, its_stream):
            yield from self._decoded(again, its_stream)

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        av = require("av", "video")
        assert_whole(self._data, self.name)
        source = io.BytesIO(self._data) if isinstance(self._data, bytes) else str(self._data)
        try:
            container = av.open(source, mode="r")
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise MediaError(
                self.name, f"not a clip that can be read ({_reason(error)})", READABLE
            ) from error
        with container:
            stream = container.streams.best("video")
            if stream is None:
                raise MediaError(self.name, "no video in it", "a clip with pictures")
            context = stream.codec_context
            if context is None:
                raise MediaError(self.name, "video in a format that cannot be decoded here", READABLE)
            if context.width * context.height > self._max_pixels:
                raise MediaError(
                    self.name,
                    f"frames of {context.width} x {context.height} pixels by its header, not decoded",
                    f"at most {self._max_pixels:,} pixels",
                )
            yield container, stream

    def _decoded(self, container: Any, stream: Any) -> Iterator[tuple[Any, float]]:
        """Frames and their times.

        Raises:
            MediaError: none, a damaged one, or one without a time.
        """
        av = require("av", "video")
        origin = _origin(container)
        last = -math.inf
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames, None)
            except (av.error.FFmpegError, ValueError, OSError) as error:
                where = "no frame" if last == -math.inf else f"no frame after {last:.3f} s"
                raise MediaError(
                    self.name, f"{where} can be decoded ({_reason(error)})", "a whole clip"
                ) from error
            if frame is None:
                break
            if frame.pts is None:
                raise MediaError(
                    self.name, "a frame without a time (PTS)", "a container that has them", hint=_REMUX
                )
            time = float(frame.pts * frame.time_base) - origin
            if frame.is_corrupt:
                raise MediaError(self.name, f"a damaged frame at {time:.3f} s", "a whole clip")
            if time <= last:
                raise MediaError(
                    self.name,
                    f"a frame at {time:.3f} s after one at {last:.3f} s",
                    "times that rise",
                    hint=_REMUX,
                )
            yield frame, time
            last = time
        if last == -math.inf:
            raise MediaError(
                self.name, "0 frames can be decoded", "a clip with frames", hint="The file may be cut off."
            )

    def _frame(self, frame: Any, time: float, index: int) -> Frame:
        return Frame(time, index, np.ascontiguousarray(_turned(frame.to_ndarray(format="rgb24"), frame)))


_REMUX = "ffmpeg -i IN -c copy OUT.mp4 writes it anew."


def clip_info(source: Any, **how: Any) -> ClipInfo:
    """What decoding a clip says; arguments and errors are those of `Clip`."""
    return Clip(source, **how).info


def _origin(container: Any) -> float:
    """Seconds at which the container begins: of its earliest stream."""
    return 0.0 if container.start_time is None else container.start_time / _MICRO


def _shown_for(frame: Any, stream: Any) -> float:
    """Seconds; 0.0 where the container does not say."""
    return float(frame.duration * stream.time_base) if frame.duration else 0.0


def _turned(pixels: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """[height, width, channels] as the container's display matrix says: quarter turns, and mirrored.

    The matrix maps a stored place (x, y) to (a x + c y, b x + d y), y downwards, in 16.16 fixed point.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return pixels
    a, b, _, c, d = struct.unpack_from("<5i", bytes(found))
    return _TURNS.get((_sign(a), _sign(b), _sign(c), _sign(d)), _same)(pixels)


def _sign(value: int) -> int:
    return (value > 1 << 15) - (value < -(1 << 15))


def _same(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


_TURNS: dict[tuple[int, int, int, int], Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    (1, 0, 0, 1): _same,
    (-1, 0, 0, -1): lambda pixels: pixels[::-1, ::-1],
    (0, 1, -1, 0): lambda pixels: np.rot90(pixels, -1),
    (0, -1, 1, 0): lambda pixels: np.rot90(pixels, 1),
    (-1, 0, 0, 1): lambda pixels: pixels[:, ::-1],
    (1, 0, 0, -1): lambda pixels: pixels[::-1],
    (0, 1, 1, 0): lambda pixels: pixels.swapaxes(0, 1),
    (0, -1, -1, 0): lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
}
"""Signs of (a, b, c, d) to what shows the frame."""


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")
