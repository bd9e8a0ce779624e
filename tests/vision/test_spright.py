"""spright as a run: captions, mixed training, counted objects, measurement of pictures made here and elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.cli.running.run import execute
from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.media.conversations import question_about
from coalign.data.media.pictures import Picture
from coalign.models.detection import count_objects, open_detector
from coalign.models.diffusion.files import load_pipeline
from coalign.models.picture_questions import open_picture_answerer
from coalign.models.types import Sampling
from coalign.report.html import read_report
from coalign.vision import spright
from coalign.vision.spatial.measuring import description_of, figures_of, read_descriptions
from tests.preference.tiny_runs import write
from tests.vision.diffusion_models import (
    save_asked_detector,
    save_captioner,
    save_detector,
    save_tiny_pipeline,
)
from tests.vision.drawn import square_picture, told_squares

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_pipeline(folder / "pipeline")
    save_detector(folder / "yolos")
    save_asked_detector(folder / "owl")
    save_captioner(folder / "llava")
    return folder


def run_with(folder: Path, options: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> Run:
    folder.mkdir(exist_ok=True)
    data = {"data": str(write(folder / "told.jsonl", rows))} if rows is not None else {}
    config = build(spright.Config, {"device": "cpu", **data, **options})
    return execute("spright", spright, config, folder / "run")


TRAINED = {
    "image_size": 16,
    "max_steps": 2,
    "batch_size": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_steps": 0,
    "ema": 0.0,
}


def test_text_encoder_and_u_net_learn_at_their_own_rates(models: Path, tmp_path: Path) -> None:
    name = str(models / "pipeline")
    start = load_pipeline(name, device="cpu")
    rows = told_squares(spatial=True)
    both = run_with(tmp_path / "both", {"model": name, **TRAINED, "text_learning_rate": 1e-2}, rows)
    frozen = run_with(tmp_path / "frozen", {"model": name, **TRAINED, "train_text_encoder": False}, rows)
    for run, moved in ((both, True), (frozen, False)):
        after = load_pipeline(str(run.path), device="cpu")
        assert same(start.text_encoder, after.text_encoder) is not moved
        assert not same(start.unet, after.unet)
        assert same(start.vae, after.vae)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_the_update_does_not_depend_on_how_a_step_is_cut(models: Path, tmp_path: Path) -> None:
    """Captions, noise and times belong to the picture and its epoch, so two halves of a batch are the batch."""
    found = []
    for batch, parts in ((4, 1), (2, 2)):
        options = {
            "model": str(models / "pipeline"),
            **TRAINED,
            "batch_size": batch,
            "gradient_accumulation": parts,
        }
        run = run_with(tmp_path / str(batch), options, told_squares(4, spatial=True))
        found.append([(row["loss"], row["grad_norm"]) for row in run.events("train") if "loss" in row])
    assert len(found[0]) == 2
    assert torch.allclose(*map(torch.tensor, found), rtol=1e-4)


def test_captions_alone_are_records_to_train_on(models: Path, tmp_path: Path) -> None:
    options = {"captioner": str(models / "llava"), "tune": False, "caption_tokens": 4}
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(3):
        square_picture("red", (place, 0)).save(folder / f"{place}.png")
        (folder / f"{place}.txt").write_text("a red square")
    run = run_with(tmp_path / "captions", {**options, "data": str(folder)})
    assert run.records is not None
    rows = [json.loads(line) for line in run.records.read_text().splitlines()]
    assert len(rows) == 3
    assert all(row["spatial_caption"] and row["caption"] == "a red square" for row in rows)
    again = run_with(
        tmp_path / "tuned", {"data": str(run.records), "model": str(models / "pipeline"), **TRAINED}
    )
    assert again.state == "done"


def test_pictures_with_few_objects_are_left_out(models: Path, tmp_path: Path) -> None:
    options = {"model": str(models / "pipeline"), **TRAINED, "detector": str(models / "yolos")}
    run = run_with(
        tmp_path / "some",
        {**options, "more_objects_than": 2, "most_pictures": 3},
        told_squares(5, spatial=True),
    )
    facts = json.loads((run.artefacts / "round-1/build.json").read_text())
    assert facts["count"] == 3
    assert facts["counts"]["beyond the most pictures"] == 2
    with pytest.raises(DataError, match="none of 5 pictures has more than 99"):
        run_with(tmp_path / "none", {**options, "more_objects_than": 99}, told_squares(5, spatial=True))


def test_a_run_without_anything_to_do_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        run_with(tmp_path, {})


def test_without_any_spatial_caption_the_mix_is_refused(models: Path, tmp_path: Path) -> None:
    options = {"model": str(models / "pipeline"), **TRAINED}
    with pytest.raises(ConfigError, match="no picture has a spatial caption"):
        run_with(tmp_path / "mixed", options, told_squares())
    assert run_with(tmp_path / "plain", {**options, "spatial_share": 0.0}, told_squares()).state == "done"


def test_pictures_made_elsewhere_are_measured_by_detections_of_elsewhere(tmp_path: Path) -> None:
    """Two pictures of one description, right and wrong, and one whose second object is not there."""
    folder = tmp_path / "made"
    folder.mkdir()
    for name in "abc":
        square_picture("red").save(folder / f"{name}.png")
    rows = [
        {"image": str(folder / "a.png"), "prompt": "a cat left of a cup"},
        {"image": str(folder / "b.png"), "prompt": "a cat left of a cup"},
        {"image": str(folder / "c.png"), "first": "dog", "relation": "above", "second": "tv"},
    ]

    def at(label: str, x: int) -> dict[str, Any]:
        return {"label": label, "score": 0.9, "box": [x, 0, x + 2, 2]}

    found = [
        {"picture": "a.png", "detections": [at("cat", 0), at("cup", 8)]},
        {"picture": "b.png", "detections": [at("cat", 8), at("cup", 0)]},
        {"picture": "c.png", "detections": [at("dog", 0)]},
    ]
    options = {
        "tune": False,
        "pictures": str(write(tmp_path / "made.jsonl", rows)),
        "detections": str(write(tmp_path / "found.jsonl", found)),
    }
    run = run_with(tmp_path / "measured", options)
    figures = run.status()["figures"]
    assert (figures["OA"], figures["VISOR_cond"], figures["both"]) == (pytest.approx(2 / 3), 0.5, 2)
    titles = [one.title for one in read_report(run.report).sections]
    assert {"By relation", "Pictures", "Descriptions by right pictures"} <= {*titles}
    write(tmp_path / "found.jsonl", found[:2])
    with pytest.raises(DataError, match=r"nothing for .*c.png"):
        run_with(tmp_path / "lacking", options)
    (tmp_path / "found.jsonl").write_text('{"picture": "a.png", "detections": [{"label": "cat"}]}\n')
    with pytest.raises(DataError, match=r"found.jsonl:1: detections"):
        run_with(tmp_path / "broken", options)


def test_descriptions_that_state_no_relation_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "asked.txt"
    path.write_text("a cat left of a cup\n\na cat and a cup\n")
    given = {"tune": False, "model": "x", "prompts": str(path), "detector": "y"}
    with pytest.raises(DataError, match=r"asked.txt:3: prompt: 'a cat and a cup' states none"):
        read_descriptions(build(spright.Config, given))
    path.write_text("a cat left of a cup\na cup on top of a cat\n")
    assert [one.relation for one in read_descriptions(build(spright.Config, given))] == ["left", "above"]


def test_descriptions_are_made_of_objects() -> None:
    given = {"tune": False, "model": "x", "detector": "y", "objects": ["cat", "owl"]}
    found = read_descriptions(build(spright.Config, given))
    assert len(found) == 8
    assert found[0].text == "a cat to the left of an owl"
    coco = read_descriptions(build(spright.Config, {**given, "objects": ["coco"], "most_prompts": 40}))
    assert len(coco) == len({one.text for one in coco}) == 40
    assert isinstance(description_of({"first": "a", "relation": "of", "second": "b"}), str)


def test_near_counts_in_the_score_alone() -> None:
    outcome = {"first": {"score": 1, "box": [0, 0, 1, 1]}, "second": None, "correct": True, "score": 0.7}
    found = figures_of([{"relation": "near", "outcomes": [outcome]}])
    assert found["spatial score"] == 0.7
    assert found["OA"] is None


def test_any_detector_finds_objects(models: Path, tmp_path: Path) -> None:
    """Random weights: YOLOS with labels of its own, OWL-ViT asked in text; and a function of one's own."""
    picture = square_picture("red", size=32)
    labelled, asked = (open_detector(str(models / name), device="cpu") for name in ("yolos", "owl"))
    assert {one.label for one in labelled(picture, ["Cat", "cup", "tree"], 0.1)} <= {"Cat", "cup"}
    assert labelled(picture, ["tree"], 0.0) == []
    assert {one.label for one in asked(picture, ["cat", "a cup"], 0.0)} <= {"cat", "a cup"}
    assert count_objects(labelled, picture, [], 0.1) == 6
    assert count_objects(labelled, picture, ["tree"], 0.1) == 0
    (tmp_path / "own.py").write_text(
        "def find(picture, labels, threshold):\n    return [(labels[0], 0.5, (0, 0, 1, picture.width))]\n"
    )
    own = open_detector(f"{tmp_path / 'own.py'}:find")
    assert own(picture, ["x"], 0.1)[0].box == (0, 0, 1, 32)
    assert own(picture, ["x"], 0.5) == []
    with pytest.raises(ModelError):
        open_detector(str(models / "pipeline"))


def test_answers_about_pictures_have_streams_of_their_own(models: Path) -> None:
    answerer = open_picture_answerer(str(models / "llava"), device="cpu")
    colours = ("red", "blue", "green")
    questions = [question_about(Picture(square_picture(one)), "where is the cat") for one in colours]
    sampling = Sampling(max_new_tokens=4, temperature=1.0, n=2)
    kept: dict[int, Any] = {}
    whole = answerer.generate(questions, sampling, on_batch=kept.update, label="")
    assert [len(one) for one in whole] == [2, 2, 2]
    assert kept[1] == whole[1]
    rest = answerer.generate(questions, sampling, done=[0, 1])
    assert rest[0] == []
    assert rest[2] == whole[2]
    with pytest.raises(ModelError):
        open_picture_answerer(str(models / "yolos"), device="cpu")
