"""`coalign run awp` and `coalign run pseudo-forced-alignment` on tiny models; the world of two voices."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalign.checks.worlds.speech import voices as world
from coalign.core.errors import CoalignError, ConfigError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.core.system import load_system
from coalign.report.html import read_report
from coalign.speech.audio.audio import SAMPLE_RATE, read_audio, write_wav
from coalign.speech.audio.synthesis import is_available
from coalign.speech.ctc.recogniser import load_recogniser
from tests.preference.tiny_runs import write
from tests.speech.tiny import TEXTS, tiny_recogniser, tone, wav

pytest.importorskip("soundfile")
pytest.importorskip("numba")


OPTIONS: dict[str, dict[str, Any]] = {
    "awp": {"max_steps": 3, "save_steps": 1, "start_accuracy": 0, "eval_fraction": 0.4},
    "pseudo-forced-alignment": {
        "min_score": -30, "threshold": -30, "instant_accept": -20, "max_steps": 2, "save_steps": 0
    },
}  # fmt: skip


def work(slug: str, folder: Path, data: Path, **changes: Any) -> Run:
    """A run in `folder / "run"`."""
    system = load_system(slug)
    model = {"model": str(tiny_recogniser().save(folder / "model")), "device": "cpu", "batch_size": 2}
    config = build(system.Config, {**OPTIONS[slug], **model, "data": str(data), **changes})
    run = Run.start(folder / "run", slug, config)
    system.run(config, run)
    return run


def make_clips(folder: Path, count: int = 6) -> Path:
    rows = []
    for number in range(count):
        wav(folder / f"c{number}.wav", 1.0, number)
        rows.append({"audio": f"c{number}.wav", "text": f"{TEXTS[number % 5].capitalize()}, 7!"})
    write_wav(folder / "silent.wav", np.zeros(16_000))
    rows.append({"audio": "silent.wav", "text": "nothing to hear"})
    return write(folder / "clips.jsonl", [*rows, {"audio": "c0.wav", "text": "123", "id": "digits"}])


@pytest.mark.parametrize("name", ["low-latency", "minimum-wer"])
def test_awp_trains_measures_and_counts(name: str, tmp_path: Path) -> None:
    run = work("awp", tmp_path, make_clips(tmp_path / "clips"), property=name)
    history = [row for row in run.events("train") if "purpose" in row]
    assert history
    if name == "low-latency":
        assert history[-1]["purpose"] > 0
    found = load_recogniser(str(run.model), device="cpu")
    assert found.vocabulary.tokens == tiny_recogniser().vocabulary.tokens
    (table,) = [one for one in read_report(run.report).sections if one.title == "Clips"]
    counts = dict(table.rows)
    assert counts["left out: silent"] == 1
    assert counts["left out: no text in the vocabulary"] == 1
    assert counts["held-out clips"] + counts["training clips"] == 6
    assert "9 characters outside the vocabulary left out" in table.note


def test_awp_refuses_a_model_that_is_not_usable(tmp_path: Path) -> None:
    with pytest.raises(CoalignError, match=r"word accuracy is 0%.*80% are needed[\s\S]*--start-step"):
        work("awp", tmp_path, make_clips(tmp_path / "clips"), start_accuracy=0.8)


def test_awp_refuses_an_unknown_property_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no 'fast'"):
        work("awp", tmp_path, make_clips(tmp_path / "clips"), property="fast")
    assert not (tmp_path / "run" / "artefacts" / "round-1").exists()


def make_recordings(folder: Path, lines: list[str] = [*TEXTS, "!!!"], seconds: int = 12) -> Path:  # noqa: B006
    """Two recordings with the same lines, and a silent one."""
    for number in range(2 if lines else 0):
        wav(folder / f"r{number}.wav", seconds, number)
        (folder / f"r{number}.txt").write_text("\n".join(lines))
    write_wav(folder / "silent.wav", np.zeros(32_000))
    (folder / "silent.txt").write_text("nothing to hear")
    return folder


def test_alignment_writes_everything_and_loses_nothing(tmp_path: Path) -> None:
    held_out = str(make_clips(tmp_path / "clips", 2))
    data = make_recordings(tmp_path / "recordings")
    run = work("pseudo-forced-alignment", tmp_path, data, eval_data=held_out, rounds=1)
    folder = run.path / "alignments"
    assert len(list(folder.iterdir())) == 2 * 6
    for row in read_rows(run.artefacts / "round-2" / "generate.jsonl"):
        lines = [one["row"] for one in row["utterances"]] + [one["row"] for one in row["unaligned"]]
        assert sorted(lines) == list(range(6)), "every line once"
        assert any(one["reason"].startswith("nothing in it") for one in row["unaligned"])
        for one in row["utterances"]:
            assert [word["word"] for word in one["words"]] in ([], one["text"].split())
    kept = read_rows(folder / "r0.jsonl")
    assert kept[0].keys() >= {"id", "audio", "row", "text", "start", "end", "score", "words"}
    (table,) = [one for one in read_report(run.report).sections if one.title == "Recordings"]
    assert table.note == "Recordings left out: 1 x silent."
    assert load_recogniser(str(run.model), device="cpu")


def test_text_far_longer_than_the_audio_is_reported(tmp_path: Path) -> None:
    data = make_recordings(tmp_path / "long", TEXTS * 20, 1)
    run = work("pseudo-forced-alignment", tmp_path, data, page_sound="none", formats=["srt"])
    for row in read_rows(run.artefacts / "round-1" / "generate.jsonl"):
        assert len(row["utterances"]) + len(row["unaligned"]) == 100
        assert any("longer than the audio" in one["reason"] for one in row["unaligned"])
    assert {path.suffix for path in (run.path / "alignments").iterdir()} == {".srt"}


def test_alignment_of_what_cannot_be_aligned(tmp_path: Path) -> None:
    data = make_recordings(tmp_path / "silence", [])
    for folder, changes, error, message in (
        ("a", {"model": "small"}, ConfigError, "untrained"),
        ("b", {}, CoalignError, "No recording can be used: 1 x silent"),
        ("c", {"page_sound": "loud"}, ConfigError, "expected one of: embed, link, none"),
    ):
        with pytest.raises(error, match=message):
            work("pseudo-forced-alignment", tmp_path / folder, data, **changes)


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
