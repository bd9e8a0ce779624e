"""Search of pictures by a description: pseudo-texts, two towers, retrieval by identity."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from coalign.checks.worlds.drawn import figure_search, figures, scene
from coalign.checks.worlds.drawn.small_clip import Recipe
from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.vision.search.lexicon import choose, fill, label, lexicon_of, read_lexicon
from coalign.vision.search.objectives import IGNORED, mask_words, masked_word_loss, ranking_losses
from coalign.vision.search.towers import TowerSettings, TwoTowers, max_pooled, open_towers, unit
from coalign.vision.search.training import FineTuning, Identities, Pretraining, names_a_side
from coalign.vision.unipt import Config, run
from tests.contract.paired import SMALL, figure_rows, tiny_bert, tiny_vit
from tests.pairs.tiny import tiny_clip

SETTINGS = TowerSettings(width=8, height=16, image_width=8, text_length=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("towers")
    tiny_vit(made / "vit")
    tiny_bert(made / "bert")
    return made


@pytest.fixture
def towers(folder: Path) -> TwoTowers:
    return open_towers(str(folder / "vit"), str(folder / "bert"), SETTINGS, seed=0).eval()


# --- phrases and sentences


def test_the_built_in_lexicon_has_the_papers_categories_and_whole_sentences() -> None:
    lexicon = read_lexicon(None)
    required = [one.name for one in lexicon.categories if one.required]
    assert required == ["age", "gender", "upper", "lower", "action", "hair"]
    assert len(lexicon.categories) == 14
    for template in lexicon.templates:
        for chosen in ({one.name: 1 for one in lexicon.categories}, dict.fromkeys(required, 0)):
            text = fill(template, lexicon.phrases(chosen))
            assert not set("[]{}") & set(text)
            assert text[0].isupper()
            assert text.endswith(".")
            assert "  " not in text
            assert " a o" not in text.lower()


def test_optional_parts_without_a_phrase_are_left_out() -> None:
    template = "a {age} person in {upper}[ with {bag}][, {hat}][ and {bag} by the {hat}]."
    said = {"age": "old", "upper": "red"}
    assert fill(template, said) == "An old person in red."
    assert fill(template, said | {"hat": "a cap"}) == "An old person in red, a cap."
    assert fill(template, said | {"hat": "a cap", "bag": "a case"}).count("a case") == 2
    with pytest.raises(KeyError):
        fill(template, {"age": "old"})


def test_what_is_absent_or_unsure_is_not_said() -> None:
    lexicon = lexicon_of(
        {"categories": {"top": {"required": True, "phrases": ["red", "blue"]},
                        "bag": {"phrases": ["none", "a case"], "negative": 0}},
         "templates": ["{top}[ {bag}]"]}, "x",
    )  # fmt: skip
    draw = random.Random(0)
    assert lexicon.sentence({"top": 0, "bag": 1}, draw) == "Red a case"
    assert lexicon.sentence({"top": 0, "bag": 0}, draw) == "Red"
    assert lexicon.sentence({"top": 1, "bag": None}, draw) == "Blue"


@given(st.integers(2, 6), st.floats(1, 100), st.floats(0, 1), st.integers(0, 9999))
@settings(max_examples=40, deadline=None)
def test_a_phrase_is_chosen_by_cosine_and_an_optional_one_by_its_share(
    count: int, scale: float, threshold: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    images, phrases = (torch.randn(n, 5, generator=draw, dtype=torch.float64) for n in (3, count))
    cosine = torch.cosine_similarity(images[:, None], phrases[None], dim=-1)
    places, sure = choose(images, phrases, required=True, scale=scale)
    assert places.tolist() == cosine.argmax(1).tolist()
    assert torch.allclose(sure, (scale * cosine).softmax(1).amax(1))
    optional, _ = choose(3 * images, phrases, required=False, scale=scale, threshold=threshold)
    assert all(b == (a if one > threshold else -1) for a, b, one in zip(places, optional, sure, strict=True))


def test_labels_say_how_sure_they_are() -> None:
    lexicon = lexicon_of(
        {"categories": {"bag": {"phrases": ["none", "one"], "negative": 0}}, "templates": ["x[ {bag}]"]}, "x"
    )
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    (first, second, third) = label(images, [torch.eye(2)], lexicon, scale=100.0)
    assert (first["bag"][0], second["bag"][0], third["bag"][0]) == (0, 1, None)
    assert third["bag"][1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([], "expected categories and templates"),
        ({"categories": {}, "templates": ["x"]}, "expected {name:"),
        ({"categories": {"a": {"phrases": ["x"]}}, "templates": ["x"]}, "two or more texts"),
        ({"categories": {"a": {"phrases": ["x", "y"]}}, "templates": ["x"]}, "needs a phrase that says so"),
        ({"categories": {"a": {"phrases": ["x", "y"], "negative": 2}}, "templates": ["x"]}, "0 to 1"),
        ({"categories": {"a": {"phrases": ["x", "y"], "required": "no"}}, "templates": ["x"]}, "true or false"),
        ({"categories": {"a": {"phrases": ["x", "y"], "prompt": "z", "required": True}}, "templates": ["x"]}, "one {}"),
        ({"categories": {"a": {"phrases": ["x", "y"], "required": True}}, "templates": ["{b}"]}, "'b' is no category"),
        ({"categories": {"a": {"phrases": ["x", "y"], "negative": 0}}, "templates": ["{a}"]}, "put its part in"),
        ({"categories": {"a": {"phrases": ["x", "y"], "required": True}}, "templates": []}, "one or more sentences"),
        ({"categories": {"a": {"phrases": ["x", "y"], "odd": 1}}, "templates": ["x"]}, "expected phrases, prompt"),
    ],
)  # fmt: skip
def test_a_lexicon_that_cannot_be_used_is_refused(said: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as found:
        lexicon_of(said, "mine.yaml")
    assert problem in str(found.value)
    assert "mine.yaml" in str(found.value)


# --- losses


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.floats(0.05, 0.9), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_whole_words_are_masked(lengths: list[int], share: float, seed: int) -> None:
    words = [None, *(at for at, n in enumerate(lengths) for _ in range(n)), None]
    ids = list(range(10, 10 + len(words)))
    masked, labels = mask_words(ids, words, random.Random(seed), share=share, mask=1, vocabulary=9)
    for number in {one for one in words if one is not None}:
        inside = [at for at, one in enumerate(words) if one == number]
        assert len({labels[at] == IGNORED for at in inside}) == 1
    for at, one in enumerate(labels):
        assert (one == IGNORED and masked[at] == ids[at]) or one == ids[at]
    assert labels[0] == labels[-1] == IGNORED
    assert any(one != IGNORED for one in labels) == any(lengths)


def test_of_masked_words_four_fifths_become_the_mask() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(2000):
        masked, labels = mask_words([5], [0], random.Random(seed), share=1.0, mask=1, vocabulary=4)
        assert labels == [5]
        kinds["mask" if masked == [1] else "same" if masked == [5] else "random"] += 1
    assert kinds["mask"] / 2000 == pytest.approx(
        0.85, abs=0.03
    )  # of the random tokens one in four is the mask
    assert kinds["same"] / 2000 == pytest.approx(0.1, abs=0.03)


def test_a_batch_without_masked_words_has_no_loss() -> None:
    total, count = masked_word_loss(torch.randn(1, 2, 3), torch.full((1, 2), IGNORED))
    assert (float(total), int(count)) == (0.0, 0)


def test_the_hardest_negative_is_of_another_identity() -> None:
    similarity = torch.tensor([[0.5, 0.9, 0.1], [0.8, 0.6, 0.2], [0.4, 0.3, 0.7]])
    found = ranking_losses(similarity, torch.tensor([0, 0, 1]), 0.2)
    assert found.tolist() == pytest.approx([0.2 - 0.5 + 0.4 + 0.0, 0.0, 0.0], abs=1e-6)
    assert ranking_losses(similarity, torch.tensor([4, 4, 4]), 0.2).tolist() == [0.0, 0.0, 0.0]


def test_the_maximum_leaves_padding_out_where_it_is_asked_to() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [9.0, 9.0]]])
    assert max_pooled(tokens).tolist() == [[9.0, 9.0]]
    assert max_pooled(tokens, torch.tensor([[1, 0]])).tolist() == [[1.0, 2.0]]


def test_short_vectors_are_normalised_in_float32() -> None:
    assert unit(torch.full((1, 4), 1e-5, dtype=torch.float16)).norm() == pytest.approx(1.0)


# --- towers


def test_pictures_that_are_no_squares_have_interpolated_positions(towers: TwoTowers) -> None:
    assert towers.image_tokens(torch.rand(2, 3, 16, 8)).shape == (2, 1 + 2, 8)
    as_many = towers.image_tokens(torch.rand(1, 3, 32, 8))  # four patches as in training, in a column instead
    assert as_many.shape == (1, 5, 8)


def test_a_picture_is_stretched_and_normalised(towers: TwoTowers) -> None:
    pixels = towers.pixels(Image.new("RGB", (40, 40), (255, 0, 0)))
    assert pixels.shape == (3, 16, 8)
    assert pixels[0].unique().tolist() == [1.0]
    assert pixels[1].unique().tolist() == [-1.0]


@pytest.mark.parametrize("parts", [0, 2])
def test_towers_are_saved_whole(folder: Path, tmp_path: Path, parts: int) -> None:
    settings = TowerSettings(width=8, height=16, image_width=8, text_length=20, parts=parts)
    made = open_towers(str(folder / "vit"), str(folder / "bert"), settings, seed=1).eval()
    made.save(tmp_path / "saved")
    loaded = TwoTowers.load(tmp_path / "saved")
    pixels, encoded = torch.rand(2, 3, 16, 8), made.encode(["a red top", "no bag at all"])
    for one, other in ((made.image(pixels), loaded.image(pixels)),
                       (made.text(encoded["input_ids"], encoded["attention_mask"]),
                        loaded.text(encoded["input_ids"], encoded["attention_mask"]))):  # fmt: skip
        assert torch.equal(one[0], other[0])
        assert (one[1] is None) == (parts == 0)
        assert one[1] is None or torch.equal(one[1], other[1])  # type: ignore[arg-type]
    assert torch.equal(
        made.word_logits(encoded["input_ids"], encoded["attention_mask"]),
        loaded.word_logits(encoded["input_ids"], encoded["attention_mask"]),
    )
    (tmp_path / "saved/heads.safetensors").write_bytes(save({"image_projection.bias": torch.zeros(8)}))
    with pytest.raises(ModelError, match="expected every head"):
        TwoTowers.load(tmp_path / "saved")
    with pytest.raises(ModelError, match=r"holds no towers\.json"):
        TwoTowers.load(tmp_path)


def test_a_tower_of_a_clip_can_be_taken(tmp_path: Path, folder: Path) -> None:
    made = open_towers(str(tiny_clip(tmp_path / "clip")), str(folder / "bert"), SETTINGS, seed=0)
    assert made.image(torch.rand(1, 3, 16, 8))[0].shape == (1, 8)


# --- trainings


def pretraining(towers: TwoTowers, captions: list[list[str]], **changes: Any) -> Pretraining:
    pictures = torch.rand(len(captions), 3, 16, 8)
    how: dict[str, Any] = {
        "temperature": 1.0,
        "word_weight": 1.0,
        "word_share": 0.3,
        "positives": False,
        "flip": True,
        "seed": 0,
    }
    view = lambda index, mirrored: pictures[index].flip(-1) if mirrored else pictures[index]  # noqa: E731
    return Pretraining(towers, captions, view, **(how | changes))


def test_a_step_of_pretraining_depends_on_its_keys_alone(towers: TwoTowers) -> None:
    task = pretraining(towers, [["a red top", "a blue top"], ["a green hat"], ["no bag"]])
    state: Any = SimpleNamespace(global_step=0)
    first, again = (task.loss(towers, task.collate([0, 4, 2]), state) for _ in range(2))
    assert torch.equal(first.losses, again.losses)
    assert first.losses.shape == (2,)
    assert task.count(task.collate([0, 4, 2])).tolist()[0] == 3
    epochs = [task.collate([key])["tokens"].tolist() for key in range(0, 60, 3)]
    assert len({str(one) for one in epochs}) == 2  # both captions of the first picture get their turn


def test_equal_pseudo_texts_are_pairs_of_each_other_where_asked(towers: TwoTowers) -> None:
    captions = [["a red top"], ["a red top"], ["a blue hat"]]
    state: Any = SimpleNamespace(global_step=0)
    apart, together = (pretraining(towers, captions, positives=one, word_weight=0.0) for one in (False, True))
    assert "positives" not in apart.collate([0, 1, 2])
    assert together.collate([0, 1, 2])["positives"].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    losses = [one.loss(towers, one.collate([0, 1, 2]), state).losses[0].item() for one in (apart, together)]
    assert losses[0] != losses[1]


def test_a_picture_whose_text_names_a_side_is_not_mirrored(towers: TwoTowers) -> None:
    assert names_a_side("A bag in the Left hand")
    assert not names_a_side("what is leftover")
    sides, plain = pretraining(towers, [["a bag on the left"]]), pretraining(towers, [["a bag"]])
    assert len({str(sides.collate([key])["pixels"].tolist()) for key in range(20)}) == 1
    assert len({str(plain.collate([key])["pixels"].tolist()) for key in range(20)}) == 2


def test_fine_tuning_learns_who_is_who(towers: TwoTowers) -> None:
    pictures, texts, who = (
        torch.rand(4, 3, 16, 8),
        ["a red top", "a blue top", "no hat", "a bag"],
        [0, 0, 1, 2],
    )
    task = FineTuning(towers, texts, who, lambda index, _: pictures[index], margin=0.2, identity_weight=1.0, part_weight=0.5,
                      flip=False, seed=0)  # fmt: skip
    module, state = Identities(towers, 3), SimpleNamespace(global_step=0)
    losses = []
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for step in range(12):
        loss = task.loss(module, task.collate([0, 1, 2, 3]), state).losses.mean()  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((step, loss.item()))
    assert losses[-1][1] < 0.6 * losses[0][1]


# --- runs


def tiny_run(folder: Path, **changes: Any) -> Run:
    options = dict(SMALL["unipt"][0]) | changes
    for name, content in SMALL["unipt"][1].items():
        path = folder / name
        _ = content(path) if callable(content) else path.write_text("\n".join(map(json.dumps, content)))
    config = build(Config, {key: value for key, value in options.items() if value is not None})
    made = Run.start(folder / "run", "unipt", config)
    run(config, made)
    return made


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for make, name in ((tiny_clip, "small-clip"), (tiny_vit, "vit"), (tiny_bert, "bert")):
        make(Path("models") / name)
    return tmp_path


def test_a_run_describes_trains_and_searches(inside: Path) -> None:
    made = tiny_run(inside, parts=0, part_weight=None)
    rows = [
        json.loads(line) for line in (made.artefacts / "round-1/pseudo_texts.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 6
    assert all(row["phrases"]["upper"] in ("red", "blue", "green") for row in rows)
    assert all(0 <= one <= 1 for row in rows for one in row["sure"].values())
    found = json.loads((made.artefacts / "round-1/retrieval.json").read_text())
    assert set(found) == {"pretrained", "tuned"}
    assert 0 <= found["tuned"]["Rank-1"] <= found["tuned"]["Rank-5"] <= 1
    queries = [
        json.loads(line) for line in (made.artefacts / "round-1/evaluate.jsonl").read_text().splitlines()
    ]
    firsts = np.mean([one["rank"] == 1 for one in queries])
    assert found["tuned"]["Rank-1"] == pytest.approx(firsts)
    assert found["tuned"]["median rank"] == np.median([one["rank"] for one in queries])
    assert made.records == made.artefacts / "round-1/pseudo_texts.jsonl"
    page = made.report.read_text()
    assert "What the labeller says" in page
    assert page.count("data:image/png") >= 6
    assert TwoTowers.load(made.path).settings.width == 8


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"image": figure_rows(1)[0]["image"], "captions": ["x"]}], "no column 'person_id'"),
        (
            [one | {"person_id": None} for one in figure_rows(1, captions=1)],
            "told.jsonl:1: person_id: missing",
        ),
        ([one | {"captions": []} for one in figure_rows(1, captions=1)], "told.jsonl:1: captions: missing"),
        (figure_rows(1, 2, captions=1), "1 identity, expected at least 2"),
    ],
)
def test_captions_without_identities_are_named(inside: Path, rows: list[dict[str, Any]], said: str) -> None:
    Path("other").mkdir()
    Path("other/told.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=said):
        tiny_run(inside, captions="other/told.jsonl")


# --- the world of the check


def test_figures_show_their_attributes() -> None:
    rng = np.random.default_rng(0)
    one = figures.random_figure(rng)
    views = [figures.draw_figure(one, figures.TARGET, rng) for _ in range(2)]
    assert views[0].shape == (3, 32, 32)
    assert not torch.equal(*views)
    counted = {}
    for hat, bag in itertools.product((0, 1), (0, 1)):
        figure = figures.Figure((0, 2, 0, hat, bag), one.offsets)
        counted[hat, bag] = figures.draw_figure(figure, scene.PLAIN, np.random.default_rng(1))
    assert (counted[0, 0] - counted[1, 0]).abs()[:, :10].sum() > 5
    assert (counted[0, 0] - counted[0, 1]).abs()[:, 12:, 20:].sum() > 5
    text = figures.described(one, figures.HUMAN[0])
    assert one.word("upper") in text
    assert set(text.split()) <= set(figures.words_of_figures())
    assert len(figures.figure_lexicon().templates) == 20


def test_the_check_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path))
    sizes = figure_search.Sizes(
        labeller_pairs=70,
        labeller_steps=2,
        crops=12,
        pretraining_steps=2,
        identities=4,
        tuning_steps=2,
        test_identities=3,
    )
    world = figure_search.search_world(100, sizes, Recipe(pairs=130, steps=1))
    assert len(world.pseudo_texts) == len(world.crops) == 12
    assert sorted(figure_search.shuffled(world)) == sorted(world.pseudo_texts)
    arms = [
        figure_search.searched(world, lambda one: figure_search.pretrained(one, one.pseudo_texts)),
        figure_search.searched(world, figure_search.separate),
    ]
    assert all(0 <= one["Rank-1"] <= one["Rank-5"] <= 1 for one in arms)
