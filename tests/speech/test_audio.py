"""Audio as it comes: stereo, other rates, empty, silent, damaged, absent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from coalign.core.errors import CoalignError, DataError
from coalign.speech.audio import audio, synthesis
from coalign.speech.audio.silence import read_speech, speech_stretches
from coalign.speech.audio.synthesis import Voice, speak
from tests.speech.tiny import tone, wav

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")


def test_stereo_at_another_rate_is_converted_and_counted(tmp_path: Path) -> None:
    t = np.arange(44_100 * 2) / 44_100
    left, right = np.sin(2 * np.pi * 440 * t), np.zeros_like(t)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 44_100)
    counted: Counter[str] = Counter()
    samples = audio.read_audio(tmp_path / "stereo.wav", conversions=counted)
    assert dict(counted) == {"mixed 2 channels to one": 1, "resampled 44100 Hz to 16000 Hz": 1}
    assert len(samples) == pytest.approx(2 * audio.SAMPLE_RATE, abs=2)
    middle = samples[4000:-4000]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4000, 4000 + len(middle)) / audio.SAMPLE_RATE)
    assert np.abs(middle - expected).max() < 1e-3, "the mean of the channels, at the new rate"


def test_a_window_is_a_part_of_the_whole(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", 3)
    whole = audio.read_audio(path)
    part = audio.read_audio(path, start=1.0, seconds=0.5)
    assert np.array_equal(part, whole[audio.SAMPLE_RATE : audio.SAMPLE_RATE + 8000])
    assert len(audio.read_audio(path, start=2.5, seconds=9)) == audio.SAMPLE_RATE // 2, (
        "what is beyond the end is left out"
    )
    assert len(audio.read_audio(path, start=99, seconds=9)) == 0
    assert audio.audio_info(path).seconds == pytest.approx(3)


def test_no_conversion_leaves_samples_alone(tmp_path: Path) -> None:
    counted: Counter[str] = Counter()
    audio.read_audio(wav(tmp_path / "a.wav", 1), conversions=counted)
    assert not counted
    samples = tone(0.2)
    assert np.array_equal(audio.resample(samples, 16_000, 16_000), samples)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16_000, subtype="FLOAT")
    for name, message in {
        "absent": "no such file", "text": "not an audio file that can be read", "empty": "empty", "nan": "NaN"
    }.items():  # fmt: skip
        with pytest.raises(audio.AudioError, match=message):
            audio.read_audio(tmp_path / f"{name}.wav")


def test_silence() -> None:
    assert audio.is_silent(np.zeros(100, np.float32))
    assert audio.is_silent(np.zeros(0, np.float32))
    assert not audio.is_silent(tone(0.1))


def test_stretches_of_speech(tmp_path: Path) -> None:
    quiet = np.zeros(3 * audio.SAMPLE_RATE, np.float32)
    path = tmp_path / "gap.wav"
    audio.write_wav(path, np.concatenate([tone(2), quiet, tone(2), quiet[: audio.SAMPLE_RATE]]))
    assert speech_stretches(path, 2.0) == [
        pytest.approx((0, 2), abs=0.1),
        pytest.approx((5, 8), abs=0.1),
    ]
    assert speech_stretches(path, 20.0) == [pytest.approx((0, 8))], "no silence is that long"
    assert speech_stretches(wav(tmp_path / "all.wav", 2), 1.0) == [pytest.approx((0, 2))]


def test_stretches_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "vad.jsonl"
    file.write_text(
        '{"audio": "x/a.wav", "start": 0, "end": 4}\n{"audio": "a.wav", "start": 30, "end": 40.5}\n'
    )
    assert read_speech(file) == {"a": [(0, 4), (30, 40.5)]}
    file.write_text('{"audio": "a.wav", "start": 5, "end": 4}\n{"start": 1}\n')
    with pytest.raises(DataError) as error:
        read_speech(file)
    assert f"{file}:1: start, end: 5 to 4, expected start before end" in str(error.value)
    assert f"{file}:2: audio: missing" in str(error.value)


@pytest.mark.skipif(not synthesis.is_available(), reason="espeak-ng is not installed")
def test_speech_repeats_and_voices_differ() -> None:
    first, again = speak("hello world"), speak("hello world")
    assert np.array_equal(first, again)
    assert not audio.is_silent(first)
    assert not np.array_equal(first, speak("hello world", Voice("en-gb+f4", 180, 65)))
    with pytest.raises(CoalignError, match="could not speak with the voice"):
        speak("hello", Voice("xx-no-such"))


def test_a_missing_synthesiser_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis.shutil, "which", lambda name: None)
    with pytest.raises(CoalignError, match="apt-get install espeak-ng"):
        speak("hello")
