"""Words lie inside their utterance and in order, whatever the model says; parts of a file are aligned as parts."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import pytest

from coalign.speech.audio.recordings import Recording
from coalign.speech.segmentation import long_alignment
from coalign.speech.segmentation.anchored_windows import WindowRules
from coalign.speech.segmentation.long_alignment import AudioWindow, align_recording
from tests.speech.tiny import TEXTS, tiny_recogniser, wav

pytest.importorskip("soundfile")
pytest.importorskip("numba")


def recording(folder: Path, seconds: float, **changes) -> Recording:
    whole = Recording("a", wav(folder / "a.wav", seconds, seed=3), tuple(TEXTS), seconds, "a.jsonl")
    return dataclasses.replace(whole, **changes)


def aligned(one: Recording, seed: int, *, whole: bool, speech=()):
    return align_recording(
        tiny_recogniser(seed),
        one,
        speech or [(0.0, one.seconds)],
        WindowRules(),
        outside=Counter(),
        conversions=Counter(),
        whole=whole,
    )


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("seconds", [3.0, 9.0])
def test_words_lie_inside_their_utterance_and_in_order(tmp_path, seed, seconds, whole):
    """An untrained model on noise; short audio leaves few frames for the words."""
    found = aligned(recording(tmp_path, seconds), seed, whole=whole).utterances
    assert any(one["words"] for one in found)
    for one in found:
        edges = [time for word in one["words"] for time in (word["start"], word["end"])]
        assert [one["start"], *edges, one["end"]] == sorted([one["start"], *edges, one["end"]])
        if one["words"]:
            assert [word["word"] for word in one["words"]] == one["text"].split()
            assert all(word["start"] < word["end"] for word in one["words"])
    for one, following in itertools.pairwise(found):
        assert one["end"] <= following["start"] + 1e-9


def test_words_that_do_not_fit_are_drawn_together(tmp_path):
    one = recording(tmp_path, 4.0)
    window = AudioWindow(tiny_recogniser(), one, 0.0, 4.0, Counter())
    words = window.words(TEXTS[0], 1.0, 1.2)  # 10 frames for 14 letters
    assert [word["word"] for word in words] == TEXTS[0].split()
    assert (words[0]["start"], words[-1]["end"]) == (1.0, 1.2)
    assert window.words(TEXTS[0], 1.0, 1.02) != words
    assert window.words(" ".join(TEXTS), 1.0, 1.1) == []


def test_a_part_of_a_file_is_aligned_within_itself(tmp_path):
    whole = recording(tmp_path, 10.0)
    part = dataclasses.replace(whole, start=2.5, seconds=5.0, part=True)
    found = aligned(part, 1, whole=True)
    alone = dataclasses.replace(whole, audio=wav_part(whole, 2.5, 5.0), seconds=5.0)
    expected = aligned(alone, 1, whole=True)
    for one, other in zip(found.utterances, expected.utterances, strict=True):
        assert one["start"] == pytest.approx(other["start"] + 2.5, abs=2e-3)
        assert 2.5 <= one["start"] <= one["end"] <= 7.5 + 1e-9
        for word in one["words"]:
            assert one["start"] <= word["start"] <= word["end"] <= one["end"]


def wav_part(one: Recording, start: float, seconds: float) -> Path:
    from coalign.speech.audio.audio import read_audio, write_wav

    path = one.audio.with_name("part.wav")
    write_wav(path, read_audio(one.audio, start=start, seconds=seconds))
    return path


def test_stretches_of_speech_are_the_files(tmp_path):
    part = dataclasses.replace(recording(tmp_path, 10.0), start=2.0, seconds=4.0, part=True)
    speech = [(0.0, 1.0), (1.5, 3.0), (5.0, 9.0)]
    assert long_alignment._within(speech, part) == [(0.0, 1.0), (3.0, 4.0)]
    assert long_alignment._within([(8.0, 9.0)], part) == [(0.0, 4.0)]
