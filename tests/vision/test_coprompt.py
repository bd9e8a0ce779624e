"""Tuning of prompts and adapters on few shots."""

import itertools
import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from coalign.checks.worlds.drawn.few_shot import few_shot_world, tuned, zero_shot
from coalign.checks.worlds.drawn.small_clip import Recipe
from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.media.records import MediaRecord
from coalign.pairs.encoders import ImageTextEncoder
from coalign.vision.coprompt import PRESETS, Config, run
from coalign.vision.tuning.augment import NAMES, changed, rand_augment
from coalign.vision.tuning.few_shot import base_and_novel, draw_shots, harmonic_mean
from coalign.vision.tuning.material import descriptions_of
from coalign.vision.tuning.prompted import PromptedEncoder, PromptSettings
from coalign.vision.tuning.report import accuracies, compared_pictures, spread
from coalign.vision.tuning.training import ConsistentTuning, epoch_rate
from tests.contract.paired import CLASSES, drawn_rows
from tests.pairs.tiny import tiny_clip, tiny_siglip

SETTINGS = PromptSettings(length=2, depth=2, context="X X a", ending="")


@pytest.fixture(scope="module", params=["clip", "siglip"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageTextEncoder:
    make = {"clip": tiny_clip, "siglip": tiny_siglip}[request.param]
    return ImageTextEncoder.load(make(tmp_path_factory.mktemp(request.param)))


def record(name: str, at: int) -> MediaRecord:
    return MediaRecord(f"{name}{at}", None, None, label=name)


def test_classes_are_halved_in_sorted_order_the_first_half_rounded_up() -> None:
    assert base_and_novel(["d", "b", "a", "c", "e"], "base-to-novel") == (["a", "b", "c"], ["d", "e"])
    assert base_and_novel(["b", "a"], "all") == (["a", "b"], [])


def test_shots_of_a_class_depend_on_seed_and_class_alone() -> None:
    records = [record(name, at) for name in "abc" for at in range(9)]
    shots = draw_shots(records, ["a", "b"], 3, seed=1)
    assert [one.label for one in shots.records] == ["a"] * 3 + ["b"] * 3
    assert len(shots.rest) == 12
    assert not shots.short
    again = draw_shots(records[::-1], ["b", "c"], 3, seed=1)
    assert {one.id for one in again.records if one.label == "b"} == {one.id for one in shots.records[3:]}
    assert draw_shots(records, ["a", "b"], 3, seed=2).records != shots.records
    assert draw_shots(records, ["a"], 20, seed=1).short == {"a": 9}
    with pytest.raises(DataError, match="no picture of the class 'z'"):
        draw_shots(records, ["z"], 1, 0)


def test_the_harmonic_mean_of_the_papers_average() -> None:
    assert harmonic_mean(84.0, 77.23) == pytest.approx(80.4729, abs=1e-4)
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_only_prompts_maps_and_adapters_are_trained(encoder: ImageTextEncoder) -> None:
    model = PromptedEncoder(encoder, SETTINGS)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {
        "prompts",
        "projections",
        "image_adapter",
        "text_adapter",
    }
    image, text = model(torch.rand(3, 3, 32, 32), model.class_ids(CLASSES))
    assert image.shape == (3, encoder.width)
    assert text.shape == (4, encoder.width)
    (image.sum() + text.sum()).backward()
    assert all(one.grad is not None for one in model.parameters())
    assert all(one.grad is None for one in encoder.model.parameters())


def test_the_first_prompt_starts_from_the_context_and_others_at_random(encoder: ImageTextEncoder) -> None:
    words = encoder.model.text_model.get_input_embeddings().weight
    found = PromptedEncoder(encoder, PromptSettings(length=2, depth=1, context="this shows a", ending=""))
    ids = encoder.tokenizer("this shows", add_special_tokens=False)["input_ids"]
    assert torch.equal(found.prompts[0], words[ids])
    filled = PromptedEncoder(encoder, PromptSettings(length=5, depth=1, context="this shows a", ending=""))
    assert filled.words == "X X X X X"
    assert not torch.equal(filled.prompts[0][:2], words[ids])


def test_a_prompt_that_would_overwrite_the_name_is_refused(
    encoder: ImageTextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalign.vision.tuning.prompted.FILLER", "")
    with pytest.raises(ConfigError, match="overwrites the class name"):
        PromptedEncoder(encoder, PromptSettings(length=5, depth=1, context="", ending=""))
    with pytest.raises(ConfigError, match=r"prompt_depth: 9, but the towers of .* have"):
        PromptedEncoder(encoder, PromptSettings(depth=9))


def test_names_of_other_classes_take_the_same_prompts(encoder: ImageTextEncoder) -> None:
    model = PromptedEncoder(encoder, SETTINGS).eval()
    with torch.no_grad():
        both = model.text(model.class_ids(["red_circle", "blue ring"]))
        assert torch.allclose(both[:1], model.text(model.class_ids(["red circle"])), atol=1e-5)
    with pytest.raises(ConfigError, match="is longer than"):
        model.class_ids(["red " * 30])


def test_what_was_trained_is_saved_without_the_model(encoder: ImageTextEncoder, tmp_path: Path) -> None:
    model = PromptedEncoder(encoder, SETTINGS, seed=3)
    model.save(tmp_path / "a", classes=["x"])
    loaded = PromptedEncoder.load(tmp_path / "a", encoder)
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.image(pixels), model.image(pixels))
    assert (tmp_path / "a/prompts.safetensors").stat().st_size < 100_000
    assert json.loads((tmp_path / "a/prompts.json").read_text())["base_model"] == encoder.name
    with pytest.raises(ModelError, match="holds no prompts"):
        PromptedEncoder.load(tmp_path, encoder)
    said = json.loads((tmp_path / "a/prompts.json").read_text()) | {"length": 3}
    (tmp_path / "a/prompts.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match="does not fit"):
        PromptedEncoder.load(tmp_path / "a", encoder)


def test_one_number_is_drawn_for_the_descriptions_of_all_classes() -> None:
    many = [torch.arange(4.0)[:, None], torch.arange(4.0)[:, None] + 10, torch.arange(2.0)[:, None] + 20]
    task = ConsistentTuning(None, torch.zeros(3, 2), many, None, [0], 1.0, "cosine", seed=0)  # type: ignore[arg-type]
    drawn = [task.described(step).flatten().tolist() for step in range(40)]
    assert all(b == a + 10 and c == 20 + a % 2 for a, b, c in drawn)
    assert {a for a, _, _ in drawn} == {0.0, 1.0, 2.0, 3.0}


def test_a_step_depends_on_its_shots_and_its_number_alone(encoder: ImageTextEncoder) -> None:
    """So a training that was cut goes on as if it had not been."""
    model = PromptedEncoder(encoder, SETTINGS)
    pictures = torch.rand(4, 3, 32, 32)

    def view(index: int, draw: random.Random) -> torch.Tensor:
        return pictures[index] * draw.random()

    task = ConsistentTuning(
        encoder,
        model.class_ids(CLASSES),
        [torch.rand(2, encoder.width)] * 4,
        (view, view),
        [0, 1, 2, 3],
        8.0,
        "cosine",
        0,
    )
    state = SimpleNamespace(global_step=5)
    batch = task.collate([1, 6])
    first, again = (task.loss(model, task.collate([1, 6]), state).losses for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(first, again)
    assert batch["labels"].tolist() == [1, 2]
    assert not torch.equal(batch["pixels"], batch["second"])
    other = task.loss(model, task.collate([5, 6]), state).losses  # type: ignore[arg-type]
    assert other[0] != first[0]  # the same shot in another epoch


def test_the_rate_steps_once_an_epoch_after_a_flat_first_one() -> None:
    rates = [epoch_rate(step, 10, 8, first=0.01) for step in range(80)]
    assert rates[:10] == [0.01] * 10
    assert len({round(one, 9) for one in rates}) == 8
    assert rates[10] == pytest.approx((1 + np.cos(np.pi / 8)) / 2)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert epoch_rate(0, 10, 1, first=0.01) == 1.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (60, 40)])
def test_every_change_keeps_size_and_mode(name: str, size: tuple[int, int]) -> None:
    pixels = 200 * np.random.default_rng(0).random((*size[::-1], 3)) ** 2 + 20
    picture = Image.fromarray(pixels.astype(np.uint8))
    for strength in (-1.0, 1.0):
        found = changed(picture, name, strength)
        assert (found.size, found.mode) == (picture.size, "RGB")
    if size != (1, 1) and name != "identity":
        assert any(changed(picture, name, one).tobytes() != picture.tobytes() for one in (-1.0, 1.0))


def test_views_repeat_by_their_random_numbers() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    made = [rand_augment(picture, random.Random(seed)).tobytes() for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    with pytest.raises(ValueError, match="no change"):
        changed(picture, "blur", 1.0)


def test_accuracy_is_per_set_and_spread_over_seeds() -> None:
    def rows(right: int) -> list[dict[str, object]]:
        return [
            {"arm": "a", "set": name, "correct": at < right} for name in ("base", "novel") for at in range(4)
        ]

    by_seed = [accuracies(rows(2)), accuracies(rows(4))]
    assert by_seed[0]["a"] == {"base": 0.5, "novel": 0.5, "harmonic mean": 0.5}
    mean, deviation = spread(by_seed)["a"]["base"]
    assert (mean, deviation) == (0.75, pytest.approx(np.std([0.5, 1.0], ddof=1)))


def test_a_picture_that_several_seeds_measured_counts_once() -> None:
    def rows(arm: str, right: dict[str, bool]) -> list[dict[str, object]]:
        return [{"arm": arm, "set": "novel", "id": name, "correct": one} for name, one in right.items()]

    seeds = [
        [*rows("zero-shot", {"a": True, "b": False}), *rows("x", {"a": True, "b": True})],
        [*rows("zero-shot", {"a": True, "b": False}), *rows("x", {"a": False, "b": True})],
    ]
    (found,) = compared_pictures(seeds, "x")
    assert (found.n, found.before.value, found.after.value) == (2, 0.5, 0.75)


def test_presets_give_what_is_not_said() -> None:
    said = build(Config, {"data": "x", "preset": "pets", "weight": 2.0})
    assert said.resolved() == (*PRESETS["pets"][:2], 2.0)
    assert build(Config, {"data": "x"}).resolved() == (2, 9, 8.0)


def tiny_run(folder: Path, **changes: object) -> Run:
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, drawn_rows(4))))
    if not (folder / "model").exists():
        tiny_clip(folder / "model")
    options = {"data": str(folder / "data.jsonl"), "model": str(folder / "model"), "device": "cpu", "shots": 2, "seeds": [0],
               "prompt_depth": 2, "context": "", "ending": "", "templates": ["a {}"], "max_steps": 1} | changes  # fmt: skip
    if "descriptions" in changes:
        del options["templates"]
    config = build(Config, options)
    made = Run.start(folder / "run", "coprompt", config)
    run(config, made)
    return made


def test_a_run_measures_every_arm_on_the_same_pictures(tmp_path: Path) -> None:
    made = tiny_run(tmp_path, arms=["coprompt", "no-consistency"])
    folder = made.artefacts / "round-1"
    before = [json.loads(line) for line in (folder / "baseline.jsonl").read_text().splitlines()]
    after = [json.loads(line) for line in (folder / "evaluate.jsonl").read_text().splitlines()]
    asked = [(row["set"], row["id"]) for row in before]
    assert [(row["set"], row["id"]) for row in after if row["arm"] == "coprompt"] == asked
    assert [(row["set"], row["id"]) for row in after if row["arm"] == "no-consistency"] == asked
    shots = {json.loads(line)["id"] for line in (folder / "shots.jsonl").read_text().splitlines()}
    assert not shots & {one for name, one in asked if name == "base"}
    assert {row["class"] for row in before if row["set"] == "base"} == {"blue_ring", "green_cross"}
    assert {row["predicted"] for row in before if row["set"] == "novel"} <= {"red_circle", "white_square"}
    assert PromptedEncoder.load(made.path).settings.depth == 2
    page = made.report.read_text()
    assert "data:image/png" in page
    assert "zero-shot" in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shots": 4}, "no picture is left to measure base on"),
        ({"descriptions": "said.json"}, "green_cross: missing, expected a list of one or more sentences"),
        ({"descriptions": "list.json"}, "not an object"),
        ({"descriptions": "nothing.json"}, "cannot be read"),
        ({"test": "odd.jsonl"}, "odd.jsonl:1: label: 'dog', expected a class of"),
    ],
)
def test_data_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("said.json").write_text('{"blue ring": ["a ring"]}')
    Path("list.json").write_text("[1]")
    Path("odd.jsonl").write_text(json.dumps(drawn_rows(1)[0] | {"label": "dog"}))
    with pytest.raises(DataError, match=said):
        tiny_run(tmp_path, **changes)


def test_sentences_are_taken_from_generated_rows(tmp_path: Path) -> None:
    asked = {"blue ring": "1. A blue ring.\n\n- It is round.", "green cross": "A cross in green"}
    rows = [{"id": name, "prompt": "x", "responses": [text, "More. "]} for name, text in asked.items()]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = SimpleNamespace(descriptions=str(tmp_path / "said.jsonl"))
    found = descriptions_of(config, ["blue_ring", "green_cross"])
    assert found == {
        "blue_ring": ["A blue ring.", "It is round.", "More."],
        "green_cross": ["A cross in green", "More."],
    }
    (tmp_path / "said.jsonl").write_text('{"id": "blue ring"}')
    with pytest.raises(DataError, match="expected rows with id and responses"):
        descriptions_of(config, ["blue_ring"])


def test_the_check_in_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path))
    world = few_shot_world(100, shots=2, test=1, recipe=Recipe(pairs=128, steps=2))
    assert len(world.base) == len(world.novel) == 24
    assert not {one.split()[0] for one in world.base} & {one.split()[0] for one in world.novel}
    found = tuned(world, weight=8.0, adapters=True, steps=2)
    assert found.keys() == zero_shot(world).keys() == {"base accuracy", "novel accuracy", "harmonic mean"}
    assert tuned(world, weight=8.0, adapters=True, steps=2) == found
