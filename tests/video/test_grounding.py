"""Sentence-to-time alignment: intervals, the loss, recall, the aligner, steps, records, features, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.files.subtitles import Cue, read_cues, srt, vtt
from coalign.data.messages import FieldError
from coalign.video import tvta
from coalign.video.grounding.features import FeatureOptions, Features
from coalign.video.grounding.losses import alignment_recall, batch_positives, mil_nce, moments, time_mask
from coalign.video.grounding.network import Aligner, AlignerSizes, load_aligner, save_aligner
from coalign.video.grounding.records import Sentence, read_videos
from coalign.video.grounding.steps import chunks, placed_steps, step_intervals
from coalign.video.grounding.training import (
    AlignerOptions,
    Alignment,
    Example,
    collate,
    layer_losses,
    shuffled,
)
from coalign.video.material.feature_files import FeatureError, read_features
from tests.video.tiny import WIDTH, videos

SIZES = AlignerSizes(WIDTH, WIDTH, 16, 8, 1, 2, 2, 16)
SMALL = {"width": 16, "joint": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 16, "device": "cpu"}  # fmt: skip


def example(frames: int, sentences: int, seed: int = 0) -> Example:
    draw = torch.Generator().manual_seed(seed)
    inside = torch.zeros(sentences, frames, dtype=torch.bool)
    for row in range(sentences):
        inside[row, row % frames] = True
    visual, text = (torch.randn(n, WIDTH, generator=draw) for n in (frames, sentences))
    return Example(f"v{seed}", visual, text, inside)


def test_an_interval_holds_the_frames_that_are_shown_in_it_at_any_rate() -> None:
    starts, ends = torch.tensor([0.0, 0.6, -1.0]), torch.tensor([1.0, 0.9, -1.0])
    assert time_mask(starts, ends, 3).tolist() == [[True, True, False], [False] * 3, [False] * 3]
    assert time_mask(starts, ends, 4, fps=2.0).tolist() == [[True] * 3 + [False], [False] * 4, [False] * 4]
    assert time_mask(starts, ends, 4, fps=4.0)[1].tolist() == [False, False, False, True]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 3), st.integers(0, 1000))
def test_padding_changes_no_loss(rows: int, frames: int, padded: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    cosines = torch.rand(rows, frames + padded, generator=draw, dtype=torch.float64) * 2 - 1
    positives = torch.rand(rows, frames + padded, generator=draw) < 0.5
    positives[:, frames:] = False
    hidden = torch.arange(frames + padded) >= frames
    whole = mil_nce(cosines, positives, hidden)
    cut = mil_nce(cosines[:, :frames], positives[:, :frames], hidden[:frames])
    torch.testing.assert_close(whole, cut)
    assert bool((whole >= -1e-12).all())


def test_all_frames_positive_give_nothing_and_none_gives_no_gradient() -> None:
    cosines = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(4, dtype=torch.bool)
    positives = torch.tensor([[True] * 4, [False] * 4])
    losses = mil_nce(cosines, positives, nothing)
    losses.sum().backward()
    assert losses.abs().max() < 1e-12
    assert cosines.grad is not None
    assert cosines.grad.abs().max() < 1e-12


def test_the_loss_is_finite_in_half_precision() -> None:
    cosines = torch.tensor([[1.0, -1.0]], dtype=torch.float16)
    hidden = torch.tensor([False, True])
    losses = mil_nce(cosines, torch.tensor([[True, False]]), hidden)
    assert losses.item() == 0.0


def test_positives_are_frames_of_the_own_video() -> None:
    inside = torch.tensor([[[True, False]], [[False, True]]])
    assert batch_positives(inside).tolist() == [[True, False, False, False], [False, False, False, True]]


def test_the_moment_is_never_a_padded_frame_and_a_sentence_without_a_frame_is_missed() -> None:
    similarity = torch.tensor([[[0.1, 0.2, 0.9], [0.5, 0.1, 0.9]]])
    found, curves = moments(similarity, torch.tensor([[False, False, True]]))
    assert found.tolist() == [[1, 0]]
    assert curves[..., 2].abs().max() == 0
    inside = torch.tensor([[[False, True, False], [False, False, False]]])
    assert alignment_recall(found, inside, torch.tensor([[True, True]])) == 0.5
    assert alignment_recall(found, inside, torch.tensor([[True, False]])) == 1.0
    assert np.isnan(alignment_recall(found, inside, torch.tensor([[False, False]])))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_video_is_placed_alike_alone_and_in_a_padded_batch(ordered: bool) -> None:
    torch.manual_seed(0)
    model = Aligner(SIZES).eval()
    alone, longer = example(4, 2, 1), example(9, 5, 2)
    one = model.similarity(collate([alone]), ordered=ordered)[0]
    both = model.similarity(collate([alone, longer]), ordered=ordered)[0, :2, :4]
    torch.testing.assert_close(one, both, rtol=1e-4, atol=1e-5)


def test_order_counts_only_where_sentences_have_positions() -> None:
    torch.manual_seed(0)
    model = Aligner(SIZES).eval()
    batch = collate([example(6, 4)])
    for (
        weight
    ) in model.parameters():  # as training makes them: the first weights are too small to look anywhere
        weight.data *= 20 if weight.ndim > 1 else 1
    turned = {**batch, "text": batch["text"].flip(1)}
    free, back = (model.similarity(one, ordered=False) for one in (batch, turned))
    torch.testing.assert_close(free, back.flip(1), rtol=1e-3, atol=1e-4)
    kept, back = (model.similarity(one, ordered=True) for one in (batch, turned))
    assert (kept - back.flip(1)).abs().max() > 1e-3


def test_a_shuffled_batch_keeps_sentences_with_their_intervals() -> None:
    batch = collate([example(5, 3, 1), example(5, 5, 2)])
    mixed = shuffled(batch, torch.Generator().manual_seed(1))
    for row in range(2):
        before = {tuple(text.tolist()): (hidden, place.tolist()) for text, hidden, place in zip(
            batch["text"][row], batch["text_padding"][row].tolist(), batch["inside"][row], strict=True)}  # fmt: skip
        for text, hidden, place in zip(
            mixed["text"][row], mixed["text_padding"][row].tolist(), mixed["inside"][row], strict=True
        ):
            assert before[tuple(text.tolist())] == (hidden, place.tolist())


@pytest.mark.parametrize(("mean", "counted"), [("padded", 10), ("valid", 8)])
def test_what_the_loss_is_divided_by(mean: Any, counted: int) -> None:
    task = Alignment(AlignerOptions(mean=mean), 0)
    batch = task.collate([example(5, 3, 1), example(5, 5, 2)])
    assert task.count(batch) == counted


def test_the_loss_is_the_mean_over_the_layers() -> None:
    torch.manual_seed(0)
    model = Aligner(SIZES).eval()
    batch = collate([example(5, 3, 1), example(4, 2, 2)])
    losses, _ = layer_losses(model, batch, ordered=True, temperature=0.07)
    frames, layers = model(
        *(batch[name] for name in ("visual", "visual_padding", "text", "text_padding")), ordered=True
    )
    positives, hidden = batch_positives(batch["inside"]), batch["visual_padding"].flatten()
    each = [mil_nce(one.flatten(0, 1) @ frames.flatten(0, 1).T, positives, hidden) for one in layers]
    torch.testing.assert_close(losses, (each[0] + each[1]) / 2)


def test_an_aligner_is_read_back_and_another_folder_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Aligner(SIZES).eval()
    save_aligner(model, tmp_path / "model", order="shuffled")
    read, about = load_aligner(tmp_path)
    batch = collate([example(4, 2)])
    assert torch.equal(read.similarity(batch, ordered=False), model.similarity(batch, ordered=False))
    assert about["order"] == "shuffled"
    with pytest.raises(ModelError, match="no aligner"):
        load_aligner(tmp_path / "other")


def test_steps_take_the_times_of_what_is_near_them() -> None:
    spoken = [Cue(0, 3, "hello"), Cue(5, 6, "crack the egg"), Cue(7.2, 7.8, "done")]
    similarity = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    found = step_intervals(similarity, spoken, sharpness=0.05, spread=0.7)
    assert found[0] == (5.0, 6.0)
    assert found[1] == (7.0, 7.0), "a stretch between two seconds is read at the one before"
    assert found[2] == (0.0, 3.0), "of equal peaks the first, and no further than the curve stays up"


def test_transcripts_are_cut_at_cues(tmp_path: Path) -> None:
    rows = [{"video_id": "a", "features": "a.npy", "transcript": [
        {"text": "one two three", "start": 0, "end": 1}, {"text": "four", "start": 1, "duration": 1},
        {"text": "five six", "start": 2, "end": 3}]}]  # fmt: skip
    np.save(tmp_path / "a.npy", np.zeros((3, 2), np.float32))
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps(rows[0]))
    (video,) = read_videos(path, transcripts=True)
    assert [one.prompt[0]["content"] for one in chunks([video], "<{transcript}>", 4)] == [
        "<one two three four>",
        "<five six>",
    ]
    assert [(one.text, one.start, one.end) for one in video.sentences][1] == ("four", 1.0, 2.0)


def test_steps_that_the_aligner_does_not_see_are_left_out(tmp_path: Path) -> None:
    videos(tmp_path / "v.jsonl", 1)
    (video,) = read_videos(tmp_path / "v.jsonl")
    row = {"fps": 1.0, "frames": 12, "sentences": [
        {"text": "b", "time": 10.0, "score": 0.9}, {"text": "a", "time": 1.0, "score": 0.8}, {"text": "c", "time": 1.0, "score": 0.1}]}  # fmt: skip
    record, left = placed_steps(row, video, window=8.0, least=0.8)
    assert left == 1
    assert [(one["text"], one["start"], one["end"]) for one in record["sentences"]] == [
        ("a", 0.0, 5.0),
        ("b", 6.0, 11.0),
    ]


def test_cues_of_every_form(tmp_path: Path) -> None:
    cues = [Cue(1.0, 2.5, "Break the egg"), Cue(3.0, 4.0, "a < b & c")]
    for name, text in {"a.srt": srt(cues), "a.vtt": vtt(cues)}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_cues(tmp_path / name) == cues
    whisper = {
        "language": "en",
        "segments": [{"text": f" {one.text} ", "start": one.start, "end": one.end} for one in cues],
    }
    (tmp_path / "a.json").write_text(json.dumps(whisper))
    assert read_cues(tmp_path / "a.json") == cues
    cpp = {
        "transcription": [
            {"text": one.text, "offsets": {"from": one.start * 1000, "to": one.end * 1000}} for one in cues
        ]
    }
    youtube = {"events": [{"tStartMs": 0, "dDurationMs": 9000}] + [
        {"tStartMs": one.start * 1000, "dDurationMs": (one.end - one.start) * 1000, "segs": [{"utf8": part} for part in one.text.partition(" ")]}
        for one in cues]}  # fmt: skip
    for other in (cpp, youtube):
        (tmp_path / "a.json").write_text(json.dumps(other))
        assert read_cues(tmp_path / "a.json") == cues
    (tmp_path / "b.json").write_text('[{"text": "x", "start": 3, "end": 1}]')
    with pytest.raises(FieldError, match="not before start"):
        read_cues(tmp_path / "b.json")
    (tmp_path / "c.json").write_text('{"a": 1}')
    with pytest.raises(FieldError, match="segments"):
        read_cues(tmp_path / "c.json")


def test_a_folder_of_videos_with_transcripts_beside_is_read(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mkv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.srt").write_text(srt([Cue(0, 1, "one")]))
    (tmp_path / "b.txt").write_text("first\n\nsecond\n")
    a, b = read_videos(tmp_path)
    assert a.sentences == (Sentence("one", 0.0, 1.0),)
    assert b.texts == ["first", "second"]
    (tmp_path / "b.txt").unlink()
    with pytest.raises(DataError, match=r"b\.mkv: transcript: none"):
        read_videos(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sentences": [{"text": "x", "start": 3, "end": 1}]}, r"sentences\[0\]\.end: 1, expected a time not before"),
        ({"sentences": [{"text": "x", "start": -1, "end": 1}]}, r"sentences\[0\]\.start: the number -1"),
        ({"sentences": [{"text": "x", "start": 1}]}, r"sentences\[0\]\.end: missing"),
        ({"sentences": [{"text": " "}]}, r"sentences\[0\]\.text: only white space"),
        ({"sentences": "x"}, "sentences: the text 'x', expected a list"),
        ({"sentences": []}, "sentences: missing or empty"),
        ({"features": "gone.npy"}, r"features: no such file \(gone.npy\)"),
        ({"features": None}, "video: missing"),
        ({"features": "https://x.org/a.npy"}, "features: an address"),
        ({"fps": 0}, "fps: 0, expected a number above 0"),
        ({"transcript": [{"text": "x"}]}, r"transcript\[0\]: missing"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = videos(tmp_path / "v.jsonl", 2)
    rows = read_rows(path)
    rows[1] = {**rows[1], **change}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=rf"v\.jsonl:2: {words}"):
        read_videos(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
def test_features_of_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    path = tmp_path / f"f{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    elif suffix == ".npz":
        np.savez(path, a=values, b=values + 1)
    elif suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"a": values, "b": values + 1}, str(path))
    else:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        rows = [*values.tolist(), *(values + 1).tolist()]
        parquet.write_table(pa.table({"video_id": ["a"] * 3 + ["b"] * 3, "features": rows}), path)
    assert read_features(path, "a").tolist() == values.tolist()
    if suffix in (".npz", ".safetensors"):
        with pytest.raises(FeatureError, match="no array"):
            read_features(path, "c")


def test_features_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.array([[0.0], [np.nan]]))
    with pytest.raises(FeatureError, match="row 1 has a value that is no number"):
        read_features(tmp_path / "nan.npy", "a")
    np.save(tmp_path / "flat.npy", np.zeros((2, 2, 2)))
    with pytest.raises(FeatureError, match="shape"):
        read_features(tmp_path / "flat.npy", "a")
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(FeatureError, match="cannot be read"):
        read_features(tmp_path / "bad.npy", "a")


def test_what_nothing_gives_features_for_is_named(tmp_path: Path) -> None:
    found = read_videos(videos(tmp_path / "v.jsonl", 1))
    with pytest.raises(ConfigError, match=r"v\.jsonl:1: text_features: missing"):
        Features(FeatureOptions(), found)


def test_as_many_text_features_as_sentences(tmp_path: Path) -> None:
    path = videos(tmp_path / "v.jsonl", 2, text_features=True)
    rows = read_rows(path)
    rows[1]["sentences"].pop()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_videos(path)
    with pytest.raises(DataError, match=r"v\.jsonl:2: video: .*4 rows, expected 3, one a sentence"):
        Features(FeatureOptions(), found).prepare(found)


def test_training_finds_the_moments_and_the_aligner_is_used_again(tmp_path: Path) -> None:
    path = videos(tmp_path / "v.jsonl", 16, text_features=True)
    options = {
        **SMALL,
        "data": str(path),
        "max_steps": 120,
        "learning_rate": 1e-2,
        "dropout": 0,
        "eval_fraction": 0.25,
        "save_steps": 0,
    }
    config = build(tvta.Config, options)
    run = Run.start(tmp_path / "run", "tvta", config)
    tvta.run(config, run)
    assert run.status()["figures"]["recall"] >= 0.9
    page = next((run.path / "alignments").glob("*.html")).read_text()
    assert "Take the" in page
    assert "<video" not in page, "there is no clip to play"
    again = build(
        tvta.Config, {"data": str(path), "model": str(run.path), "device": "cpu", "page_video": "none"}
    )
    other = Run.start(tmp_path / "again", "tvta", again)
    tvta.run(again, other)
    assert len(list((other.path / "alignments").glob("*.json"))) == 16
    assert other.status()["figures"]["recall"] >= 0.9


def test_features_of_other_widths_than_the_aligner_takes_are_refused(tmp_path: Path) -> None:
    save_aligner(
        Aligner(AlignerSizes(3, WIDTH, 16, 8, 1, 1, 2, 16)),
        tmp_path / "other",
        order="ordered",
        read_as="ordered",
    )
    path = videos(tmp_path / "v.jsonl", 2, text_features=True)
    config = build(tvta.Config, {"data": str(path), "model": str(tmp_path / "other"), "device": "cpu"})
    with pytest.raises(ConfigError, match=r"widths \(8, 8\), the aligner was trained on \(3, 8\)"):
        tvta.run(config, Run.start(tmp_path / "run", "tvta", config))


def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    path = videos(tmp_path / "v.jsonl", 2, text_features=True)
    rows = [{**row, "sentences": [one["text"] for one in row["sentences"]]} for row in read_rows(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = build(tvta.Config, {**SMALL, "data": str(path)})
    with pytest.raises(DataError, match="no sentence has a start and an end"):
        tvta.run(config, Run.start(tmp_path / "run", "tvta", config))
