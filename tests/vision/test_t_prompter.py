"""Sheets of references: matching, layout, what is painted and chosen; pipelines of diffusers with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.data.media.pictures import Picture
from coalign.judging.asked.options import AskedModel
from coalign.models.types import Generation
from coalign.vision.reference_sheets.elements import asked_elements, read_elements
from coalign.vision.reference_sheets.inpainting import InpaintingOptions, drawn_seed, open_inpainting, seeded
from coalign.vision.reference_sheets.matching import (
    CENTRE,
    PINNED,
    PLACES,
    Matched,
    arrange,
    match_references,
    permutations_of,
    replaced,
    score_candidates,
)
from coalign.vision.reference_sheets.painting import Painter, Pool, Row, Settings, chosen
from coalign.vision.reference_sheets.scenes import Reference, Scene, read_references, read_scenes
from coalign.vision.reference_sheets.sheets import as_tile, centre_of, contact_sheet, seam, sheet_of
from tests.preference.tiny_runs import write
from tests.vision import tiny_pipelines


@given(
    elements=st.integers(1, 4),
    pool=st.integers(1, 14),
    tiles=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_what_an_element_shows_is_not_free_for_the_next(
    elements: int, pool: int, tiles: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    texts, pictures = rng.normal(size=(elements, 5)), rng.normal(size=(pool, 5))
    if pool <= tiles * (elements - 1):
        with pytest.raises(DataError, match="no reference is left"):
            match_references(texts, pictures, tiles=tiles)
        return
    found = match_references(texts, pictures, tiles=tiles)
    shown = [{*one.tiles} for one in found]
    assert sum(map(len, shown)) == len(set().union(*shown))
    assert all(len(one.tiles) == tiles for one in found)
    scaled = match_references(texts * 7, pictures * rng.uniform(0.5, 2, (pool, 1)), tiles=tiles)
    assert scaled == found, "lengths of embeddings say nothing"


def test_of_equal_references_the_first_counts() -> None:
    (found,) = match_references([[1.0, 0.0]], [[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]], tiles=2)
    assert found == Matched((0, 1, 2), (0, 1))


@given(st.integers(1, 9), st.booleans())
def test_every_place_that_is_seen_has_a_tile(blocks: int, skip: bool) -> None:
    each = 9 // blocks
    tiles = [tuple(range(each * number, each * (number + 1))) for number in range(blocks)]
    grid = arrange(tiles, range(blocks), skip_centre=skip)
    assert {*PLACES} - {*grid} == ({CENTRE} if skip else set())
    seen = [grid[place] for place in PLACES if place != CENTRE]
    assert seen[:5] == [(place % (each * blocks)) for place in range(5)]
    if each * blocks == 9:
        assert (5 in seen) == skip, "the sixth tile lies under the mask"


def test_pinned_pictures_lie_over_the_others() -> None:
    grid = arrange([(0, 1, 2), (3, 4, 5), (6, 7, 8)], (0, 1, 2), pinned=(-1, -2))
    assert [grid[place] for place in PINNED] == [-1, -2, 3, 4]
    assert arrange([], ()) == {}
    assert arrange([], (), pinned=(-1,)) == {PINNED[0]: -1}


def test_orders_are_all_or_six_that_differ() -> None:
    assert permutations_of(3, 0)[0] == (0, 1, 2)
    assert [len(permutations_of(count, 0)) for count in (0, 1, 2, 3, 4, 5, 9)] == [1, 1, 2, 6, 24, 6, 6]
    many = permutations_of(6, 3)
    assert many == permutations_of(6, 3) != permutations_of(6, 4)
    assert len({*many}) == 6
    assert many[0] == (0, 1, 2, 3, 4, 5)


def test_the_least_similar_tile_gives_way_to_the_next_unused() -> None:
    one = Matched((4, 2, 0, 1), (4, 2, 0))
    assert replaced(one, [0.1, 0.9, 0.5, 0.9, 0.7], used=[4, 2, 0, 3]).tiles == (4, 2, 1)
    assert replaced(one, [0.1, 0.9, 0.5, 0.9, 0.7], used=[4, 2, 0, 1]) == one


def test_the_weight_of_the_references_changes_the_choice() -> None:
    candidates, text = [[1.0, 0.0], [0.8, 0.6]], [1.0, 0.0]
    references = [[0.0, 1.0]]
    assert score_candidates(candidates, text, references).best == 0
    found = score_candidates(candidates, text, references, weight=1.0)
    assert found.best == 1
    np.testing.assert_allclose(found.copies, [0.0, 0.6])


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 33), (301, 7), (7, 301), (1, 1)])
def test_a_tile_covers_its_place(width: int, height: int) -> None:
    picture = Image.new("RGB", (width, height), (200, 10, 10))
    assert as_tile(picture, 16).size == (16, 16)
    assert np.asarray(as_tile(picture, 16)).min(axis=(0, 1)).tolist() == [200, 10, 10]


def test_the_mask_is_the_centre_alone() -> None:
    tiles = {place: Image.new("RGB", (9, 5), (10 * number, 0, 0)) for number, place in enumerate(PLACES)}
    canvas, mask = sheet_of(tiles, 8)
    values = np.asarray(mask)
    assert values.shape == (24, 24, 3)
    assert (values[8:16, 8:16] == 255).all()
    assert values.sum() == 255 * 3 * 64
    assert np.asarray(canvas)[0, 8].tolist() == [0, 0, 0]
    assert np.asarray(canvas)[0, 0].tolist() == [10, 0, 0]
    assert np.asarray(centre_of(canvas, 8)).reshape(-1, 3).max(0).tolist() == [50, 0, 0]
    assert centre_of(canvas.resize((48, 48)), 8).size == (8, 8)
    assert seam(canvas, 8) > 0
    assert seam(Image.new("RGB", (24, 24)), 8) == 0
    assert contact_sheet([Image.new("RGB", (4, 4))] * 6).size == (12, 8)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('["a cat", "rain"]', ["a cat", "rain"]),
        ('Here: ```json\n["a cat",\n "rain"]\n``` as asked', ["a cat", "rain"]),
        ("1. a cat\n2) rain", ["a cat", "rain"]),
        ('- "a cat"\n- rain', ["a cat", "rain"]),
        ('["a cat"]', None),
        ('["a cat", "rain", "wind"]', None),
        ('["a cat", 3]', None),
        ("a cat and rain", None),
    ],
)
def test_a_reply_is_a_list_of_exactly_so_many_phrases(reply: str, found: list[str] | None) -> None:
    assert read_elements(reply, 2) == found


class Scripted:
    """A generator that gives the same replies in turn."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = replies, 0

    def generate(self, prompts: Any, sampling: Any, *, done: Any = (), on_batch: Any, **how: Any) -> None:
        for place, _ in enumerate(prompts):
            if place not in done:
                self.asked += 1
                on_batch({place: [Generation(self.replies[place])]})


def test_elements_are_asked_for_once(tmp_path: Path) -> None:
    scenes = [Scene("a", "A cat in the rain."), Scene("b", "A dog at sea.")]
    good = Scripted('["A cat", "the rain"]', "1. A dog\n2. sea")
    model = AskedModel(cast("Any", good), "scripted", {})
    for _ in range(2):
        found = asked_elements(tmp_path / "rows.jsonl", scenes, model, count=2, tokens=20)
        assert found == {"a": ("A cat", "the rain"), "b": ("A dog", "sea")}
    assert good.asked == 2
    bad = AskedModel(cast("Any", Scripted('["A cat", "the rain"]', "I cannot.")), "scripted", {})
    with pytest.raises(ModelError, match="no list of 2 phrases for 1 of 2 scenes: b"):
        asked_elements(tmp_path / "others.jsonl", scenes, bad, count=2, tokens=20)


def test_scenes_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a"},
        {"prompt": "", "elements": ["a"]},
        {"prompt": "a", "elements": ["a", 3]},
        {"prompt": "a", "elements": ["a"], "seed": -1},
        {"prompt": "a", "elements": ["a"], "pinned": ["gone.png"]},
    ]
    path = tmp_path / "scenes.jsonl"
    write(path, rows)
    with pytest.raises(DataError) as raised:
        read_scenes(str(path), elements=True, most_elements=9, most_pinned=4)
    text = str(raised.value)
    for line, words in enumerate(["elements: missing", "prompt", "elements", "seed", "gone.png"], start=1):
        assert f"scenes.jsonl:{line}: " in text
        assert words in next(one for one in text.splitlines() if f":{line}: " in one)


def test_references_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(("b.png", "a.jpg", "c.png")):
        Image.new("RGB", (8, 8), (number * 50, 0, 0)).save(tmp_path / name)
    assert [one.id for one in read_references(str(tmp_path))] == ["a.jpg", "b.png", "c.png"]
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"b\.png"):
        read_references(str(tmp_path))


class Colours:
    """A scorer: a picture is its mean colour, a text the colour that it names."""

    def pictures(self, pictures: object) -> np.ndarray:
        return np.array([np.asarray(one, float).reshape(-1, 3).mean(0) / 255 + 0.01 for one in pictures])  # type: ignore[attr-defined]

    def texts(self, texts: object) -> np.ndarray:
        return np.array([[name in one for name in ("red", "green", "blue")] for one in texts], float)  # type: ignore[attr-defined]


def test_rounds_arrange_again_while_the_score_rises(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (200, 80, 0), (150, 150, 0), (0, 255, 0), (0, 180, 80)]
    references = [
        Reference(str(place), Picture(Image.new("RGB", (8, 8), one)), "", {})
        for place, one in enumerate(colours)
    ]
    scorer = Colours()
    pool = Pool(references, scorer.pictures([one.open() for one in references]))
    texts = scorer.texts(["red", "green"])
    cosines = texts @ (pool.embeddings / np.linalg.norm(pool.embeddings, axis=1, keepdims=True)).T
    painted = []

    def inpaint(canvas: Image.Image, mask: Image.Image, text: str, generator: object) -> Image.Image:
        painted.append(text)
        found = canvas.copy()
        found.paste(canvas.crop((8, 0, 16, 8)), (8, 8))
        return found

    def paint(rounds: int) -> list[Row]:
        painter = Painter(
            lambda: inpaint, lambda: scorer, pool, Settings(prefix="A sheet:", side=8, rounds=rounds),
            tmp_path / "rows.jsonl", tmp_path / "pictures",
        )  # fmt: skip
        blocks = match_references(texts, pool.embeddings, tiles=2)
        return painter.paint(0, Scene("s", "something red"), blocks, cosines, seed=3)

    one = paint(1)
    assert painted == ["A sheet: something red"] * 2
    assert chosen(one, 0.0)["permutation"] == [0, 1]
    assert one[0]["tiles"][0] == ["1", "0", "3"]
    assert one[0]["tiles"][1][1] == "MASK"
    three = paint(3)
    assert three[:2] == one, "what is there is not painted again"
    assert {row["round"] for row in three} == {1, 2}, "a round that gains nothing is the last"
    assert len(painted) == 4
    assert three[2]["tiles"] != one[0]["tiles"]


@pytest.mark.parametrize("make", [tiny_pipelines.stable_diffusion, tiny_pipelines.flux_fill])
def test_pipelines_of_diffusers_plug_in(make: Callable[[Path], Path], tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    options = InpaintingOptions(generator=str(make(tmp_path)), steps=2, max_sequence_length=32, device="cpu")
    inpaint = open_inpainting(options)
    canvas, mask = sheet_of({PLACES[0]: Image.new("RGB", (8, 8), (250, 0, 0))}, 16)
    first, again, other = (inpaint(canvas, mask, "a red cat", seeded(seed)) for seed in (1, 1, 2))
    assert first.size == (48, 48)
    assert first.tobytes() == again.tobytes() != other.tobytes()
    canvas, mask = sheet_of({}, 15)
    with pytest.raises(ConfigError, match="multiple of"):
        inpaint(canvas, mask, "a red cat", seeded(1))


def test_what_does_not_in_paint_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(ModelError, match="no in-painting pipeline"):
        open_inpainting(InpaintingOptions(generator=str(tmp_path), device="cpu"))


def test_a_seed_is_drawn_for_each_scene() -> None:
    seeds = [drawn_seed(0, str(number)) for number in range(50)]
    assert len({*seeds}) > 40
    assert all(0 <= one <= 1000 for one in seeds)
    assert drawn_seed(0, "a") == drawn_seed(0, "a") != drawn_seed(1, "a")


def test_the_check_measures_every_way_of_choosing_references() -> None:
    pytest.importorskip("diffusers")
    from coalign.checks.papers.vision.t_prompter import painted, prepared

    material = prepared(100, steps=2, clip_steps=2, prompts=3)
    for selection in ("matched", "random", "none"):
        found = painted(material, selection)
        assert all(np.isfinite(value) for value in found.values())
        assert found == painted(material, selection)


def test_a_plain_tile_is_seen_as_what_it_is() -> None:
    pytest.importorskip("diffusers")
    from coalign.checks.worlds.drawn import themes

    rng = np.random.default_rng(0)
    tiles = [(one, shape) for one in themes.THEMES[::7] for shape in themes.SHAPES]
    drawn = np.stack([themes.drawn_tile(one, shape, rng) for one, shape in tiles])
    assert [(one, shape) for one, shape, _ in themes.seen_as(drawn)] == tiles
    held_out = themes.held_out_themes(3)
    learnt = [one for one in themes.THEMES if one not in held_out]
    assert len({one.palette for one in held_out}) == len(held_out) == 8
    assert {one.palette for one in learnt} == {*themes.PALETTES}
