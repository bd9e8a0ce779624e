"""Stretches of speech between long silences, found by level alone.

A frame is silent when its level is below a threshold between the quietest and the loudest parts of the recording.
Only silences of many seconds matter here, so nothing finer is needed. `read_speech` reads stretches that a voice
activity detector found instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError
from coalign.data.rows import Row, iter_rows, parse_each
from coalign.speech.audio.audio import SILENT_RMS, audio_info, blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAME_SECONDS = 0.05
LEVEL_SHARE = 0.3
"""Where the threshold lies between the 10th and the 95th percentile of the levels in decibels."""
LEAST_RANGE_DB = 10.0
"""A recording whose levels differ less has no silence."""
FLOOR_DB = -90.0

Interval = tuple[float, float]


def speech_stretches(path: Path, min_silence: float) -> list[Interval]:
    """Stretches of speech of a recording: [(start, end)] in seconds, with silences of `min_silence` or more between.

    Silence at both ends is cut off when it is that long. A recording without such a silence is one stretch.
    """
    duration = audio_info(path).seconds
    levels = frame_levels(path)
    spread = np.percentile(levels, 95) - np.percentile(levels, 10)
    if len(levels) == 0 or spread < LEAST_RANGE_DB:
        return [(0.0, duration)]
    loud = levels > np.percentile(levels, 10) + LEVEL_SHARE * spread
    found: list[Interval] = []
    start, last = 0.0, 0.0
    for frame in np.flatnonzero(loud).tolist():
        begin, end = frame * FRAME_SECONDS, (frame + 1) * FRAME_SECONDS
        if begin - last >= min_silence:
            if last > start:
                found.append((start, last))
            start = begin
        last = end
    found.append((start, duration if duration - last < min_silence else last))
    return found


def frame_levels(path: Path) -> NDArray[np.float64]:
    """Level of every 50 ms in decibels below full scale, at least -90; the file is read in blocks."""
    parts = []
    with blocks(path, FRAME_SECONDS) as frames:
        for frame in frames:
            rms = np.sqrt(np.mean(np.square(frame, dtype=np.float64))) if len(frame) else 0.0
            parts.append(max(20 * np.log10(max(rms, SILENT_RMS)), FLOOR_DB))
    return np.array(parts)


def read_speech(path: Path) -> dict[str, list[Interval]]:
    """Stretches of speech from a file of rows `audio`, `start`, `end` (JSON Lines or CSV): audio's stem to intervals.

    Raises:
        DataError: rows without these columns, an end before its start, or stretches that are not in order.
    """
    found: dict[str, list[Interval]] = {}
    problems: list[RecordProblem] = []

    def add(row: Row) -> None:
        assert row.value is not None
        name = row.value.get("audio")
        if not isinstance(name, str) or not name:
            raise FieldError("missing", "the name of an audio file", "audio")
        try:
            start, end = float(row.value["start"]), float(row.value["end"])
        except (KeyError, TypeError, ValueError) as error:
            raise FieldError("missing or no numbers", "seconds", "start, end") from error
        earlier = found.setdefault(Path(name).stem, [])
        if not 0 <= start < end or (earlier and start < earlier[-1][1]):
            raise FieldError(f"{start:g} to {end:g}", "start before end, stretches in order", "start, end")
        earlier.append((start, end))

    for _ in parse_each(iter_rows(path), path, add, problems):
        pass
    if problems:
        raise DataError(f"{path}: stretches of speech that cannot be used.", problems)
    return found
