"""Sentence-to-time alignment on clips that are decoded and encoded here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.video import tvta
from coalign.video.grounding.features import FeatureOptions, Features
from coalign.video.grounding.records import read_videos
from tests.video.test_grounding import SIZES as SIZES
from tests.video.test_grounding import SMALL as SMALL
from tests.video.test_grounding import example as example
from tests.video.tiny import clip, save_image_text_model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_text_model(tmp_path_factory.mktemp("clip") / "clip")


def clips(folder: Path, *, broken: bool = False) -> Path:
    """Two clips of three seconds, records beside them."""
    pytest.importorskip("av")
    rows = []
    for name, colours in {
        "a": [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
        "b": [(0, 0, 255), (255, 0, 0), (0, 255, 0)],
    }.items():
        clip(folder / f"{name}.mp4", colours)
        rows.append(
            {"video": f"{name}.mp4", "sentences": [{"text": "a red square", "start": 0, "end": 0}, "a ring"]}
        )
    if broken:
        path = folder / "b.mp4"
        path.write_bytes(path.read_bytes()[:800])
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "clips.jsonl"


def test_clips_are_encoded_once_a_second_and_shown_on_their_page(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    path = clips(tmp_path)
    options = {
        **SMALL,
        "data": str(path),
        "encoder": str(encoder),
        "max_steps": 2,
        "batch_size": 2,
        "eval_fraction": 0.5,
        "page_video": "embed",
    }
    config = build(tvta.Config, options)
    run = Run.start(tmp_path / "run", "tvta", config)
    tvta.run(config, run)
    (page,) = (run.path / "alignments").glob("*.html")
    text = page.read_text()
    assert 'src="data:video/mp4;base64,' in text
    assert "media-src data:" in text
    (row,) = (json.loads(one.read_text()) for one in (run.path / "alignments").glob("*.json"))
    assert (row["frames"], row["fps"]) == (3, 1.0)
    assert "data:image/" in run.report.read_text(), "the report shows what is seen at the moments"
    assert row["sentences"][1]["hit"] is None

    def never(*_: Any) -> None:
        raise AssertionError("a frame was decoded again")

    monkeypatch.setattr("coalign.video.material.sources.Frames.every", never)
    found = read_videos(path)
    assert Features(build(FeatureOptions, {"encoder": str(encoder), "device": "cpu"}), found).visual(
        found[0]
    ).shape == (3, 64)


def test_half_a_clip_is_named_with_its_record(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    found = read_videos(clips(tmp_path, broken=True))
    with pytest.raises(DataError, match=r"clips\.jsonl:2: video: .*b\.mp4"):
        Features(build(FeatureOptions, {"encoder": str(encoder), "device": "cpu"}), found).prepare(found)


def test_a_clip_that_is_too_large_for_a_page_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalign.video.grounding.page.LARGEST_INSIDE", 10)
    config = build(
        tvta.Config, {**SMALL, "data": str(clips(tmp_path)), "encoder": "x", "page_video": "embed"}
    )
    with pytest.raises(ConfigError, match=r"a\.mp4 has .* MiB, expected at most"):
        tvta.Material(config)
