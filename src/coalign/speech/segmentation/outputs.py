"""Alignments in the formats of other programs: JSON Lines, Praat TextGrid, SRT, WebVTT, Audacity labels."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from coalign.core.files import write_text
from coalign.data.files import subtitles
from coalign.data.files.subtitles import clock, one_line, span

Format = Literal["jsonl", "textgrid", "srt", "vtt", "vtt-words", "audacity"]
FORMATS = get_args(Format)
Utterances = Sequence[Mapping[str, Any]]
"""Rows `text`, `start`, `end`, `score`, `words` (rows `word`, `start`, `end`, `score`), in order."""


def write_alignment(utterances: Utterances, seconds: float, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write `stem` with the suffix of every format; `seconds` is the duration of the recording."""
    written = []
    for name in formats:
        suffix, text = _WRITERS[name]
        path = stem.with_name(stem.name + suffix)
        write_text(path, text(utterances, seconds))
        written.append(path)
    return written


def jsonl(utterances: Utterances, seconds: float) -> str:
    """One utterance a line."""
    return "".join(json.dumps(dict(one), ensure_ascii=False) + "\n" for one in utterances)


def audacity(utterances: Utterances, seconds: float) -> str:
    """Start, end and text, tab-separated: a label track (File > Import > Labels)."""
    return "".join(f"{one['start']:.6f}\t{one['end']:.6f}\t{one_line(one['text'])}\n" for one in utterances)


def srt(utterances: Utterances, seconds: float) -> str:
    """SubRip subtitles."""
    return subtitles.srt(_cues(utterances))


def vtt(utterances: Utterances, seconds: float) -> str:
    """WebVTT subtitles, plain text alone, which every reader takes."""
    return subtitles.vtt(_cues(utterances))


def vtt_words(utterances: Utterances, seconds: float) -> str:
    """WebVTT subtitles with the time of every word after the first (`<00:00:01.600>`), which players show word by word.

    A line with exactly two times would be taken for the times of a cue by readers that look for these anywhere in a
    line (pysubs2): such a line is broken.
    """
    cues = []
    for one in utterances:
        words = [
            f"<{clock(word['start'], '.')}>{html.escape(word['word'], quote=False)}"
            for word in one["words"][1:]
        ]
        first = html.escape(one["words"][0]["word"] if one["words"] else one_line(one["text"]), quote=False)
        text = f"{first} {words[0]}\n{words[1]}" if len(words) == 2 else " ".join([first, *words])
        cues.append(f"{span(one['start'], one['end'], '.')}\n{text}\n")
    return "\n".join(["WEBVTT\n", *cues])


def textgrid(utterances: Utterances, seconds: float) -> str:
    """A Praat TextGrid with the tiers `utterances`, `words` and `scores`; gaps are empty intervals."""
    spoken = [(one["start"], one["end"], one_line(one["text"])) for one in utterances]
    scores = [(one["start"], one["end"], f"{one['score']:.3f}") for one in utterances]
    words = [(word["start"], word["end"], word["word"]) for one in utterances for word in one["words"]]
    tiers = [("utterances", spoken), ("words", words), ("scores", scores)]
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {_plain(seconds)}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, intervals) in enumerate(tiers, start=1):
        filled = _without_gaps(intervals, seconds)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {_plain(seconds)}",
            f"        intervals: size = {len(filled)}",
        ]
        for index, (start, end, text) in enumerate(filled, start=1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {_plain(start)}",
                f"            xmax = {_plain(end)}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def _plain(seconds: float) -> str:
    """Seconds to the microsecond, without trailing zeros: six digits in all, as `:g` has, run out after 10,000 s."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


_WRITERS: dict[str, tuple[str, Callable[[Utterances, float], str]]] = {
    "jsonl": (".jsonl", jsonl),
    "textgrid": (".TextGrid", textgrid),
    "srt": (".srt", srt),
    "vtt": (".vtt", vtt),
    "vtt-words": (".words.vtt", vtt_words),
    "audacity": (".labels.txt", audacity),
}


def _without_gaps(
    intervals: Sequence[tuple[float, float, str]], seconds: float
) -> list[tuple[float, float, str]]:
    """Intervals from 0 to `seconds` without gap or overlap, as Praat wants them: a start gives way to the end before,
    what has no length is left out.
    """
    filled: list[tuple[float, float, str]] = []
    now = 0.0
    for start, end, text in sorted(intervals):
        begin, end = max(start, now), min(end, seconds)
        if end <= begin:
            continue
        if begin > now:
            filled.append((now, begin, ""))
        filled.append((begin, end, text))
        now = end
    if now < seconds:
        filled.append((now, seconds, ""))
    return filled


def _cues(utterances: Utterances) -> list[subtitles.Cue]:
    return [subtitles.Cue(one["start"], one["end"], one["text"]) for one in utterances]
