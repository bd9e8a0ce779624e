"""Audio files as one channel of float32 samples at the rate a model wants. Every conversion is counted.

What soundfile reads can be read (WAV, FLAC, OGG, MP3, ...). Several channels become their mean; another sample rate
is converted by soxr in its high quality. Windows are read alone, so a recording of hours needs the memory of a window.
"""

from __future__ import annotations

import contextlib
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
    if not info.frames:
        raise AudioError(f"{path}: the audio is empty (0 samples).")
    return AudioInfo(path, info.frames / info.samplerate, info.samplerate, info.channels)


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
    try:
        data, _ = soundfile.read(str(path), frames=count, start=first, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: damaged audio ({_reason(error)}).") from error
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
        yield (block.mean(axis=1) for block in file.blocks(size, dtype="float32", always_2d=True))


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
