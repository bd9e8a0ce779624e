"""Manifests, folders, Common Voice; and every way in which they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coalign.core.errors import CoalignError, DataError
from coalign.speech.audio.recordings import read_recordings, usable
from tests.speech.tiny import wav

pytest.importorskip("soundfile")


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
