"""`compress-align` on tiny models of the real classes: rewards, cuts of every kind of source, thresholds, bad records."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.curation import compress_align
from coalign.curation.image_text.annotations import RankedCaptions, read_annotations
from coalign.curation.image_text.corpus import portable
from coalign.curation.image_text.encoders import open_reward
from coalign.curation.image_text.quality import (
    Picture,
    ScoreTable,
    explained_by_group,
    preference_accuracy,
    quantiles_of,
    threshold_of,
)
from coalign.curation.image_text.reward import EmbeddingReward
from coalign.curation.image_text.training import RankedCaptionTask, make_example, split_pictures
from coalign.data.media.pictures import Picture as DataPicture
from coalign.data.media.records import read_media
from coalign.report.html import read_report
from tests.vision.tiny import blip_folder, noise, save_noise, small_clip_folder, write_rows

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_clip_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blip_folder(tmp_path_factory.mktemp("models") / "blip")


def ranked(number: int, **more: Any) -> dict[str, Any]:
    texts = [f"a {COLOURS[number % 3]} circle", "a ring and a square", "a"]
    captions = [{"text": one, "origin": "xyz"[place]} for place, one in enumerate(texts)]
    return {"image": f"seen/{number}.png", "captions": captions, "ranks": [1, 2, 2], **more}


def annotations_file(folder: Path, count: int = 8) -> Path:
    save_noise(folder / "seen", count)
    return write_rows(folder / "ranked.jsonl", [ranked(number) for number in range(count)])


def pairs_file(folder: Path, count: int = 8) -> Path:
    save_noise(folder / "crawled", count)
    rows = [
        {"image": f"crawled/{number}.png", "caption": f"a {COLOURS[number % 3]} square"}
        for number in range(count)
    ]
    return write_rows(folder / "pairs.jsonl", rows)


def run_of(path: Path, **options: Any) -> Run:
    few: dict[str, Any] = {"score_batch": 3, "workers": 1} if "data" in options else {}
    config = build(compress_align.Config, {"device": "cpu", **few, **options})
    run = Run.start(path, "compress-align", config)
    compress_align.run(config, run)
    run.set_status(state="done")
    return run


def kept(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.artefacts / "curation" / "kept.jsonl").read_text().splitlines()]


def rejected(run: Run) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run.artefacts / "curation" / "rejects.jsonl").read_text().splitlines()
    ]


LEARN = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "save_steps": 0, "eval_fraction": 0.25}


def test_a_reward_that_was_saved_scores_alike_and_cuts_other_shards_at_its_quantile(
    clip: Path, tmp_path: Path
) -> None:
    ranks, pairs = str(annotations_file(tmp_path)), str(pairs_file(tmp_path))
    first = run_of(
        tmp_path / "first", annotations=[ranks], encoder=str(clip), data=[pairs], keep=0.25, **LEARN
    )
    again = run_of(tmp_path / "again", reward=str(first.path), data=[pairs], keep=0.25)
    assert kept(again) == kept(first)
    assert len(kept(first)) == 2
    stored = json.loads((first.model / "quantiles.json").read_text())
    assert stored["n"] == 8
    assert len(stored["quantiles"]) == 101
    cut = run_of(tmp_path / "cut", reward=str(first.path), data=[pairs], keep=0.25, threshold="stored")
    assert {one["id"] for one in kept(cut)} == {one["id"] for one in kept(first)}
    titles = {one.title for one in read_report(first.report).sections}
    assert {
        "Held-out preferences",
        "What became of the pairs",
        "Scores",
        "By origin",
        "Kept pairs",
        "Dropped pairs",
    } <= titles
    (first.model / "quantiles.json").unlink()
    with pytest.raises(ModelError, match="no quantiles of a corpus"):
        run_of(tmp_path / "none", reward=str(first.path), data=[pairs], threshold="stored")


def test_a_reward_on_another_encoder_than_its_own_is_refused(clip: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", annotations=[str(annotations_file(tmp_path))], encoder=str(clip), **LEARN)
    about = json.loads((run.model / "reward.json").read_text())
    (run.model / "reward.json").write_text(json.dumps({**about, "identity": "another"}))
    with pytest.raises(ModelError, match="learnt on another"):
        open_reward(run.model, "cpu")
    with pytest.raises(ModelError, match="holds no reward"):
        open_reward(tmp_path, "cpu")


def test_blip_learns_in_its_upper_layers_and_is_saved_whole(blip: Path, tmp_path: Path) -> None:
    ranks, pairs = str(annotations_file(tmp_path)), str(pairs_file(tmp_path, 4))
    run = run_of(
        tmp_path / "run", annotations=[ranks], encoder=str(blip), data=[pairs], keep=0.5, frozen=0.5, **LEARN
    )
    from safetensors.torch import load_file

    after, before = (
        load_file(run.model / "backbone" / "model.safetensors"),
        load_file(blip / "model.safetensors"),
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("text_encoder.encoder.layer.1" in name for name in moved)
    assert any("vision_model.encoder.layers.1" in name for name in moved)
    assert not any(".0." in name or "embeddings" in name or "itm_head" in name for name in moved)
    scorer = open_reward(run.model, "cpu")
    for row in kept(run):
        picture = DataPicture(row["image"]).open()
        found = scorer.score([picture], [0], [row["caption"]])[0]
        assert found == pytest.approx(row["score"], abs=5e-3), "rewards of random weights lie near each other"


def test_the_matching_head_is_that_of_transformers(blip: Path, tmp_path: Path) -> None:
    from transformers import BlipForImageTextRetrieval, BlipProcessor

    run = run_of(tmp_path / "run", by="itm", encoder=str(blip), data=[str(pairs_file(tmp_path, 3))], keep=1.0)
    model: Any
    processor: Any
    model, processor = (
        BlipForImageTextRetrieval.from_pretrained(blip).eval(),
        BlipProcessor.from_pretrained(blip),
    )
    for row in kept(run):
        with torch.no_grad():
            inputs = processor(
                images=DataPicture(row["image"]).open(), text=row["caption"], return_tensors="pt"
            )
            theirs = model(**inputs).itm_score.softmax(-1)[0, 1]
        assert row["score"] == pytest.approx(float(theirs), abs=1e-5)
    with pytest.raises(ConfigError, match="needs a dual encoder"):
        run_of(tmp_path / "other", by="clip-score", encoder=str(blip), data=[str(tmp_path / "pairs.jsonl")])


def test_the_cosine_is_that_of_transformers(clip: Path, tmp_path: Path) -> None:
    from coalign.pairs.encoders import ImageTextEncoder

    run = run_of(
        tmp_path / "run", by="clip-score", encoder=str(clip), data=[str(pairs_file(tmp_path))], keep=1.0
    )
    encoder = ImageTextEncoder.load(str(clip), device="cpu")
    for row in kept(run):
        with torch.no_grad():
            image = encoder.image(encoder.pixels([row["image"]])).pooled
            text = encoder.text(encoder.ids([row["caption"]])).pooled
        assert row["score"] == pytest.approx(
            float(torch.nn.functional.cosine_similarity(image, text)), abs=1e-5
        )


def shard(path: Path, numbers: range, *, damaged: int | None = None) -> Path:
    """A WebDataset shard of pictures that are noise; one of them may be cut off."""
    import io

    with tarfile.open(path, "w") as tar:
        for number in numbers:
            stream = io.BytesIO()
            noise(number).save(stream, format="PNG")
            data = stream.getvalue()[:150] if number == damaged else stream.getvalue()
            for name, content in (
                (f"{number:04d}.png", data),
                (f"{number:04d}.txt", f"a {COLOURS[number % 3]} ring".encode()),
            ):
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return path


def test_shards_come_in_and_go_out_and_broken_pictures_fall(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shard(folder / "00.tar", range(5), damaged=3)
    shard(folder / "01.tar", range(5, 9))
    run = run_of(tmp_path / "run", by="clip-score", encoder=str(clip), data=[str(folder)], keep=0.5, shards=3)
    assert len(kept(run)) == 4, "half of the eight that can be opened, rounded down"
    (broken,) = [one for one in rejected(run) if one["reason"] == "picture cannot be used"]
    assert "0003.png" in broken["steps"][-1]["problem"]
    assert any(
        "cannot be opened" in " ".join(getattr(one, "paragraphs", ()))
        for one in read_report(run.report).sections
    )
    found = read_media(run.path / "shards", kind="image")
    assert [one.caption for one in found.records] == [row["caption"] for row in kept(run)]
    pixels = [one.picture.open().tobytes() for one in found.records if one.picture is not None]
    assert pixels == [DataPicture(row["image"]).open().tobytes() for row in kept(run)]
    assert sorted(one.name for one in (run.path / "shards").iterdir()) == ["00000.tar", "00001.tar"]
    again = run_of(tmp_path / "again", by="random", data=[str(run.path)], keep=1.0)
    assert len(kept(again)) == 4, "what a run keeps is data for the next"


def test_the_same_pixels_with_the_same_caption_are_kept_once(clip: Path, tmp_path: Path) -> None:
    save_noise(tmp_path / "a", 3)
    noise(0).save(tmp_path / "a" / "copy.bmp")
    rows = [{"image": "a/0.png", "caption": "a ring"}, {"image": "a/copy.bmp", "caption": "a ring"},
            {"image": "a/copy.bmp", "caption": "a square"}, {"image": "a/1.png", "caption": ["a ring", "a circle"]}]  # fmt: skip
    data = str(write_rows(tmp_path / "pairs.jsonl", rows))
    run = run_of(tmp_path / "run", by="clip-score", encoder=str(clip), data=[data], keep=1.0)
    assert [row["id"] for row in kept(run)] == ["0", "2", "3/0", "3/1"]
    whole = run_of(
        tmp_path / "whole", by="clip-score", encoder=str(clip), data=[data], keep=1.0, duplicates="keep"
    )
    assert len(kept(whole)) == 5
    assert all("image_hash" not in row for row in kept(whole))


def test_random_scores_depend_on_the_pair_and_the_seed_alone(tmp_path: Path) -> None:
    pairs = str(pairs_file(tmp_path))
    first, other = (
        run_of(tmp_path / name, by="random", data=[pairs], keep=1.0, score_batch=size)
        for name, size in (("a", 3), ("b", 8))
    )
    assert [row["score"] for row in kept(first)] == [row["score"] for row in kept(other)]
    drawn = run_of(tmp_path / "c", by="random", data=[pairs], keep=1.0, seed=1)
    assert [row["score"] for row in kept(drawn)] != [row["score"] for row in kept(first)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": None}, "image: is missing"),
        ({"captions": [{"text": "a"}]}, "captions: has 1 texts, expected at least 2"),
        ({"captions": ["a", " "]}, "captions[1]"),
        ({"ranks": [1, 2]}, "ranks: is [1, 2], expected 3 numbers"),
        ({"ranks": [1, "2", 3]}, "ranks"),
    ],
)
def test_a_bad_annotation_is_named_with_its_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    file = write_rows(tmp_path / "ranked.jsonl", [ranked(0), ranked(1, **change)])
    with pytest.raises(DataError) as caught:
        read_annotations([str(file)])
    assert "ranked.jsonl:2" in str(caught.value)
    assert words in str(caught.value)
    found, problems = read_annotations([str(file)], skip_bad=True)
    assert (len(found), len(problems)) == (1, 1)


def test_rankings_come_as_ranks_as_scores_and_as_preferences(tmp_path: Path) -> None:
    rows = [ranked(0), {"image": "a.png", "captions": ["x", "y"], "scores": [0.2, 0.9]},
            {"image": "a.png", "chosen": "good", "rejected": "bad"}]  # fmt: skip
    found, _ = read_annotations([str(write_rows(tmp_path / "ranked.jsonl", rows))])
    assert [one.pairs for one in found] == [2, 1, 1]
    assert found[1].ranks == (-0.2, -0.9)
    assert (found[2].captions, found[2].ranks) == (("good", "bad"), (1, 2))


def test_pairs_that_cannot_be_read_fail_or_fall(clip: Path, tmp_path: Path) -> None:
    file = pairs_file(tmp_path, 3)
    file.write_text(file.read_text() + '{"image": "crawled/0.png"}\n{"caption": "no picture"}\n')
    options = {"by": "clip-score", "encoder": str(clip), "data": [str(file)], "keep": 1.0}
    with pytest.raises(DataError, match=r"pairs.jsonl:4: caption: missing"):
        run_of(tmp_path / "run", **options)
    run = run_of(tmp_path / "skip", on_bad_record="skip", **options)
    assert len(kept(run)) == 3
    assert [one["reason"] for one in rejected(run)] == ["not a pair", "not a pair"]


def test_a_run_without_data_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        run_of(tmp_path / "run")


def test_rankings_of_one_picture_are_on_one_side() -> None:
    records = [
        RankedCaptions(str(n), DataPicture(f"{n % 4}.png"), ("a", "b"), ("", ""), (1, 2)) for n in range(12)
    ]
    learning, held_out = split_pictures(records, 0.5, 0)
    assert len(learning) == len(held_out) == 6
    assert not {one.image.source for one in learning} & {one.image.source for one in held_out}


@pytest.mark.parametrize("average", ["groups", "pairs"])
@pytest.mark.parametrize("ties", ["exclude", "half"])
def test_parts_of_a_step_add_up_to_the_whole(average: Any, ties: Any) -> None:
    """Accumulation: sums and counts of halves are those of the batch."""

    class Given:
        def rewards(self, model: Any, groups: Any) -> torch.Tensor:
            return torch.tensor([float(one) for group in groups for one in group])

    records = [
        RankedCaptions(str(n), DataPicture(f"{n}.png"), ("a",) * 3, ("",) * 3, (1, 2 - n % 2, 3))
        for n in range(4)
    ]
    examples = [make_example(one, [n, 2 * n, -n]) for n, one in enumerate(records)]
    task = RankedCaptionTask(Given(), ties, average)

    def parts(some: Any) -> tuple[float, int]:
        batch = task.collate(some)
        return float(task.record_losses(Given().rewards(None, batch["groups"]), batch).sum()), task.count(
            batch
        )

    whole, halves = parts(examples), [parts(examples[:1]), parts(examples[1:])]
    assert sum(one[0] for one in halves) == pytest.approx(whole[0], rel=1e-6)
    assert sum(one[1] for one in halves) == whole[1]


def test_standardised_rewards_have_mean_zero_and_deviation_one() -> None:
    torch.manual_seed(0)
    model = EmbeddingReward(4).eval()
    given = torch.randn(50, 4), torch.randn(50, 4), torch.arange(50)
    with torch.no_grad():
        before = model(*given)
        model.standardise(before)
        after = model(*given)
        model.standardise(after)
    assert float(after.mean()) == pytest.approx(0, abs=1e-5)
    assert float(after.std()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(before.argsort(), after.argsort())
    torch.testing.assert_close(model(*given).detach(), after, atol=1e-5, rtol=1e-4)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=300), st.floats(0, 1))
@settings(max_examples=50)
def test_a_stored_quantile_is_within_the_scores(scores: list[float], keep: float) -> None:
    found = threshold_of(quantiles_of(np.array(scores)), keep)
    assert min(scores) <= found <= max(scores)


def test_length_matched_pairs_see_through_a_score_that_is_length() -> None:
    pictures = [Picture([1, 2, 3], [9, 5, 5], {"length": [9.0, 5.0, 5.0]}) for _ in range(3)]
    whole, matched = (preference_accuracy(pictures, "length", alike=alike) for alike in (None, 1))
    assert whole is not None
    assert matched is not None
    assert whole.mean == pytest.approx(2.5 / 3)
    assert matched.mean == 0.5
    assert preference_accuracy([Picture([1, 1], [3, 3], {"x": [1.0, 2.0]})], "x") is None


def test_variance_between_origins() -> None:
    assert explained_by_group([1.0, 1.0, 5.0, 5.0], ["a", "a", "b", "b"]) == 1.0
    assert explained_by_group([1.0, 5.0, 1.0, 5.0], ["a", "a", "b", "b"]) == 0.0
    assert explained_by_group([2.0, 2.0], ["a", "b"]) == 0.0


def test_scores_of_a_corpus_are_read_in_columns() -> None:
    rows = [{"score": float(n), "words": n, "kept": n > 1, "origin": "ab"[n % 2]} for n in range(4)]
    table = ScoreTable.of(rows)
    assert [(one["origin"], one["pairs"], one["kept"]) for one in table.by_origin()] == [
        ("b", 2, 1),
        ("a", 2, 1),
    ]
    assert table.shortcuts["length"] == pytest.approx(1)
    assert ScoreTable.of([]).shortcuts == {}


def test_base64_of_any_length_is_no_path(tmp_path: Path) -> None:
    """A name of more characters than a file system takes is an error of its own there."""
    for size in (60, 300, 4000, 5000):
        text = "A" * size
        assert portable(text, tmp_path) == (text if size > 255 else str(tmp_path / text))


def test_a_caption_in_brackets_in_place_of_a_list_is_a_problem_of_its_row(tmp_path: Path) -> None:
    rows = tmp_path / "ranked.jsonl"
    rows.write_text('{"image": "a.png", "captions": "[sic] a dog", "ranks": [1, 2]}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"captions.*1 texts"):
        read_annotations([str(rows)])
