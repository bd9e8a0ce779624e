"""Vocabularies, decoding, error rates and output formats."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ModelError
from coalign.speech.audio.error_rates import character_error_rate, edit_pairs, word_error_rate
from coalign.speech.ctc.align import emission_frames, greedy
from coalign.speech.ctc.vocabulary import Vocabulary, outside_message
from coalign.speech.segmentation.outputs import FORMATS, audacity, srt, textgrid, vtt, write_alignment

UTTERANCES = [
    {
        "id": "a-0",
        "text": "hello world",
        "start": 1.0,
        "end": 2.5,
        "score": -0.25,
        "words": [
            {"word": "hello", "start": 1.0, "end": 1.4, "score": 0.9},
            {"word": "world", "start": 1.6, "end": 2.4, "score": 0.8},
        ],
    },
    {"id": "a-1", "text": 'say "x" <b>', "start": 3661.0, "end": 3662.0, "score": -0.5, "words": []},
]


def test_text_is_written_as_the_model_writes_it() -> None:
    vocabulary = Vocabulary.of_texts(["Hello, world! It's"])
    assert vocabulary.tokens[:3] == ["<pad>", "<unk>", "|"]
    outside: Counter[str] = Counter()
    assert vocabulary.normalise("<b>Hello</b>  WORLD — it’s 5 zü [noise]", outside) == "hello world it's"
    assert outside == {"5": 1, "z": 1, "ü": 1}
    assert "3 characters outside the vocabulary left out" in outside_message(outside)
    assert "Write numbers as words" in outside_message(outside)
    assert outside_message(Counter()) == ""
    ids = vocabulary.encode("hello world")
    assert vocabulary.decode(ids) == "hello world"


def test_case_follows_the_vocabulary() -> None:
    upper = Vocabulary(["<pad>", "|", "A", "B"])
    assert upper.normalise("a b") == "A B"


def test_vocabulary_on_disk(tmp_path: Path) -> None:
    vocabulary = Vocabulary.of_texts(["abc"])
    vocabulary.save(tmp_path)
    again = Vocabulary.load(tmp_path)
    assert (again.tokens, again.blank, again.delimiter) == (vocabulary.tokens, 0, "|")
    (tmp_path / "vocab.json").write_text("[1]")
    with pytest.raises(ModelError, match="not a vocabulary"):
        Vocabulary.load(tmp_path)


def test_transformers_reads_the_vocabulary(tmp_path: Path) -> None:
    from transformers import Wav2Vec2CTCTokenizer

    vocabulary = Vocabulary.of_texts(["abc def"])
    vocabulary.save(tmp_path)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(str(tmp_path))
    assert tokenizer("abc fed").input_ids == vocabulary.encode("abc fed")


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_edits_turn_one_into_the_other(reference: list[str], written: list[str]) -> None:
    pairs = edit_pairs(reference, written)
    assert [mine for mine, _ in pairs if mine is not None] == list(range(len(reference)))
    assert [other for _, other in pairs if other is not None] == list(range(len(written)))
    rate = character_error_rate(["".join(reference)], ["".join(written)])
    assert rate.substitutions + rate.insertions + rate.deletions >= abs(len(reference) - len(written))
    assert (rate.rate == 0) == (reference == written)


def test_error_rates() -> None:
    rate = word_error_rate(["the cat sat", "a b"], ["the cut sat down", "b"])
    assert (rate.substitutions, rate.insertions, rate.deletions, rate.length) == (1, 1, 1, 5)
    assert rate.rate == pytest.approx(0.6)
    assert word_error_rate([""], [""]).rate == 0
    assert word_error_rate([""], ["x"]).rate == 1
    with pytest.raises(ValueError, match="2 references for 1"):
        word_error_rate(["a", "b"], ["a"])


def test_greedy_and_emissions() -> None:
    path = [0, 1, 1, 0, 1, 2]
    assert greedy(np.eye(3)[path], 0) == [1, 1, 2]
    assert emission_frames(path, 0) == [1, 4, 5]


def test_subtitles_and_labels() -> None:
    assert srt(UTTERANCES, 4000).startswith(
        "1\n00:00:01,000 --> 00:00:02,500\nhello world\n\n2\n01:01:01,000 -->"
    )
    page = vtt(UTTERANCES, 4000)
    assert page.startswith("WEBVTT\n\n00:00:01.000 --> 00:00:02.500\nhello <00:00:01.600>world\n")
    assert "&lt;b&gt;" in page
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
    assert "xmin = 12345.61\n" in text
    assert "xmax = 12345.64\n" in text
    assert "xmax = 20000.5\n" in text


def test_every_format_is_written(tmp_path: Path) -> None:
    written = write_alignment(UTTERANCES, 4000, tmp_path / "talk.one", FORMATS)
    endings = ("jsonl", "TextGrid", "srt", "vtt", "labels.txt")
    assert [path.name for path in written] == [f"talk.one.{ending}" for ending in endings]
    assert json.loads(written[0].read_text().splitlines()[1])["id"] == "a-1"
    assert write_alignment([], 10, tmp_path / "none", FORMATS)
