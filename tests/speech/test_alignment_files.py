"""Alignments as files: subtitles, labels, TextGrid, JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path

from coalign.speech.segmentation.outputs import (
    FORMATS,
    audacity,
    srt,
    textgrid,
    vtt,
    vtt_words,
    write_alignment,
)
from tests.speech.tiny import timed

HELLO_WORLD = [timed(1.0, 1.4, 0.9, word="hello"), timed(1.6, 2.4, 0.8, word="world")]
UTTERANCES = [
    timed(1.0, 2.5, -0.25, id="a-0", text="hello world", words=HELLO_WORLD),
    timed(3661.0, 3662.0, -0.5, id="a-1", text='say "x" <b>', words=[]),
]


def test_subtitles_and_labels() -> None:
    assert srt(UTTERANCES, 4000).startswith(
        "1\n00:00:01,000 --> 00:00:02,500\nhello world\n\n2\n01:01:01,000 -->"
    )
    page = vtt(UTTERANCES, 4000)
    assert page.startswith("WEBVTT\n\n00:00:01.000 --> 00:00:02.500\nhello world\n")
    assert "&lt;b&gt;" in page
    assert vtt_words(UTTERANCES, 4000).startswith(
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\nhello <00:00:01.600>world\n"
    )
    assert audacity(UTTERANCES, 4000).splitlines()[0] == "1.000000\t2.500000\thello world"


def test_textgrid_has_no_gaps_and_no_overlaps() -> None:
    overlapping = [{**UTTERANCES[0], "start": 0.5, "end": 1.2}, *UTTERANCES]
    text = textgrid(overlapping, 4000)
    tier = text.split("item [2]")[0].split("item [1]")[1]
    edges = [float(line.split("=")[1]) for line in tier.splitlines() if line.startswith("            xm")]
    starts, ends = edges[::2], edges[1::2]
    assert starts[0] == 0
    assert ends[-1] == 4000
    assert starts[1:] == ends[:-1]
    assert '"say ""x"" <b>"' in text


def test_textgrid_keeps_times_after_hours() -> None:
    late = [{**UTTERANCES[0], "start": 12345.61, "end": 12345.64, "words": []}]
    text = textgrid(late, 20000.5)
    assert [
        time for time in ("xmin = 12345.61", "xmax = 12345.64", "xmax = 20000.5") if f"{time}\n" not in text
    ] == []


def test_every_format_is_written(tmp_path: Path) -> None:
    written = write_alignment(UTTERANCES, 4000, tmp_path / "talk.one", FORMATS)
    endings = ("jsonl", "TextGrid", "srt", "vtt", "words.vtt", "labels.txt")
    assert [path.name for path in written] == [f"talk.one.{ending}" for ending in endings]
    assert json.loads(written[0].read_text().splitlines()[1])["id"] == "a-1"
    assert write_alignment([], 10, tmp_path / "none", FORMATS)
