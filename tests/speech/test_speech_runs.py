"""`coalign run awp` and `coalign run pseudo-forced-alignment` on tiny models: results, resume, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.report.html import read_report
from coalign.speech import awp, pseudo_forced_alignment
from coalign.speech.audio.audio import write_wav
from coalign.speech.ctc.recogniser import load_recogniser
from tests.speech.tiny import TEXTS, tiny_recogniser, wav

pytest.importorskip("soundfile")
pytest.importorskip("numba")


def make_clips(folder: Path, count: int = 6) -> Path:
    rows = []
    for number in range(count):
        wav(folder / f"c{number}.wav", 1.0, number)
        rows.append({"audio": f"c{number}.wav", "text": f"{TEXTS[number % 5].capitalize()}, 7!"})
    write_wav(folder / "silent.wav", np.zeros(16_000))
    rows.append({"audio": "silent.wav", "text": "nothing to hear"})
    rows.append({"audio": "c0.wav", "text": "123", "id": "digits"})
    manifest = folder / "clips.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    return manifest


def awp_config(tmp_path: Path, **changes: Any) -> awp.Config:
    values = {
        "data": str(make_clips(tmp_path / "clips")),
        "model": str(tiny_recogniser().save(tmp_path / "model")),
        "device": "cpu",
        "max_steps": 3,
        "batch_size": 2,
        "save_steps": 1,
        "start_accuracy": 0,
        "eval_fraction": 0.4,
    }
    return build(awp.Config, {**values, **changes})


@pytest.mark.parametrize("name", ["low-latency", "minimum-wer"])
def test_awp_trains_measures_and_counts(name: str, tmp_path: Path) -> None:
    config = awp_config(tmp_path, property=name)
    run = Run.start(tmp_path / "run", "awp", config)
    awp.run(config, run)
    history = [row for row in Run(tmp_path / "run").events("train") if "purpose" in row]
    assert history
    if name == "low-latency":
        assert history[-1]["purpose"] > 0
    assert (
        load_recogniser(str(run.model), device="cpu").vocabulary.tokens == tiny_recogniser().vocabulary.tokens
    )
    report = read_report(run.report)
    (table,) = [one for one in report.sections if one.title == "Clips"]
    counts = dict(table.rows)
    assert counts["left out: silent"] == 1
    assert counts["left out: no text in the vocabulary"] == 1
    assert counts["held-out clips"] + counts["training clips"] == 6
    assert "9 characters outside the vocabulary left out" in table.note


def test_awp_refuses_a_model_that_is_not_usable(tmp_path: Path) -> None:
    config = awp_config(tmp_path, start_accuracy=0.8)
    with pytest.raises(CoalignError, match=r"word accuracy is 0%.*80% are needed[\s\S]*--start-step"):
        awp.run(config, Run.start(tmp_path / "run", "awp", config))


def test_awp_refuses_an_unknown_property_before_any_work(tmp_path: Path) -> None:
    config = awp_config(tmp_path, property="fast")
    run = Run.start(tmp_path / "run", "awp", config)
    with pytest.raises(ConfigError, match="there is no 'fast'"):
        awp.run(config, run)
    assert not (run.artefacts / "round-1").exists()


def make_recordings(folder: Path) -> Path:
    for number in range(2):
        wav(folder / f"r{number}.wav", 12, number)
        (folder / f"r{number}.txt").write_text("\n".join([*TEXTS, "!!!"]))
    write_wav(folder / "silent.wav", np.zeros(32_000))
    (folder / "silent.txt").write_text("nothing to hear")
    return folder


def alignment_config(tmp_path: Path, **changes: Any) -> pseudo_forced_alignment.Config:
    values = {
        "data": str(make_recordings(tmp_path / "recordings")),
        "model": str(tiny_recogniser().save(tmp_path / "model")),
        "device": "cpu",
        "min_score": -30,
        "threshold": -30,
        "instant_accept": -20,
        "max_steps": 2,
        "batch_size": 2,
        "save_steps": 0,
    }
    return build(pseudo_forced_alignment.Config, {**values, **changes})


def test_alignment_writes_everything_and_loses_nothing(tmp_path: Path) -> None:
    config = alignment_config(tmp_path, eval_data=str(make_clips(tmp_path / "clips", 2)), rounds=1)
    run = Run.start(tmp_path / "run", "pseudo-forced-alignment", config)
    pseudo_forced_alignment.run(config, run)
    folder = run.path / "alignments"
    assert len(list(folder.iterdir())) == 2 * 6
    for row in map(json.loads, (run.artefacts / "round-2" / "generate.jsonl").read_text().splitlines()):
        lines = [one["row"] for one in row["utterances"]] + [one["row"] for one in row["unaligned"]]
        assert sorted(lines) == list(range(6)), "every line once"
        assert any(one["reason"].startswith("nothing in it") for one in row["unaligned"])
        for one in row["utterances"]:
            assert [word["word"] for word in one["words"]] in ([], one["text"].split())
    kept = [json.loads(line) for line in (folder / "r0.jsonl").read_text().splitlines()]
    assert kept[0].keys() >= {"id", "audio", "row", "text", "start", "end", "score", "words"}
    report = read_report(run.report)
    (table,) = [one for one in report.sections if one.title == "Recordings"]
    assert table.note == "Recordings left out: 1 x silent."
    assert load_recogniser(str(run.model), device="cpu")


def test_text_far_longer_than_the_audio_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    wav(folder / "r.wav", 1)
    (folder / "r.txt").write_text("\n".join(TEXTS * 20))
    config = alignment_config(tmp_path, data=str(folder))
    run = Run.start(tmp_path / "run", "pseudo-forced-alignment", config)
    pseudo_forced_alignment.run(config, run)
    rows = [
        json.loads(line) for line in (run.artefacts / "round-1" / "generate.jsonl").read_text().splitlines()
    ]
    (row,) = rows
    assert len(row["utterances"]) + len(row["unaligned"]) == 100
    assert any("longer than the audio" in one["reason"] for one in row["unaligned"])


def test_alignment_of_what_cannot_be_aligned(tmp_path: Path) -> None:
    config = alignment_config(tmp_path, model="small")
    with pytest.raises(ConfigError, match="untrained"):
        pseudo_forced_alignment.run(config, Run.start(tmp_path / "a", "pseudo-forced-alignment", config))
    folder = tmp_path / "silence"
    write_wav(folder / "s.wav", np.zeros(32_000))
    (folder / "s.txt").write_text("nothing")
    config = alignment_config(tmp_path, data=str(folder))
    with pytest.raises(CoalignError, match="No recording can be used: 1 x silent"):
        pseudo_forced_alignment.run(config, Run.start(tmp_path / "b", "pseudo-forced-alignment", config))
    with pytest.raises(ConfigError, match="expected one of: embed, link, none"):
        alignment_config(tmp_path, page_sound="loud")
