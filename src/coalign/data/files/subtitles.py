"""Timed text: cues of SRT, WebVTT and JSON transcripts, read and written."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.files import parse_json
from coalign.data.messages import FieldError, describe

SUFFIXES = (".srt", ".vtt", ".json")
_TIME = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_CUE = re.compile(rf"^\s*{_TIME}\s*-->(?:\s*{_TIME})?")
_LISTS = ("segments", "transcription", "cues", "events")
"""Names under which a JSON transcript holds its list: Whisper's and WhisperX's, whisper.cpp's, others', YouTube's."""


@dataclass(frozen=True)
class Cue:
    """A stretch of timed text; times in seconds."""

    start: float
    end: float
    text: str


def read_cues(path: Path) -> list[Cue]:
    """The cues of a transcript with text in them, in the order of the file.

    SRT and WebVTT: the lines of a cue are joined, tags are taken out, numbers and notes are passed over. JSON: a list of
    mappings with `text`, `start` and `end` (or `duration`) in seconds, bare or under `segments`, as Whisper and WhisperX write it; `parse_cues` tells other forms.

    Raises:
        FieldError: not UTF-8, not JSON, no such list, or a cue without times or with times out of order.
    """
    text = utf8_text(path)
    if path.suffix.lower() == ".json":
        return _json_cues(text)
    return [one for one in cues_of_lines(text.splitlines()) if one.text]


def utf8_text(path: Path) -> str:
    """The text of a file, without a byte-order mark.

    Raises:
        FieldError: not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FieldError("not UTF-8", "UTF-8 text", "text") from error


def cues_of_lines(lines: Sequence[str]) -> Iterator[Cue]:
    """The cues of SRT or WebVTT, those without text too."""
    found: list[tuple[float, float, list[str]]] = []
    inside = False
    for line in lines:
        if match := _CUE.match(line):
            if inside and found[-1][2] and found[-1][2][-1].isdecimal():
                found[-1][2].pop()  # the number of this cue: no empty line is before it
            inside = True
            start, end = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
            found.append((start, max(start, end), []))
        elif not line.strip():
            inside = False
        elif inside:
            found[-1][2].append(html.unescape(re.sub(r"<[^>]*>", "", line)))
    for start, end, rows in found:
        yield Cue(start, end, " ".join(" ".join(rows).split()))


def parse_cues(value: Any) -> list[Cue]:
    """Cues out of a list of mappings with `text`, `start` and `end` (or `duration`), or as whisper.cpp (`offsets`) and YouTube
    (`tStartMs`, `segs`) write them; those without text are passed over.

    Raises:
        FieldError: not such a list, or times that are missing, negative or out of order; `position` is the place.
    """
    if not isinstance(value, list):
        raise FieldError(describe(value), "a list of {text, start, end}")
    cues = []
    for place, one in enumerate(map(_usual, value)):
        if not isinstance(one, Mapping) or not isinstance(one.get("text"), str):
            raise FieldError(describe(one), "a mapping with text, start and end", position=place)
        start = parse_seconds(one.get("start"), "start", place)
        length = one.get("duration")
        end = (
            parse_seconds(one.get("end"), "end", place)
            if one.get("end") is not None or length is None
            else start + parse_seconds(length, "duration", place)
        )
        if end < start:
            raise FieldError(f"{end:g}", f"a time not before start ({start:g})", "end", place)
        if one["text"].strip():
            cues.append(Cue(start, end, " ".join(one["text"].split())))
    return cues


def _usual(one: Any) -> Any:
    """A cue of whisper.cpp or YouTube under the usual names; another as it is."""
    if not isinstance(one, Mapping):
        return one
    if isinstance(offsets := one.get("offsets"), Mapping) and "start" not in one:
        return {**one, "start": _thousandth(offsets.get("from")), "end": _thousandth(offsets.get("to"))}
    if "tStartMs" in one:
        segments = one.get("segs")
        parts = segments if isinstance(segments, list) else []
        text = "".join(str(part.get("utf8", "")) for part in parts if isinstance(part, Mapping))
        return {
            "text": text,
            "start": _thousandth(one["tStartMs"]),
            "duration": _thousandth(one.get("dDurationMs", 0)),
        }
    return one


def _thousandth(value: Any) -> Any:
    return value / 1000 if isinstance(value, int | float) and not isinstance(value, bool) else value


def parse_seconds(value: Any, field: str, position: int | None = None) -> float:
    """A time in seconds, not negative and finite.

    Raises:
        FieldError: anything else.
    """
    try:
        seconds = float("nan") if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = float("nan")
    if not 0 <= seconds < float("inf"):
        raise FieldError(describe(value), "a number of seconds, not negative", field, position)
    return seconds


def srt(cues: Sequence[Cue]) -> str:
    """SubRip subtitles."""
    return "\n".join(
        f"{number}\n{span(one.start, one.end, ',')}\n{one_line(one.text)}\n"
        for number, one in enumerate(cues, start=1)
    )


def vtt(cues: Sequence[Cue]) -> str:
    """WebVTT subtitles, plain text alone, which every reader takes."""
    found = [
        f"{span(one.start, one.end, '.')}\n{html.escape(one_line(one.text), quote=False)}\n" for one in cues
    ]
    return "\n".join(["WEBVTT\n", *found])


def span(start: float, end: float, point: str) -> str:
    """The times of a cue, which lasts a millisecond at least."""
    return f"{clock(start, point)} --> {clock(max(end, start + 0.001), point)}"


def clock(seconds: float, point: str) -> str:
    """`01:02:03,450`."""
    milliseconds = round(max(seconds, 0.0) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def one_line(text: str) -> str:
    """A text without line breaks, which would end a cue."""
    return " ".join(text.split())


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = (one or "0" for one in parts)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000


def _json_cues(text: str) -> list[Cue]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise FieldError("not JSON that can be read", "a JSON transcript", "transcript") from error
    if isinstance(value, Mapping):
        value = next((value[one] for one in _LISTS if isinstance(value.get(one), list)), None)
        if value is None:
            raise FieldError("no list of segments", "a list under segments", "transcript")
    return parse_cues(value)
