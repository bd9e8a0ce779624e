"""iCT as a run: networks of every origin, what is saved and how diffusers samples from it, options, pictures, distances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coalign.cli.running.run import execute
from coalign.core.errors import CoalignError, ConfigError, DataError, ModelError
from coalign.core.options import build, defaults
from coalign.core.runs import Run
from coalign.loops.rounds import Round
from coalign.measures.media.distributions import frechet_distance, sliced_wasserstein
from coalign.models.diffusion.files import load_network, load_pipeline
from coalign.models.diffusion.pixels import fitted, grid, to_array, to_pictures, to_tensor
from coalign.models.image_encoder import ImageFeatures
from coalign.training.averages import WeightAverage
from coalign.vision import ict
from coalign.vision.consistency.network import KIND, nearest_timestep, network_function, open_network
from coalign.vision.consistency.objective import ConsistencyObjective
from coalign.vision.consistency.options import NETWORK
from coalign.vision.consistency.sampling import consistency_samples
from coalign.vision.consistency.stages import samples_of
from coalign.vision.consistency.training import NoisedPictures
from tests.contract.generated import SMALL
from tests.preference.tiny_runs import write
from tests.vision.drawn import COLOURS, labelled_squares, png, square_picture

pytest.importorskip("diffusers")
OPTIONS, FILES = SMALL["ict"]


def config(folder: Path, **changes: Any) -> ict.Config:
    folder.mkdir(exist_ok=True)
    data = write(folder / "squares.jsonl", labelled_squares()) if "data" not in changes else None
    return build(ict.Config, {**OPTIONS, **({"data": str(data)} if data else {}), **changes})


def trained(folder: Path, **changes: Any) -> Run:
    return execute("ict", ict, config(folder, **changes), folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("ict"))


def test_diffusers_samples_what_we_sample(run: Run) -> None:
    """The pipeline that is saved gives our samples of one step and of two, from the same noise."""
    pipeline, objective = load_pipeline(str(run.path), device="cpu"), ConsistencyObjective()
    latents = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network = network_function(pipeline.unet, 1000.0, None)
    ours = consistency_samples(objective.model, network, [80.0], [latents])
    theirs = pipeline(batch_size=3, num_inference_steps=1, latents=latents, output_type="pt").images
    assert torch.allclose(theirs, (ours.clamp(-1, 1) / 2 + 0.5), atol=1e-5)


def test_the_timestep_nearest_to_a_level_is_that_of_the_saved_schedule(run: Run) -> None:
    scheduler = load_pipeline(str(run.path), device="cpu").scheduler
    place = nearest_timestep(ConsistencyObjective(), 0.821)
    scheduler.set_timesteps(timesteps=[place, 0])
    first, second, _ = scheduler.sigmas.tolist()
    assert first == pytest.approx(80)
    assert second == pytest.approx(0.821, rel=0.2)


def test_the_average_is_published_and_the_student_lies_beside_it(run: Run) -> None:
    folder = run.artefacts / "round-1"
    average, student = (load_network(str(one), KIND) for one in (run.model, folder / "student"))
    pairs = zip(average.parameters(), student.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)


def test_samples_are_bytes_of_the_pictures_and_a_grid(run: Run) -> None:
    for name in ("one step", "several steps"):
        values = samples_of(Round(run, 1), name)
        assert values.shape == (4, 3, 8, 8)
        assert values.dtype == np.uint8
        assert (run.artefacts / f"round-1/{name.replace(' ', '-')}.png").stat().st_size > 0


def test_a_trained_model_is_trained_on_and_another_kind_is_refused(run: Run, tmp_path: Path) -> None:
    usual = defaults(ict.Config)
    further = trained(tmp_path, model=str(run.path), **{name: usual[name] for name in NETWORK})
    assert further.state == "done"
    with pytest.raises(ModelError, match="expected a UNet2DConditionModel"):
        load_network(str(run.model), "UNet2DConditionModel")


def test_a_network_is_built_as_a_file_says(tmp_path: Path) -> None:
    described = {
        "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": [8, 8],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4, "layers_per_block": 1,
    }  # fmt: skip
    path = tmp_path / "unet.json"
    path.write_text(json.dumps(described))
    options = build(ict.Config, {"data": "x", "model": str(path), "image_size": 8})
    network = open_network(options, size=8, channels=3, classes=0, seed=1)
    again = open_network(options, size=8, channels=3, classes=0, seed=1)
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), again.parameters(), strict=True))
    for channels, size, classes, words in (
        (1, 8, 0, "takes 3 channels"),
        (3, 9, 0, "multiple of 2"),
        (3, 8, 4, "conditioned on 0 classes"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_network(options, size=size, channels=channels, classes=classes, seed=0)
    path.write_text(json.dumps({**described, "time_embedding_type": "fourier"}))
    with pytest.raises(ModelError, match="fourier, expected positional"):
        open_network(options, size=8, channels=3, classes=0, seed=0)
    path.write_text(json.dumps({**described, "down_block_types": ["DownBlock2D"]}))
    with pytest.raises(ConfigError, match="cannot be built"):
        open_network(options, size=8, channels=3, classes=0, seed=0)
    path.write_text("{")
    with pytest.raises(ConfigError, match="expected JSON"):
        open_network(options, size=8, channels=3, classes=0, seed=0)


@pytest.mark.parametrize("name", ["absent", "nobody/nothing-of-this-name"])
def test_a_model_that_is_not_there_is_said_so(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    if "/" not in name:
        folder.mkdir()
    with pytest.raises(ModelError):
        load_network(str(folder) if folder.exists() else name, KIND)
    with pytest.raises(ModelError):
        load_pipeline(str(folder) if folder.exists() else name, device="cpu")


def test_the_update_does_not_depend_on_how_a_step_is_cut(tmp_path: Path) -> None:
    """Noise, level and mirroring belong to the picture and its epoch, so two halves of a batch are the batch."""
    found = []
    for name, batch, parts in (("whole", 4, 1), ("halves", 2, 2)):
        run = trained(
            tmp_path / name, batch_size=batch, gradient_accumulation=parts, dropout=0.0, eval_fraction=0.0,
            eval_steps=None, max_steps=2,
        )  # fmt: skip
        found.append(torch.cat([one.flatten() for one in load_network(str(run.model), KIND).parameters()]))
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_what_is_drawn_for_a_picture_is_of_its_epoch_alone() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (5, 3, 4, 4), dtype=np.uint8)
    data = NoisedPictures(pictures, None, 7, flip=True)
    assert torch.equal(data[3]["noise"], data[3]["noise"])
    assert not torch.equal(data[3]["noise"], data[8]["noise"])
    mirrored = [
        torch.equal(data[3 + 5 * epoch]["data"], to_tensor(pictures[3][..., ::-1])) for epoch in range(40)
    ]
    assert 8 < sum(mirrored) < 32


def test_a_teacher_with_moving_average_trails_and_is_kept(tmp_path: Path) -> None:
    run = trained(tmp_path, teacher_ema=0.9)
    newest = max((run.checkpoints / "train").glob("checkpoint-*"))
    unet = load_network(str(run.artefacts / "round-1/student"), KIND)
    teacher = WeightAverage(unet, 0.9)
    before = {name: one.clone() for name, one in teacher.weights.items()}
    teacher.load(newest / "teacher.safetensors")
    assert any(not torch.equal(teacher.weights[name], one) for name, one in before.items())


def test_a_broken_picture_is_named_or_counted(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(5):
        (folder / f"{place}.png").write_bytes(png(square_picture(COLOURS[place % 4])))
    (folder / "torn.png").write_bytes(png(square_picture("red"))[:60])
    with pytest.raises(DataError, match=r"torn\.png"):
        trained(tmp_path, data=str(folder), eval_fraction=0.0, eval_steps=None)
    run = trained(
        tmp_path / "again", data=str(folder), on_bad_record="skip", eval_fraction=0.0, eval_steps=None
    )
    facts = json.loads((run.artefacts / "round-1/build.json").read_text())
    assert facts["count"] == 5
    assert facts["conversions"]["cannot be decoded"] == 1


def test_too_few_pictures_are_an_error(tmp_path: Path) -> None:
    data = write(tmp_path / "two.jsonl", labelled_squares(2))
    with pytest.raises(CoalignError, match="2 pictures can be used, 3 are needed"):
        trained(tmp_path, data=str(data))


def test_pictures_that_are_not_of_the_stated_spread_are_warned_of(tmp_path: Path) -> None:
    found = trained(tmp_path, sigma_data=5.0, steps_at=[0.8])
    (warning,) = [one for one in found.events("warning") if one["key"] == "deviation"]
    assert "--sigma-data" in warning["advice"]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_pictures_are_brought_to_one_size(fit: Any) -> None:
    wide = square_picture("red", (0, 4), 12).resize((24, 12), 0)
    found = fitted(wide, 6, 6, fit)
    assert found.size == (6, 6)
    corner = found.getpixel((0, 0))
    assert (corner == (255, 255, 255)) == (fit == "pad")


def test_bytes_come_back_from_tensors() -> None:
    picture = square_picture("green")
    values = to_array(picture)
    (again,) = to_pictures(to_tensor(values)[None])
    assert np.array_equal(to_array(again), values)
    (dark,) = to_pictures(torch.full((1, 1, 2, 2), float("nan")))
    assert dark.mode == "L"
    assert dark.getextrema() == (0, 0)
    assert grid([picture] * 5, 2).size == (26, 40)
    with pytest.raises(ValueError, match="no pictures"):
        grid([], 2)


def test_distances_of_a_sample_from_itself_are_nothing_and_grow_with_a_shift() -> None:
    points = np.random.default_rng(0).standard_normal((60, 5))
    assert sliced_wasserstein(points, points) == 0
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    shifted = points + np.array([3.0, 0, 0, 0, 0])
    assert frechet_distance(points, shifted) == pytest.approx(9)
    assert sliced_wasserstein(points, shifted) == pytest.approx(sliced_wasserstein(shifted, points))
    repeated = np.repeat(points, 3, axis=0)
    assert sliced_wasserstein(repeated, shifted) == pytest.approx(sliced_wasserstein(points, shifted))


def test_the_frechet_distance_is_that_of_the_covariances() -> None:
    draw = np.random.default_rng(1)
    first, second = draw.standard_normal((40, 3)), 2 * draw.standard_normal((30, 3)) + 1
    one, two = np.cov(first.T), np.cov(second.T)
    gap = first.mean(0) - second.mean(0)
    root = np.sqrt(np.linalg.eigvals(one @ two).astype(complex)).sum().real
    assert frechet_distance(first, second) == pytest.approx(gap @ gap + np.trace(one + two) - 2 * root)
    for few, words in ((first[:1], "two points"), (first[:, :2], "dimensions")):
        with pytest.raises(ValueError, match=words):
            frechet_distance(few, second)


@pytest.mark.parametrize("kind", ["clip", "dinov2", "resnet"])
def test_features_of_any_encoder_are_one_vector_a_picture(kind: str, tmp_path: Path) -> None:
    """Random weights; CLIP has a method for pictures, DINOv2 pools, ResNet gives a map."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        Dinov2Config,
        Dinov2Model,
        ResNetConfig,
        ResNetModel,
    )  # fmt: skip

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = {**small, "image_size": 16, "patch_size": 8}
    model: Any = {
        "clip": lambda: CLIPModel(CLIPConfig(vision_config=vision, text_config={**small, "vocab_size": 99}, projection_dim=8)),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**{**vision, "mlp_ratio": 1})),
        "resnet": lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])),
    }[kind]()  # fmt: skip
    model.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(tmp_path)
    pictures = [square_picture(one) for one in COLOURS[:3]]
    whole = ImageFeatures(str(tmp_path), device="cpu")(pictures)
    assert whole.shape == (3, 16 if kind == "dinov2" else 8)
    parts = ImageFeatures(str(tmp_path), device="cpu", batch_size=2)(pictures)
    assert np.allclose(whole, parts, atol=1e-6)
