"""Audio files as one channel of float32 samples at the rate a model wants. Every conversion is counted.

What soundfile reads can be read (WAV, FLAC, OGG, MP3, ...). Several channels become their mean; another sample rate
is converted by soxr in its high quality. Windows are read alone, so a recording of hours needs the memory of a window.

A window of an MP3 holds the samples that decoding the whole file gives: libsndfile seeks to the right place, but a frame
of MP3 needs up to 511 bytes of those before it, so a lead is decoded and thrown away. A file that does not say its
length (no Xing, Info or VBRI header) is decoded once to count it, because with a variable bit rate its size tells nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from coalign.core.errors import CoalignError
from coalign.core.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Rate at which speech models work."""
SILENT_RMS = 1e-5
"""Root mean square (full scale 1) below which a recording counts as silent: -100 dB."""
LEAD = 2.0
"""Seconds of an MP3 before a stretch that are decoded too. At 8 kbit/s, the least there is, 511 bytes are half a second."""
PIECE = 60.0
"""Seconds of an MP3 that are decoded at once on the way through the file."""
_COUNTED = (b"Xing", b"Info", b"VBRI")  # headers that hold the number of frames

Samples: TypeAlias = "NDArray[np.float32]"


class AudioError(CoalignError):
    """An audio file that cannot be used."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header says."""

    path: Path
    seconds: float
    sample_rate: int
    channels: int
    format: str = "WAV"


def audio_info(path: Path) -> AudioInfo:
    """Duration, rate and channels.

    Raises:
        AudioError: absent, not audio, or empty.
    """
    soundfile = require("soundfile", "speech")
    if not path.is_file():
        raise AudioError(f"{path}: no such file.")
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(
            f"{path}: not an audio file that can be read ({_reason(error)}).",
            hint="WAV, FLAC, OGG and MP3 can be read; ffmpeg converts the rest.",
        ) from error
    frames = info.frames
    if info.format == "MP3" and not _says_its_length(path):
        about = path.stat()
        frames = _counted(str(path.resolve()), about.st_size, about.st_mtime_ns)
    if not frames:
        raise AudioError(f"{path}: the audio is empty (0 samples).")
    return AudioInfo(path, frames / info.samplerate, info.samplerate, info.channels, info.format)


def read_audio(
    path: Path,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    sample_rate: int = SAMPLE_RATE,
    conversions: Counter[str] | None = None,
) -> Samples:
    """[samples] a stretch of a file, mixed to one channel, at `sample_rate`.

    Args:
        start, seconds: the stretch; by default to the end. What lies beyond the end is left out.
        conversions: counts what had to be changed: `mixed 2 channels to one`, `resampled 44100 Hz to 16000 Hz`.

    Raises:
        AudioError: absent, not audio, empty, or samples that are not finite.
    """
    soundfile = require("soundfile", "speech")
    info = audio_info(path)
    first = min(int(start * info.sample_rate), round(info.seconds * info.sample_rate))
    count = -1 if seconds is None else int(seconds * info.sample_rate)
    lead = _lead(info, first)
    try:
        data, _ = soundfile.read(
            str(path),
            frames=count if count < 0 else count + lead,
            start=first - lead,
            dtype="float32",
            always_2d=True,
        )
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: damaged audio ({_reason(error)}).") from error
    data = data[lead:]
    if not np.isfinite(data).all():
        raise AudioError(f"{path}: samples that are NaN or infinite.")
    counted = conversions if conversions is not None else Counter()
    if info.channels > 1:
        counted[f"mixed {info.channels} channels to one"] += 1
    samples = data.mean(axis=1) if info.channels > 1 else data[:, 0]
    if info.sample_rate != sample_rate:
        counted[f"resampled {info.sample_rate} Hz to {sample_rate} Hz"] += 1
    return resample(samples, info.sample_rate, sample_rate)


def resample(samples: Samples, source: int, target: int) -> Samples:
    """[samples] at another rate."""
    if source == target or not len(samples):
        return np.ascontiguousarray(samples, dtype=np.float32)
    return require("soxr", "speech").resample(samples, source, target).astype(np.float32)


def write_wav(path: Path, samples: NDArray[Any], sample_rate: int = SAMPLE_RATE) -> None:
    """Write [samples] as 16-bit WAV; values beyond 1 are clipped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    require("soundfile", "speech").write(str(path), np.clip(samples, -1, 1), sample_rate, subtype="PCM_16")


def is_silent(samples: Samples) -> bool:
    """Whether there is nothing to hear."""
    return not len(samples) or float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) < SILENT_RMS


@contextlib.contextmanager
def blocks(path: Path, seconds: float) -> Iterator[Iterator[Samples]]:
    """The file in blocks of `seconds` in its own rate, one channel; for passes over a whole recording."""
    soundfile = require("soundfile", "speech")
    with soundfile.SoundFile(str(path)) as file:
        size = max(int(seconds * file.samplerate), 1)
        if file.format == "MP3":
            found = (
                piece[start : start + size]
                for piece in _pieces(file, size)
                for start in range(0, len(piece), size)
            )
        else:
            found = file.blocks(size, dtype="float32", always_2d=True)
        yield (block.mean(axis=1) for block in found)


def _lead(info: AudioInfo, first: int) -> int:
    """Samples before `first` that have to be decoded with those from it."""
    return min(int(LEAD * info.sample_rate), first) if info.format == "MP3" else 0


def _pieces(file: Any, size: int) -> Iterator[NDArray[np.float32]]:
    """[samples, channels] an MP3 from its beginning, in pieces of some blocks of `size`."""
    length = max(int(PIECE * file.samplerate) // size, 1) * size
    first = 0
    while True:
        lead = min(int(LEAD * file.samplerate), first)
        file.seek(first - lead)
        piece = file.read(length + lead, dtype="float32", always_2d=True)[lead:]
        if len(piece):
            yield piece
        if len(piece) < length:
            return
        first += length


def _says_its_length(path: Path) -> bool:
    """Whether the first frame of an MP3 holds the number of frames."""
    with path.open("rb") as file:
        tag = file.read(10)
        if tag[:3] == b"ID3" and len(tag) == 10:
            size = functools.reduce(lambda total, byte: total << 7 | byte & 0x7F, tag[6:], 0)
            file.seek(size, 1)
            tag = b""
        start = tag + file.read(2048)
    return any(mark in start for mark in _COUNTED)


@functools.lru_cache(maxsize=65_536)
def _counted(path: str, size: int, changed: int) -> int:
    """Samples of an MP3, by decoding it; `size` and `changed` say of which state of the file."""
    soundfile = require("soundfile", "speech")
    try:
        with soundfile.SoundFile(path) as file:
            return sum(map(len, _pieces(file, file.samplerate)))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: damaged audio ({_reason(error)}).") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
