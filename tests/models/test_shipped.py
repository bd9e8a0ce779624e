"""The small models that come with the package: found by name, as good as their cards say, made by scripts that run."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped.factuality import WRITTEN, prose_of
from shipped.recogniser import LETTERS, UNHEARD, sentences
from shipped.stated_facts import ALIGNED, CONTRADICTING, KINDS, NEUTRAL, changed_claim, drawn_pair, prose_pair

from coalign.core.errors import ModelError
from coalign.core.files import read_rows
from coalign.evaluation.factuality.functions import FunctionOptions, load_function
from coalign.evaluation.factuality.model import load_pair_classifier
from coalign.measures.detection import roc_auc
from coalign.models.files.defaults import DEFAULTS, SHIPPED, wheel_file
from coalign.models.files.differences import low_rank_difference, with_difference
from coalign.models.files.places import locate
from coalign.speech.audio.error_rates import character_error_rate
from coalign.speech.audio.synthesis import Voice, is_available, speak
from coalign.speech.ctc.align import forced_align
from coalign.speech.ctc.recogniser import load_recogniser
from coalign.speech.ctc.vocabulary import Vocabulary

ENCODER = pytest.mark.skipif(wheel_file(DEFAULTS["encoder"]) is None, reason="needs the extra default-models")
SPOKEN = pytest.mark.skipif(not is_available(), reason="needs espeak-ng")
LINES = (
    "please bring a warm coat",
    "the train leaves at nine in the morning",
    "our guide will wait beside the old tower",
)


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_found_by_name_and_are_small(name: str) -> None:
    place = locate(name)
    assert (place.name, Path(place.path)) == (name, SHIPPED[name])
    assert sum(one.stat().st_size for one in SHIPPED[name].iterdir()) < 4e6
    card = (SHIPPED[name] / "README.md").read_text(encoding="utf-8")
    assert "**Not for**" in card
    assert re.search(r"held out.*\|", card)
    with pytest.raises(ModelError, match="so revision 'x' cannot be taken"):
        locate(name, "x")


@ENCODER
def test_the_alignment_function_is_as_good_as_its_card_says() -> None:
    rows = read_rows(WRITTEN)
    function = load_function(FunctionOptions("default-factuality", device="cpu"))
    scores = function([(row["text"], row["claim"]) for row in rows]).scores
    labels = [row["label"] == ALIGNED for row in rows]
    assert roc_auc(labels, scores) == pytest.approx(0.781, abs=0.02)
    assert sum(score >= 0.5 for score, label in zip(scores, labels, strict=True) if not label) <= 2


@ENCODER
def test_a_difference_to_other_weights_is_refused(tmp_path: Path) -> None:
    for one in SHIPPED["default-factuality"].iterdir():
        (tmp_path / one.name).write_bytes(one.read_bytes())
    description = json.loads((tmp_path / "alignment.json").read_text())
    description["base"]["sha256"] = "0" * 64
    (tmp_path / "alignment.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match="made for other weights of default-encoder"):
        load_pair_classifier(tmp_path)


@SPOKEN
def test_the_recogniser_reads_and_finds_words_of_a_voice_that_it_never_heard() -> None:
    recogniser = load_recogniser("default-recogniser", device="cpu")
    clips = [speak(line, Voice(UNHEARD[1], 150)) for line in LINES]
    assert character_error_rate(LINES, [recogniser.transcribe(one) for one in clips]).rate < 0.3
    vocabulary = recogniser.vocabulary
    spans, _ = forced_align(recogniser.logps(clips[0]), vocabulary.encode(LINES[0]), vocabulary.blank)
    assert len(spans) == len(LINES[0])
    assert [one.start for one in spans] == sorted(one.start for one in spans)


@settings(max_examples=25, deadline=None)
@given(rank=st.integers(1, 4), seed=st.integers(0, 999))
def test_a_difference_of_that_rank_is_kept_to_half_precision(rank: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    base = {"matrix": normal(9, 7), "bias": normal(5), "same": normal(6, 6)}
    new = {
        "matrix": base["matrix"] + normal(9, rank) @ normal(rank, 7),
        "bias": base["bias"] + normal(5),
        "same": base["same"],
        "head": normal(2, 7),
    }
    kept = low_rank_difference(new, base, rank)
    assert not any(name.startswith("same") for name in kept)
    made = with_difference(base, kept)
    assert made.keys() == new.keys()
    for name, value in new.items():
        torch.testing.assert_close(made[name], value, atol=2e-2, rtol=2e-3)
    with pytest.raises(ValueError, match="not in both models"):
        low_rank_difference({"matrix": normal(9, 7)}, base, rank)


def test_drawn_claims_have_their_labels() -> None:
    draw = random.Random(0)
    pairs = [drawn_pair(KINDS, draw) for _ in range(300)]
    assert {one.label for one in pairs} == {ALIGNED, NEUTRAL, CONTRADICTING}
    assert all(one.claim not in one.text for one in pairs if one.label != ALIGNED)
    assert sum(one.claim in one.text for one in pairs if one.label == ALIGNED) < 10  # in other words
    assert [drawn_pair(KINDS, random.Random(7)) for _ in range(2)] == [
        drawn_pair(KINDS, random.Random(7))
    ] * 2


def test_claims_of_prose_have_one_thing_changed() -> None:
    lines = ["Rita sold 12 loaves to Tom.", "He is a baker.", "They closed early."]
    draw = random.Random(0)
    text = " ".join(lines)
    for _ in range(50):
        changed = changed_claim(lines[0], text, draw, names=["Ann", "Tom"])
        assert changed is not None
        assert changed != lines[0]
    assert changed_claim(lines[1], text, draw, names=["Ann"]) == "He is not a baker."
    assert changed_claim(lines[2], text, draw, names=["Ann"]) is None
    for _ in range(30):
        pair = prose_pair(lines, 0, draw, names=["Ann"])
        assert pair is not None
        assert (lines[0] in pair.text) == (pair.label != NEUTRAL)


def test_texts_are_cut_into_sentences(tmp_path: Path) -> None:
    rows = [{"question": "Ann has 2 cats. They sleep all day. How old are they?"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("One line with plain words\nA line with 3 of them\n" * 3)
    vocabulary = Vocabulary.of_texts([LETTERS])
    found = sentences([tmp_path / "a.jsonl", tmp_path / "b.txt"], vocabulary)
    assert found == ["they sleep all day", "how old are they", "one line with plain words"]
    assert prose_of(tmp_path / "a.jsonl") == [["Ann has 2 cats.", "They sleep all day."]]


@pytest.mark.slow
@SPOKEN
def test_the_recogniser_can_be_made_anew(tmp_path: Path) -> None:
    from shipped.recogniser import Settings, make

    from coalign.core.runs import Run

    small = Settings(clips=16, epochs=1.0, held_out=2, width=16)
    texts = [f"{line} {word}" for line in LINES for word in ("again", "today", "please", "now")]
    figures = [
        make(texts, Run.start(tmp_path / name, "default-recogniser", small), small) for name in ("one", "two")
    ]
    assert figures[0] == figures[1]
    first, second = (tmp_path / name / "model" / "model.safetensors" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
@ENCODER
def test_the_alignment_function_can_be_made_anew(tmp_path: Path) -> None:
    from shipped.factuality import Settings, make

    rows = [{"question": f"Ann has {n} cats. They sleep all day. How old are they?"} for n in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("".join(f"There are {n} lines of plain words here.\n" for n in range(20)))
    found = make(
        tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "run", Settings(records=32, held_out=12)
    )
    assert {"new kinds of facts", "written by hand"} <= set(found)
    small = load_function(FunctionOptions(str(tmp_path / "run" / "artefacts" / "default-factuality")))
    whole = load_function(FunctionOptions(str(tmp_path / "run")))
    pair = [("The box holds four coins.", "There are four coins in the box.")]
    assert small(pair).scores == pytest.approx(whole(pair).scores, abs=0.02)
