"""The world of two voices: times are true, captions are wrong in the shares that are stated."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from coalign.checks.worlds.speech import voices as world
from coalign.speech.audio.audio import SAMPLE_RATE, read_audio
from coalign.speech.audio.synthesis import is_available
from tests.speech.tiny import tiny_recogniser, tone


def test_captions_lack_lines_and_have_wrong_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "speak", lambda text, voice: np.full(800 * len(text.split()), 0.5, np.float32))
    spoken = world.away_recordings(tmp_path, random.Random(0))
    assert [one.recording.id for one in spoken] == ["one", "two", "three"]
    lines = [len(one.times) for one in spoken]
    assert 0.7 < sum(lines) / 120 < 0.98
    for one in spoken:
        assert len(one.recording.rows) == len(one.times)
        samples = read_audio(one.recording.audio)
        assert len(samples) / SAMPLE_RATE == pytest.approx(one.recording.seconds, abs=0.01)
        for start, end in one.times:
            assert (samples[round(start * SAMPLE_RATE) + 1 : round(end * SAMPLE_RATE) - 1] > 0.4).all()
            assert samples[round(start * SAMPLE_RATE) - 100] == 0


@pytest.mark.skipif(not is_available(), reason="espeak-ng is not installed")
def test_the_words_can_be_spoken() -> None:
    ((text, samples),) = world._spoken(1, world.AWAY, random.Random(1))
    assert len(samples) / SAMPLE_RATE > 0.15 * len(text.split())


def test_training_is_of_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    start = tiny_recogniser()
    trained = world.trained_copy(
        start, [("old men", tone(0.6))], 0, steps=2, learning_rate=1e-2, batch_size=2
    )
    assert trained.model is not start.model
    assert not np.allclose(trained.logps(tone(0.4)), start.logps(tone(0.4)))
