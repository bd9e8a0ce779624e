"""Drawn scenes, their captions and the small CLIP."""

from pathlib import Path

import numpy as np
import pytest
import torch

from coalign.checks.worlds.drawn.captions import caption, phrase, vocabulary, word_tokenizer
from coalign.checks.worlds.drawn.scene import (
    COLOURS,
    PLACES,
    PLAIN,
    SHAPES,
    SHIFTED,
    DrawnObject,
    coverage,
    draw,
    draw_many,
    random_scene,
)
from coalign.checks.worlds.drawn.small_clip import Recipe, drawn_pairs, small_clip, train_small_clip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", ["red", "cyan"])
def test_an_object_lies_in_its_cell_in_its_colour(shape: str, colour: str) -> None:
    picture = draw([DrawnObject(shape, colour, "large", "bottom left")], PLAIN, np.random.default_rng(3))
    assert picture.shape == (3, 32, 32)
    assert picture.dtype == torch.float32
    found = (picture - torch.tensor(COLOURS[colour])[:, None, None]).abs().amax(0) < 0.2
    assert int(found[16:, :16].sum()) > 20
    assert not found[:12].any()
    assert not found[:, 20:].any()


def test_shapes_of_one_radius_differ() -> None:
    covers = [coverage(one, 16, 16, 6.8) for one in SHAPES]
    assert all(abs(a - b).sum() > 10 for at, a in enumerate(covers) for b in covers[:at])
    assert coverage("circle", 16, 16, 5).sum() == pytest.approx(np.pi * 25, rel=0.03)
    with pytest.raises(ValueError, match="'star' is no shape"):
        coverage("star", 16, 16, 5)


def test_pictures_depend_on_the_seed_alone_and_styles_differ() -> None:
    scenes = [random_scene(np.random.default_rng(1)) for _ in range(8)]
    first, again = (draw_many(scenes, PLAIN, np.random.default_rng(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.min() >= 0
    assert first.max() <= 1
    brightness = [
        float(draw_many(scenes, one, np.random.default_rng(2)).median()) for one in (PLAIN, *SHIFTED)
    ]
    assert brightness == sorted(brightness)


def test_objects_of_a_scene_have_cells_of_their_own() -> None:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, counts=(2, 3)) for _ in range(50)]
    assert {len(one) for one in scenes} == {2, 3}
    assert all(len({o.place for o in one}) == len(one) for one in scenes)


def test_captions_tell_what_is_there() -> None:
    one, two = (
        DrawnObject("ring", "blue", "small", "top left"),
        DrawnObject("cross", "red", "large", "bottom right"),
    )
    assert (
        caption([one, two]) == "a small blue ring at the top left and a large red cross at the bottom right"
    )
    assert phrase(one, size=0, place=0) == "a blue ring"
    rng = np.random.default_rng(0)
    told = [caption([one], rng) for _ in range(400)]
    assert all("a" in text.split() and "blue ring" in text for text in told)
    assert sum("small" in text for text in told) / 400 == pytest.approx(0.5, abs=0.08)
    assert sum("top left" in text for text in told) / 400 == pytest.approx(0.6, abs=0.08)
    assert {text.split()[0] for text in told} == {"a", "there", "this"}


def test_every_word_of_the_world_has_an_id_and_the_end_is_not_the_highest() -> None:
    tokenizer, rng = word_tokenizer(vocabulary()), np.random.default_rng(0)
    ids = tokenizer([caption(random_scene(rng), rng) for _ in range(100)], padding="max_length")["input_ids"]
    assert {len(row) for row in ids} == {24}
    assert all(tokenizer.unk_token_id not in row and row.count(tokenizer.eos_token_id) == 1 for row in ids)
    assert tokenizer.eos_token_id not in (2, max(map(max, ids)))
    assert set(PLACES) == {f"{a} {b}" for a in ("top", "bottom") for b in ("left", "right")}


def test_the_small_clip_learns_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoProcessor, CLIPModel

    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path))
    recipe = Recipe(pairs=64, steps=2)
    folder = small_clip(recipe)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert small_clip(recipe) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert small_clip(Recipe(pairs=64, steps=3)) != folder
    pictures, texts = drawn_pairs(64, 0)
    trained, _ = train_small_clip(pictures, texts, steps=2, seed=0)
    loaded, processor = CLIPModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    ids = processor.tokenizer(texts[:3], padding="max_length", return_tensors="pt")["input_ids"]
    for name, value in loaded(input_ids=ids, pixel_values=pictures[:3]).items():
        if name.startswith("logits"):
            assert torch.allclose(value, trained(input_ids=ids, pixel_values=pictures[:3])[name], atol=1e-5)
