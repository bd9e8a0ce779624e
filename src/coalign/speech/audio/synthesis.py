"""Speech from text with espeak-ng, for checks, demonstrations and tests."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import dataclass

from coalign.core.errors import CoalignError
from coalign.core.extras import require
from coalign.speech.audio.audio import SAMPLE_RATE, Samples, resample

ESPEAK = "espeak-ng"


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng.

    Attributes:
        name: language and variant, such as `en-us+f3` (`espeak-ng --voices=variant` lists them).
        speed: words a minute.
        pitch: 0 to 99.
    """

    name: str = "en-us"
    speed: int = 165
    pitch: int = 50


def is_available() -> bool:
    """Whether espeak-ng is on the path."""
    return shutil.which(ESPEAK) is not None


def speak(text: str, voice: Voice = Voice(), sample_rate: int = SAMPLE_RATE) -> Samples:
    """[samples] of `text` spoken by `voice`; repeats bit for bit.

    Raises:
        CoalignError: espeak-ng is not installed, or it does not know the voice.
    """
    program = shutil.which(ESPEAK)
    if program is None:
        raise CoalignError(
            "espeak-ng is not installed: it speaks the texts of this check.",
            hint="Debian and Ubuntu: apt-get install espeak-ng; macOS: brew install espeak-ng",
        )
    command = [program, "-v", voice.name, "-s", str(voice.speed), "-p", str(voice.pitch), "--stdout"]
    result = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if result.returncode or not result.stdout:
        reason = result.stderr.decode(errors="replace").strip() or "no sound"
        raise CoalignError(f"espeak-ng could not speak with the voice {voice.name!r}: {reason}.")
    soundfile = require("soundfile", "speech")
    data, rate = soundfile.read(io.BytesIO(_sized(result.stdout)), dtype="float32")
    return resample(data, rate, sample_rate)


def _sized(wav: bytes) -> bytes:
    """The WAV with its true sizes in the header: written to a pipe they are not known."""
    data = bytearray(wav)
    start = data.find(b"data")
    data[4:8] = (len(data) - 8).to_bytes(4, "little")
    data[start + 4 : start + 8] = (len(data) - start - 8).to_bytes(4, "little")
    return bytes(data)
