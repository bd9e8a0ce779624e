"""Retrieval of clips: interaction, losses, QB-Norm, head, records, training, index and search."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from coalign.checks.worlds.drawn.small_clip import new_small_clip
from coalign.core.errors import DataError, ModelError, RunError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.media.errors import MediaError
from coalign.data.messages import FieldError
from coalign.measures.retrieval import match_ranks, retrieval_figures
from coalign.pairs.encoders import ImageTextEncoder
from coalign.video import glscl
from coalign.video.material.sources import Frames, parse_video
from coalign.video.retrieval import interaction
from coalign.video.retrieval.index import search
from coalign.video.retrieval.interaction import (
    ClipFeatures,
    TextFeatures,
    global_similarity,
    local_similarity,
    score,
)
from coalign.video.retrieval.network import Head, HeadSizes, Retriever, joint_tokens, load_retriever, new_head
from coalign.video.retrieval.ranking import best_columns, query_bank_normalised
from coalign.video.retrieval.records import read_clips
from coalign.video.retrieval.training import Matching, Reader, clamp_scale
from tests.cli.conftest import coalign as coalign
from tests.video.tiny import clip, drawn_clips, save_image_text_model

SMALL = {"frames": 4, "fps": 1.0, "words": 12, "queries": 2, "decoder_layers": 1, "temporal_layers": 1, "heads": 2, "feed_forward": 16,
         "max_steps": 2, "batch_size": 3, "save_steps": 1, "device": "cpu", "encode_batch": 2}  # fmt: skip


def drawn(texts: int, clips: int, frames: int, seed: int) -> tuple[TextFeatures, ClipFeatures]:
    draw = torch.Generator().manual_seed(seed)
    random = lambda *size: torch.randn(*size, generator=draw)  # noqa: E731
    mask = (torch.arange(frames) < torch.randint(1, frames + 1, (clips, 1), generator=draw)).float()
    made = random(clips, frames, 5) * mask[..., None]
    concepts = [normalize(random(n, 3, 5), dim=-1) for n in (texts, clips)]
    return TextFeatures(random(texts, 5), concepts[0]), ClipFeatures(made, mask, concepts[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 4), st.integers(0, 999))
def test_scores_of_collections_are_those_of_the_plain_form(a: int, b: int, frames: int, seed: int) -> None:
    texts, clips = drawn(a, b, frames, seed)
    assert texts.concepts is not None
    assert clips.concepts is not None
    plain = global_similarity(texts.pooled, clips.frames, clips.mask, 0.7)
    plain = plain + 0.5 * local_similarity(texts.concepts, clips.concepts)
    patch = pytest.MonkeyPatch()
    with patch.context() as small:
        small.setattr(interaction, "BLOCK_TEXTS", 3)
        small.setattr(interaction, "BLOCK_CLIPS", 2)
        found = score(texts, clips, temperature=0.7, local_weight=0.5)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


def test_padded_frames_change_nothing() -> None:
    texts, clips = drawn(4, 3, 3, 1)
    wide = ClipFeatures(
        torch.nn.functional.pad(clips.frames, (0, 0, 0, 2), value=9.0),
        torch.nn.functional.pad(clips.mask, (0, 2)),
    )
    for one in (clips, wide):
        found = global_similarity(texts.pooled, one.frames, one.mask)
        torch.testing.assert_close(found, global_similarity(texts.pooled, clips.frames, clips.mask))
        torch.testing.assert_close(score(texts, one, local_weight=0), found, rtol=1e-4, atol=1e-5)


def test_a_clip_whose_weights_all_vanish_keeps_its_cosine() -> None:
    """The official form loses all mass to padded frames here, and with it the direction."""
    text = torch.tensor([[100.0, 0.0]])
    frames = torch.tensor([[[-10.0, 1.0], [0.0, 0.0]]])
    found = global_similarity(text, frames, torch.tensor([[1.0, 0.0]]), 0.1)
    torch.testing.assert_close(found, torch.tensor([[-10 / 101**0.5]]))


def test_one_pair_and_one_query_are_fine() -> None:
    concepts = normalize(torch.ones(1, 1, 4), dim=-1)
    assert glscl.matching_loss(torch.zeros(1, 1), torch.tensor(2.0)) == 0
    assert glscl.intra_diversity(concepts) == 0
    assert glscl.inter_consistency(concepts, concepts, target=1.0) < 1e-12


def test_consistency_over_the_batch_does_not_grow_with_it() -> None:
    """With the official divisor a perfect match of a large batch is far above its target."""
    values = {}
    for count in (2, 64):
        same = normalize(torch.ones(count, 2, 4), dim=-1)
        for way in ("queries", "batch"):
            values[way, count] = float(
                glscl.inter_consistency(same, same, weight=1.0, target=1.0, normalise=way)
            )  # type: ignore[arg-type]
    assert values["batch", 2] == pytest.approx(values["batch", 64], abs=1e-9)
    assert values["queries", 64] > 100 > values["queries", 2]


def test_a_bank_that_knows_no_hub_changes_nothing_and_large_betas_stay_finite() -> None:
    scores = torch.tensor([[1.4, 0.1], [0.2, 1.5]])
    assert torch.equal(query_bank_normalised(scores, scores, least=3), scores)
    found = query_bank_normalised(scores, scores, least=1, beta=500.0)
    assert torch.isfinite(found).all()
    assert found.argmax(1).tolist() == [0, 1]


def test_equal_scores_count_against_the_query() -> None:
    scores = np.ones((3, 3))
    assert match_ranks(scores).tolist() == [3, 3, 3]
    assert match_ranks(scores, ties="expected").tolist() == [2, 2, 2]
    several = np.array([[True, False, True], [False, False, False], [False, True, False]])
    ranks = match_ranks(np.array([[3.0, 2.0, 1.0]] * 3), several)
    assert ranks[[0, 2]].tolist() == [1, 2]
    assert np.isnan(ranks[1])
    assert retrieval_figures(scores).recall[1] == 0.0
    assert best_columns(torch.ones(1, 3), 2) == [[0, 1]]
    assert best_columns(torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0]]), 4) == [[1, 3, 2, 4]]
    assert best_columns(torch.tensor([[1.0, 2.0]]), 5) == [[1, 0]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_text_model(tmp_path_factory.mktemp("clip") / "clip")


def test_the_layers_over_frames_begin_as_those_of_the_text_model(encoder: Path) -> None:
    loaded = ImageTextEncoder.load(encoder, device="cpu")
    head = new_head(loaded, positions=40, temporal_layers=2)
    text: Any = loaded.model.text_model
    for own, given_layer in zip(head.temporal, text.encoder.layers, strict=False):
        for name, weight in own.state_dict().items():
            assert torch.equal(weight, given_layer.state_dict()[name]), name
    table = text.embeddings.position_embedding.weight
    assert torch.equal(head.places.weight[: len(table)], table)


def test_frames_of_a_clip_do_not_depend_on_padding() -> None:
    torch.manual_seed(0)
    head = Head(HeadSizes(8, 6, 2, 1, 2, 2, 16, 0.0, 2, 16)).eval()
    frames = torch.randn(2, 3, 8)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    whole = head.frames(frames, mask)
    torch.testing.assert_close(whole[1:, :2], head.frames(frames[1:, :2], mask[1:, :2]), rtol=1e-4, atol=1e-5)
    hidden = head.concepts(frames, mask)
    torch.testing.assert_close(hidden[1:], head.concepts(frames[1:, :2]), rtol=1e-4, atol=1e-5)


def test_any_siglip_is_an_encoder_too() -> None:
    from transformers import SiglipConfig, SiglipModel

    text = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
            "max_position_embeddings": 6, "projection_size": 8}  # fmt: skip
    vision = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "image_size": 8,
        "patch_size": 4,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    _, tokenizer = new_small_clip(0)
    loaded = ImageTextEncoder(model, tokenizer, None)
    retriever = Retriever(loaded, new_head(loaded, positions=3, heads=2, feed_forward=8)).eval()
    ids = torch.randint(4, 20, (2, 6))
    pooled, concepts = retriever.texts(ids, torch.ones(2, 6))
    assert pooled.shape == (2, 8)
    assert concepts is not None
    assert concepts.shape == (2, 8, 8)
    assert joint_tokens(loaded, loaded.text(ids)).shape == (2, 6, 8)
    frames, _ = retriever.clips(torch.rand(2, 3, 3, 8, 8), torch.ones(2, 3))
    assert frames.shape == (2, 3, 8)


def test_the_encoder_has_a_rate_of_its_own_and_the_scale_stays_at_100(encoder: Path) -> None:
    loaded = ImageTextEncoder.load(encoder, device="cpu")
    loaded.model.requires_grad_(True)
    model = Retriever(loaded, new_head(loaded, positions=2, heads=2, feed_forward=8))
    task = Matching(Reader(loaded, 2, 1.0, 8), lambda found, scale: (scale, {}), encoder_rate=0.01)

    class Arguments:
        learning_rate, weight_decay = 0.1, 0.2

    groups = task.optimizer(model, Arguments()).param_groups  # type: ignore[arg-type]
    assert sorted((round(one["lr"], 6), one["weight_decay"]) for one in groups) == [
        (0.001, 0.0),
        (0.001, 0.2),
        (0.1, 0.0),
        (0.1, 0.2),
    ]
    assert sum(len(one["params"]) for one in groups) == len(list(model.parameters()))
    with torch.no_grad():
        loaded.model.logit_scale.fill_(9.0)
    clamp_scale(model)
    assert float(loaded.scale.detach()) == pytest.approx(100)


def test_records_of_one_clip_are_one_clip_with_several_captions(tmp_path: Path) -> None:
    found = read_clips(drawn_clips(tmp_path / "clips.jsonl"))
    assert len(found) == 6
    assert found[0].captions[1] == "another one of the first"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"caption": "x"}, "video: missing"),
        ({"video": "gone.mp4", "caption": "x"}, r"video: no such file \(gone\.mp4\)"),
        ({"video": "clips-c1"}, "caption: missing"),
        ({"video": "clips-c1", "caption": " "}, "caption: only white space"),
        ({"video": "clips-c1", "captions": []}, "captions: an empty list"),
        ({"video": "clips-c1", "captions": ["x", 3]}, "captions: one of them is the number 3"),
        (
            {"video": "clips-c1", "caption": "x", "start": 2, "end": 2},
            r"end: 2, expected a time after start \(2\)",
        ),
    ],
)
def test_a_record_that_cannot_be_used_is_named(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = drawn_clips(tmp_path / "clips.jsonl", 2)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"clips\.jsonl:4: {words}"):
        read_clips(path)


def test_a_retriever_is_trained_indexed_and_searched(
    tmp_path: Path, encoder: Path, coalign: Callable[..., Any]
) -> None:
    data = drawn_clips(tmp_path / "clips.jsonl")
    config = build(
        glscl.Config, {**SMALL, "data": str(data), "encoder": str(encoder), "eval_data": str(data)}
    )
    run = Run.start(tmp_path / "run", "glscl", config)
    glscl.run(config, run)
    rows = json.loads(
        "[" + ",".join((run.artefacts / "round-1" / "evaluate.jsonl").read_text().splitlines()) + "]"
    )
    assert len(rows) == 7
    assert "data:image/" in run.report.read_text(), "the report shows what texts find"
    (found,) = search(run.path, [rows[2]["text"]], count=3, device="cpu")
    assert [one["id"] for one in found] == [name for name, _ in rows[2]["found"][:3]]
    assert [one["score"] for one in found] == pytest.approx(
        [value for _, value in rows[2]["found"][:3]], abs=1e-4
    )
    said = coalign("search", str(run.path), "a large red circle", "--top", "2", "--json", "--device", "cpu")
    assert said.code == 0, said.err
    assert [json.loads(line)["rank"] for line in said.out.splitlines()] == [1, 2]
    table = coalign("search", str(run.path), "a large red circle", "--device", "cpu")
    assert "caption" in table.out
    again = build(
        glscl.Config,
        {
            "data": str(data),
            "model": str(run.path),
            "device": "cpu",
            "bank_data": str(data),
            "qb_least": [1, 1],
        },
    )
    other = Run.start(tmp_path / "again", "glscl", again)
    glscl.run(again, other)
    assert "QB-Norm" in other.report.read_text()
    moved = run.path.rename(tmp_path / "moved")
    assert search(moved, ["a ring"], count=1, device="cpu"), "a run that was moved can be searched"
    model, about = load_retriever(moved, device="cpu")
    assert about["temperature"] == 3.0
    assert model.head.sizes.queries == 2


def test_what_cannot_be_searched_is_said(tmp_path: Path, coalign: Callable[..., Any]) -> None:
    with pytest.raises(RunError, match="no index"):
        search(tmp_path, ["x"])
    assert "Nothing to search for" in coalign("search", str(tmp_path)).err
    with pytest.raises(ModelError, match="no retriever"):
        load_retriever(tmp_path)


def test_a_clip_that_cannot_be_decoded_is_named(tmp_path: Path, encoder: Path) -> None:
    data = drawn_clips(tmp_path / "clips.jsonl", 3)
    (tmp_path / "clips-c1" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    config = build(
        glscl.Config, {**SMALL, "data": str(data), "encoder": str(encoder), "eval_data": str(data)}
    )
    with pytest.raises(DataError, match=r"clips\.jsonl:2: video: .*0\.png"):
        glscl.run(config, Run.start(tmp_path / "run", "glscl", config))


def test_stretches_of_one_video_are_clips_of_their_own(tmp_path: Path) -> None:
    path = drawn_clips(tmp_path / "clips.jsonl", 1)
    stretches = [(0, 1, "first"), (1, None, "then"), (0, 1, "again")]
    rows = [
        {"video": "clips-c0", "caption": text, "start": start, "end": end} for start, end, text in stretches
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_clips(path)
    assert [one.id for one in found] == ["clips-c0@0-1", "clips-c0@1-end"]
    assert found[0].captions == ("first", "again")


def test_frames_are_spread_over_a_clip_a_stretch_and_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("av")
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    path = clip(tmp_path / "a.mp4", colours)

    def seen(frames: Frames, count: int, fps: float = 1.0) -> list[int]:
        """Which of the colours each picture is nearest to."""
        pixels = [np.asarray(one, dtype=float).mean((0, 1)) for one in frames.evenly(count, fps)]
        return [int(np.abs(np.array(colours) - one).sum(1).argmin()) for one in pixels]

    assert seen(Frames("a", path), 12) == [0, 1, 2, 3, 4]
    assert seen(Frames("a", path), 3) == [0, 2, 4]
    assert seen(Frames("a", path), 1) == [0]
    assert seen(Frames("a", path, start=1.0, end=3.0), 12) == [1, 2]
    assert seen(Frames("a", path, start=2.0), 12) == [2, 3, 4]
    assert len(seen(Frames("a", path), 12, fps=2.0)) == 10
    with pytest.raises(MediaError, match=r"no frame at 9 s"):
        seen(Frames("a", path, start=9.0), 1)
    assert [round(time, 2) for time, _ in Frames("a", path, start=1.0, end=2.0).every(0.5)] == [0.0, 0.5]
    folder = drawn_clips(tmp_path / "clips.jsonl", 3).with_name("clips-c2")
    assert len(Frames("b", folder).evenly(12, 1.0)) == 4
    assert len(Frames("b", folder, fps=2.0).evenly(12, 1.0)) == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="no pictures in it"):
        Frames("c", tmp_path / "none").evenly(2, 1.0)


def test_a_clip_in_the_record_is_the_same_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    path = clip(tmp_path / "a.mp4", [(250, 0, 0), (0, 0, 250)])
    data = path.read_bytes()
    url = "data:video/mp4;base64," + base64.b64encode(data).decode()
    for value in (data, {"path": None, "bytes": data}, {"path": str(path), "bytes": None}, url):
        found = parse_video({"video": value}, tmp_path)
        assert found is not None
        assert found.read_bytes() == data
    for value, words in ((3, "the number 3"), ({"path": "gone.mp4", "bytes": None}, "gone.mp4")):
        with pytest.raises(FieldError, match=words):
            parse_video({"video": value}, tmp_path)
