"""A page to look at and listen to an alignment: waveform, utterances, words and confidences, with the sound inside.

The page asks nothing of the network and escapes what texts hold. The sound is embedded as OGG Vorbis (about a
quarter of a megabyte a minute at most), or linked where the file is.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from coalign.core.extras import require
from coalign.core.files import write_text
from coalign.report.templates import inlined, relative_link, template_environment
from coalign.report.text import script_json
from coalign.speech.audio.audio import audio_info, blocks, resample

ASSETS = Path(__file__).parent / "assets"
PAGE_RATE = 16_000
PEAKS_A_SECOND = 50
MOST_PEAKS = 60_000
LOWEST_SHOWN = -5.0
"""Confidences below are shown as below."""


def write_page(
    path: Path,
    *,
    title: str,
    audio: Path,
    utterances: Sequence[Mapping[str, Any]],
    unaligned: Sequence[Mapping[str, Any]] = (),
    sound: Literal["embed", "link"] = "embed",
) -> None:
    """Write the page.

    Args:
        utterances: rows `text`, `start`, `end`, `score`, `kept`, `words` (rows `word`, `start`, `end`, `score`).
        unaligned: rows `row`, `text`, `reason`.
        sound: embed the sound, or link the file by a relative path.
    """
    info = audio_info(audio)
    peaks, vorbis = _scan(audio, info.seconds, encode=sound == "embed")
    source = _embedded(vorbis) if sound == "embed" else relative_link(audio, path)
    kept = sum(bool(one["kept"]) for one in utterances)
    page = (
        template_environment(ASSETS)
        .get_template("alignment.html.j2")
        .render(
            title=title,
            facts=f"{_clock(info.seconds)}, {len(utterances)} utterances, {kept} kept, {len(unaligned)} lines not aligned",
            utterances=[_shown(one) for one in utterances],
            unaligned=unaligned,
            lowest=_lowest(utterances),
            source=source,
            **inlined(
                ASSETS, "alignment", "media-src data:" if sound == "embed" else "media-src 'self' file:"
            ),
            data=script_json(
                {
                    "seconds": info.seconds,
                    "peaks": peaks,
                    "utterances": [
                        [one["start"], one["end"], max(one["score"], LOWEST_SHOWN)] for one in utterances
                    ],
                }
            ),
        )
    )
    write_text(path, page)


def _scan(audio: Path, seconds: float, *, encode: bool) -> tuple[list[int], bytes]:
    """Lowest and highest sample of equal parts, alternating, in -127 .. 127 of the loudest; and the sound as Vorbis.

    The file is read in blocks, so an hour takes no more memory than its page.
    """
    soundfile = require("soundfile", "speech")
    info = audio_info(audio)
    count = max(min(int(seconds * PEAKS_A_SECOND), MOST_PEAKS), 1)
    lows, highs = np.zeros(count), np.zeros(count)
    buffer = io.BytesIO()
    writer = (
        soundfile.SoundFile(buffer, "w", PAGE_RATE, 1, format="OGG", subtype="VORBIS") if encode else None
    )
    total, done = round(seconds * info.sample_rate), 0
    with blocks(audio, 10.0) as parts:
        for part in parts:
            place = np.minimum((done + np.arange(len(part))) * count // max(total, 1), count - 1)
            np.minimum.at(lows, place, part)
            np.maximum.at(highs, place, part)
            done += len(part)
            if writer is not None:
                writer.write(np.clip(resample(part, info.sample_rate, PAGE_RATE), -1, 1))
    if writer is not None:
        writer.close()
    loudest = max(float(np.abs(lows).max()), float(highs.max()), 1e-6)
    pairs = np.stack([lows, highs], axis=1).reshape(-1) / loudest * 127
    return np.rint(pairs).astype(int).tolist(), buffer.getvalue()


def _embedded(vorbis: bytes) -> str:
    return "data:audio/ogg;base64," + base64.b64encode(vorbis).decode()


def _shown(one: Mapping[str, Any]) -> dict[str, Any]:
    words = [
        {**word, "title": f"{_clock(word['start'])}, probability {word['score']:.2f}"}
        for word in one["words"]
    ]
    score = one["score"]
    shown = f"{score:.2f}" if score >= LOWEST_SHOWN else f"< {LOWEST_SHOWN:g}"
    return {**one, "words": words, "clock": _clock(one["start"]), "shown": shown}


def _lowest(utterances: Sequence[Mapping[str, Any]]) -> float:
    """Where the filter begins: just below the lowest confidence shown."""
    scores = [max(one["score"], LOWEST_SHOWN) for one in utterances]
    return math.floor(min(scores, default=-1.0) * 20) / 20


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0.0), 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
