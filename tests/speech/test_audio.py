"""Audio and recordings as they come: stereo, empty, damaged, manifests, folders; every way in which they are wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from coalign.core.errors import CoalignError, DataError
from coalign.speech.audio import audio, synthesis
from coalign.speech.audio.recordings import read_recordings, read_rows_of_text, usable
from coalign.speech.audio.silence import read_speech, speech_stretches
from coalign.speech.audio.synthesis import Voice, speak
from coalign.speech.ctc.training import Clip
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


def test_a_manifest(tmp_path: Path) -> None:
    wav(tmp_path / "clips" / "a.wav", 1)
    wav(tmp_path / "b.wav", 2)
    rows = [
        {"audio_filepath": "clips/a.wav", "text": "Hello there."},
        {"audio": str(tmp_path / "b.wav"), "rows": ["one", " ", "two"], "id": "second"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    first, second = read_recordings(manifest)
    assert (first.id, first.rows, first.seconds, first.line) == ("a", ("Hello there.",), 1.0, 1)
    assert (second.id, second.rows) == ("second", ("one", "two"))
    assert second.text == "one two"


def test_a_folder_with_texts_and_subtitles(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        wav(tmp_path / f"{name}.wav", 0.5)
    (tmp_path / "a.txt").write_text("first line\n\nsecond line\n")
    (tmp_path / "b.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,000\n<i>first</i>\ncue\n\n2\n00:00:03,000 --> 00:00:04,000\n42\n"
    )
    (tmp_path / "c.vtt").write_text("WEBVTT\n\nNOTE not text\n\n00:01.000 --> 00:02.000\nonly cue\n")
    assert [one.rows for one in read_recordings(tmp_path)] == [
        ("first line", "second line"),
        ("first cue", "42"),
        ("only cue",),
    ]


def test_subtitles_with_entities_or_without_empty_lines(tmp_path: Path) -> None:
    vtt = "WEBVTT\n\n00:01.000 --> 00:02.000\nAT&amp;T said 3 &lt; 5&nbsp;today"
    srt = "1\n00:00:01,000 --> 00:00:02,000\none\n2\n00:00:03,000 --> 00:00:04,000\n42\n"
    for name, text, rows in (("a.vtt", vtt, ("AT&T said 3 < 5 today",)), ("a.srt", srt, ("one", "42"))):
        (tmp_path / name).write_text(text)
        assert read_rows_of_text(tmp_path / name) == rows


def manifest(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "m.jsonl"
    path.write_text("\n".join(json.dumps({"audio_filepath": "a.wav", "text": "x", **row}) for row in rows))
    return path


def test_rows_of_a_manifest_may_be_stretches_of_a_file(tmp_path: Path) -> None:
    """As NeMo writes them: `offset` and `duration`, several rows of one file."""
    wav(tmp_path / "a.wav", 3)
    rows = [{"offset": 0.0, "duration": 1.0}, {"offset": 1.0, "duration": 1.5}, {"offset": 2.5}]
    found = read_recordings(manifest(tmp_path, *rows))
    assert [(one.id, one.start, one.seconds, one.part) for one in found] == [
        ("a-0.00", 0.0, 1.0, True),
        ("a-1.00", 1.0, 1.5, True),
        ("a-2.50", 2.5, 0.5, True),
    ]
    whole = audio.read_audio(tmp_path / "a.wav")
    samples = Clip.of(found[1], "x").read(audio.SAMPLE_RATE)
    assert np.array_equal(samples, whole[audio.SAMPLE_RATE : 40_000])


@pytest.mark.parametrize("row", [{}, {"duration": 2.95}, {"offset": 0, "duration": 3.05}, {"duration": 99}])
def test_a_row_of_a_whole_file(tmp_path: Path, row: dict[str, object]) -> None:
    wav(tmp_path / "a.wav", 3)
    (found,) = read_recordings(manifest(tmp_path, row))
    assert (found.id, found.start, found.seconds, found.part) == ("a", 0.0, 3.0, False)
    assert len(Clip.of(found, "x").read(audio.SAMPLE_RATE)) == 48_000


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"offset": "late"}, "offset: a str, expected a number of seconds"),
        ({"offset": -1}, "offset: the value -1, expected a number of seconds, not negative"),
        ({"offset": float("nan")}, "offset: the value nan"),
        ({"offset": 3.0}, r"offset: 3 s, expected a place before the file's end at 3\.00 s"),
        ({"offset": 2, "duration": 2}, r"duration: 2 s, expected at most the 1\.00 s"),
        ({"duration": 0}, "duration: 0 s"),
    ],
)
def test_stretches_that_are_none_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    wav(tmp_path / "a.wav", 3)
    with pytest.raises(DataError, match=rf"m\.jsonl:1: {message}"):
        read_recordings(manifest(tmp_path, row))


def headerless(source: Path, target: Path) -> Path:
    """An MP3 without the frame that holds its length."""
    data = source.read_bytes()
    rates = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    head = int.from_bytes(data[:4], "big")
    target.write_bytes(data[144_000 * rates[head >> 12 & 15] // 44_100 + (head >> 9 & 1) :])
    return target


@pytest.fixture(scope="module")
def mp3(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Speech-like noise with silences at a variable bit rate: with and without its length, behind a picture's tag."""
    folder = tmp_path_factory.mktemp("mp3")
    time = np.arange(44_100 * 24)
    loud = np.sin(time / 30_000) ** 2 * (time // 88_200 % 3 > 0)
    samples = np.random.default_rng(0).normal(0, 0.25, len(time)) * loud
    try:
        soundfile.write(
            folder / "vbr.mp3", samples, 44_100, format="MP3", compression_level=0.9, bitrate_mode="VARIABLE"
        )
    except (TypeError, ValueError, soundfile.LibsndfileError) as error:
        pytest.skip(f"libsndfile writes no MP3 here ({error})")
    tag = b"ID3\x04\x00\x00" + bytes((0, 0, 1 << 3, 0)) + bytes(1024)
    (folder / "tagged.mp3").write_bytes(tag + (folder / "vbr.mp3").read_bytes())
    bare = headerless(folder / "vbr.mp3", folder / "bare.mp3")
    return {"vbr": folder / "vbr.mp3", "tagged": folder / "tagged.mp3", "bare": bare}


@pytest.mark.parametrize("kind", ["vbr", "tagged", "bare"])
def test_windows_of_a_variable_bit_rate_are_parts_of_the_whole(mp3: dict[str, Path], kind: str) -> None:
    whole, rate = soundfile.read(mp3[kind], dtype="float32")
    assert audio.audio_info(mp3[kind]).seconds == len(whole) / rate
    assert len(whole) / rate == pytest.approx(24, abs=0.1)
    for start in (0.0, 0.7, 5.3, 10.0, 17.37, 23.2):
        part = audio.read_audio(mp3[kind], start=start, seconds=1.0, sample_rate=rate)
        assert np.abs(part - whole[int(start * rate) :][:rate]).max() < 1e-5, start


def test_a_length_is_counted_only_where_the_file_does_not_say_it(
    mp3: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert soundfile.info(mp3["bare"]).frames > 25 * 44_100  # estimated from the size
    assert [audio._says_its_length(mp3[kind]) for kind in ("vbr", "tagged", "bare")] == [True, True, False]
    audio.audio_info(mp3["bare"])
    monkeypatch.setattr(audio, "_pieces", lambda *_: pytest.fail("decoded again"))
    assert audio.audio_info(mp3["bare"]).seconds == audio.audio_info(mp3["bare"]).seconds


@pytest.mark.parametrize("kind", ["vbr", "bare"])
def test_levels_of_a_variable_bit_rate(
    mp3: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks in order hold the samples of the whole file, across the pieces that are decoded at once."""
    monkeypatch.setattr(audio, "PIECE", 3.0)
    whole, rate = soundfile.read(mp3[kind], dtype="float32")
    with audio.blocks(mp3[kind], 0.05) as found:
        blocks = list(found)
    assert {len(one) for one in blocks[:-1]} == {int(0.05 * rate)}
    assert np.abs(np.concatenate(blocks) - whole).max() < 1e-5


def test_common_voice(tmp_path: Path) -> None:
    wav(tmp_path / "clips" / "x.wav", 0.5)
    (tmp_path / "train.tsv").write_text('client_id\tpath\tsentence\n1\tx.wav\tHe said "no\n')
    (found,) = read_recordings(tmp_path)
    assert found.rows == ('He said "no',)
    with pytest.raises(DataError, match=r"no dev\.tsv[\s\S]*train"):
        read_recordings(tmp_path, split="dev")
    (tmp_path / "dev.tsv").write_text("client_id\tpath\tsentence\n1\tx.wav\t\n1\t\tthere\n")
    with pytest.raises(DataError) as error:
        read_recordings(tmp_path, split="dev")
    assert "dev.tsv:2: sentence: missing or empty" in str(error.value)
    assert "dev.tsv:3: path: missing or empty" in str(error.value)


def test_every_problem_is_named_with_its_line(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 0.5)
    (tmp_path / "bad.wav").write_text("no sound")
    lines = [
        '{"audio": "a.wav"}',
        '{"text": "hello"}',
        '{"audio": "a.wav", "text": ""}',
        '{"audio": "a.wav", "text": 3}',
        '{"audio": "absent.wav", "text": "hello"}',
        '{"audio": "bad.wav", "text": "hello"}',
        "{broken",
        '{"audio": "a.wav", "text": "fine"}',
        '{"audio": "a.wav", "text": "again"}',
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        read_recordings(manifest)
    shown = [str(problem) for problem in error.value.problems]
    assert f"{manifest}:1: text: missing, expected text under one of rows, text" in shown[0]
    assert f"{manifest}:2: audio: missing" in shown[1]
    assert f"{manifest}:3: text: empty" in shown[2]
    assert f"{manifest}:4: text: a int" in shown[3]
    assert "no such file" in shown[4]
    assert "not an audio file" in shown[5]
    assert f"{manifest}:7: " in shown[6]
    assert "'a' twice" in shown[-1]


def test_a_folder_without_text_or_sound(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no recordings were found"):
        read_recordings(tmp_path)
    wav(tmp_path / "a.wav", 0.5)
    with pytest.raises(DataError, match=r"a\.wav: text: no text file, expected a\.txt"):
        read_recordings(tmp_path)
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"a\.txt: text: empty"):
        read_recordings(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00caf\xe9")
    with pytest.raises(DataError, match="not UTF-8"):
        read_recordings(tmp_path)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        wav(tmp_path / f"{name}.wav", 0.5)
        (tmp_path / f"{name}.txt").write_text(name)
    recordings = read_recordings(tmp_path)
    found = usable(recordings, lambda one: "bad" if one.id == "a" else None)
    assert [one.id for one in found.recordings] == ["b"]
    assert dict(found.left_out) == {"bad": 1}
    with pytest.raises(CoalignError, match="2 x bad"):
        usable(recordings, lambda one: "bad")
