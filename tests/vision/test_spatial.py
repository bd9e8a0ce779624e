"""Spatial measures and captions: parsing, mirroring, VISOR, the score of T2I-CompBench, what is drawn for a picture."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.measures.media.spatial import (
    OPPOSITE,
    Detection,
    SpatialPrompt,
    image_score,
    intersection_over_union,
    mirrored,
    parse_spatial_prompt,
    position_score,
    spatial_outcome,
    stands,
    visor,
)
from coalign.vision.spatial.captions import drawn_caption, in_form, negated, relation_shares, sentences

coordinates = st.floats(0, 500)
boxes = st.tuples(coordinates, coordinates, st.floats(1, 200), st.floats(1, 200)).map(
    lambda one: (one[0], one[1], one[0] + one[2], one[1] + one[3])
)
directions = st.sampled_from(list(OPPOSITE))


@pytest.mark.parametrize(
    ("text", "first", "relation", "second"),
    [
        ("a cat to the left of a cup", "cat", "left", "cup"),
        ("An old dog is on the right side of the red car.", "old dog", "right", "red car"),
        ("a balloon on the top of a giraffe", "balloon", "above", "giraffe"),
        ("a balloon on top of a giraffe", "balloon", "above", "giraffe"),
        ("a mouse under a traffic light", "mouse", "below", "traffic light"),
        ("a bee on side of a fox", "bee", "near", "fox"),
        ("two cups next to one plate", "two cups", "near", "plate"),
    ],
)
def test_descriptions_are_parsed(text: str, first: str, relation: str, second: str) -> None:
    parsed = parse_spatial_prompt(text)
    assert parsed is not None
    assert (parsed.first, parsed.relation, parsed.second) == (first, relation, second)


@pytest.mark.parametrize(
    "text", ["", "a cat", "a cat and a cup", "to the left of a cup", "a cat left of", "the overpass"]
)
def test_what_states_no_relation_of_two_objects_is_none(text: str) -> None:
    assert parse_spatial_prompt(text) is None


@given(boxes, boxes, directions)
def test_a_relation_and_its_opposite_are_the_same_seen_from_the_other_side(
    first: Any, second: Any, relation: Any
) -> None:
    assert position_score(relation, first, second) == position_score(OPPOSITE[relation], second, first)
    one, other = Detection("a", 1.0, first).centre, Detection("b", 1.0, second).centre
    assert stands(relation, one, other) == stands(OPPOSITE[relation], other, one)
    assert not (stands(relation, one, other) and stands(relation, other, one))


@given(boxes, boxes)
def test_one_direction_at_most_scores(first: Any, second: Any) -> None:
    assert sum(position_score(one, first, second) > 0 for one in OPPOSITE) <= 1
    assert 0 <= intersection_over_union(first, second) <= 1 + 1e-12
    assert 0 < position_score("near", first, second) <= 1


@given(boxes, boxes, directions, st.floats(0.1, 10))
def test_the_score_does_not_change_with_the_size_of_the_picture(
    first: Any, second: Any, relation: Any, by: float
) -> None:
    def outcome(scale: float) -> float:
        made = [
            Detection(name, 0.9, tuple(scale * one for one in box))
            for name, box in (("a", first), ("b", second))
        ]  # type: ignore[arg-type]
        prompt = SpatialPrompt("", "a", "near", "b")
        return spatial_outcome(prompt, made, width=int(1000 * scale), height=10).score

    assert outcome(1.0) == pytest.approx(outcome(2.0))


def test_equal_centres_stand_in_no_relation() -> None:
    assert not any(stands(one, (1.0, 1.0), (1.0, 1.0)) for one in OPPOSITE)
    with pytest.raises(ValueError, match="no rule for 'near'"):
        stands("near", (0, 0), (1, 1))


def test_of_several_boxes_the_surest_counts_and_the_unsure_do_not() -> None:
    prompt = SpatialPrompt("a left of b", "a", "left", "b")
    sure, other = Detection("a", 0.9, (0, 0, 10, 10)), Detection("a", 0.3, (90, 0, 100, 10))
    right = Detection("b", 0.5, (50, 0, 60, 10))
    assert spatial_outcome(prompt, [other, sure, right], width=100, height=100).correct
    assert not spatial_outcome(prompt, [other, right], width=100, height=100).correct
    unsure = spatial_outcome(prompt, [Detection("a", 0.1, (0, 0, 1, 1)), right], width=100, height=100)
    assert unsure.first is None
    assert not unsure.both
    assert unsure.score == 0


def test_scores_below_a_half_count_nothing() -> None:
    assert image_score(0.9, 0.9, 0.0) == 0
    assert image_score(0.9, 0.9, 1.0) == pytest.approx(0.95)
    assert image_score(None, None, 1.0) == 0
    assert image_score(1.0, None, 1.0) == 0


def test_visor_without_pictures_and_without_both_objects() -> None:
    empty = visor([])
    assert empty["OA"] is None
    assert empty["VISOR_cond"] is None
    none = visor([[(True, False, False)], [(False, False, False)]])
    assert (none["OA"], none["VISOR_cond"], none["VISOR_uncond"], none["both"]) == (0, None, 0, 0)
    assert (none["OA_A"], none["OA_B"], none["VISOR_1"]) == (0.5, 0, 0)


@given(st.text(alphabet="abc leftrightLEFTRIGHT .,", max_size=60))
def test_mirroring_twice_is_the_caption(text: str) -> None:
    assert mirrored(mirrored(text)) == text


def test_mirroring_exchanges_words_and_not_their_parts() -> None:
    assert (
        mirrored("Left of it, leftover bright LEFT and right")
        == "Right of it, leftover bright RIGHT and left"
    )


def test_captions_in_other_forms() -> None:
    text = "A cat is to the left of a cup. The cup is small! "
    assert sentences(text) == ["A cat is to the left of a cup.", "The cup is small!"]
    draw = random.Random(0)
    assert {in_form(text, "short", draw) for _ in range(40)} == set(sentences(text))
    assert negated(text) == "A cat is not right of a cup. The cup is small! "
    assert negated("a cat near a cup") == "a cat near a cup"
    assert in_form("no end", "short", draw) == "no end"
    assert in_form(" . ", "short", draw) == " . "


def test_spatial_captions_are_drawn_as_often_as_asked() -> None:
    drawn = [drawn_caption("g", "left", random.Random(one), share=0.3, flip=True) for one in range(2000)]
    assert sum(spatial for _, spatial, _ in drawn) / 2000 == pytest.approx(0.3, abs=0.04)
    assert sum(mirror for *_, mirror in drawn) / 2000 == pytest.approx(0.5, abs=0.04)
    assert {text for text, spatial, mirror in drawn if spatial} == {"left", "right"}
    assert all(text == "right" for text, spatial, mirror in drawn if spatial and mirror)


def test_a_picture_with_one_caption_has_that_one() -> None:
    assert drawn_caption("g", None, random.Random(0), share=1.0) == ("g", False, False)
    assert drawn_caption("", "s", random.Random(0), share=0.0) == ("s", True, False)


def test_words_for_relations_are_counted_by_captions() -> None:
    found = relation_shares(["left and left", "behind it", "nothing", "a bright leftover"])
    assert (found["left"], found["behind"], found["right"], found["any"]) == (0.25, 0.25, 0, 0.5)
    assert relation_shares([])["any"] == 0
