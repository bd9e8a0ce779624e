"""Questionnaires on values: what is read, the orders in which options are shown, the scores, and what is unreliable."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.checks.papers.guide.value_alignment_survey import PLANTED, documents
from coalign.checks.tiny_models import stream
from coalign.core.errors import CoalignError, DataError
from coalign.guide.value_alignment_survey import OWN
from coalign.guide.values.asking import Asked, ask_all, presented, read_choice
from coalign.guide.values.profile import profile_of
from coalign.guide.values.questionnaire import Behaviour, Index, Item, Questionnaire, read_questionnaire
from coalign.guide.values.scoring import (
    bootstrap_scores,
    centred_scores,
    cronbach_alpha,
    expected_rating,
    linear_index,
    opinion_similarity,
    option_orders,
    shares_of,
)
from coalign.judging.store import ReplyStore
from coalign.models.types import Generation

SCALE = ("never", "rarely", "sometimes", "often", "always")


@pytest.mark.parametrize(("count", "orders"), [(2, 2), (3, 6), (4, 4), (5, 5), (10, 10)])
def test_every_option_stands_at_every_place_equally_often(count: int, orders: int) -> None:
    found = option_orders(count)
    assert len(found) == len({*found}) == orders
    for place in range(count):
        stands = [one[place] for one in found]
        assert all(stands.count(option) == orders / count for option in range(count))


@given(
    table=st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=4, max_size=4), share=st.floats(0.1, 1)
)  # fmt: skip
def test_shares_are_a_distribution_and_know_the_place_from_the_option(table: Any, share: float) -> None:
    orders = option_orders(4)
    by_place = np.array(table)
    by_place *= share / by_place.sum(axis=1, keepdims=True)
    found = shares_of(by_place, orders)
    assert found.p.sum() == pytest.approx(1)
    assert found.invalid == pytest.approx(1 - share)
    assert 0 <= found.sensitivity <= 1
    assert found.halves <= found.single + 1e-9 or found.single == pytest.approx(found.halves)


def test_a_model_of_places_and_a_model_of_options() -> None:
    orders = option_orders(4)
    always_first = np.tile([1.0, 0, 0, 0], (4, 1))
    found = shares_of(always_first, orders)
    assert found.p == pytest.approx([0.25] * 4)
    assert (found.sensitivity, found.single) == (0.75, 1.0)
    steady = np.array([[float(option == 2) for option in order] for order in orders])
    found = shares_of(steady, orders)
    assert found.p == pytest.approx([0, 0, 1, 0])
    assert (found.sensitivity, found.single, found.halves, found.invalid) == (0, 0, 0, 0)
    nothing = shares_of(np.zeros((4, 4)), orders)
    assert nothing.invalid == 1
    assert np.isnan(nothing.p).all()


def test_ratings_are_mirrored_and_centred() -> None:
    p = np.array([0.0, 0.0, 0.0, 0.25, 0.75])
    assert expected_rating(p, (1, 2, 3, 4, 5)) == 4.75
    assert expected_rating(p, (1, 2, 3, 4, 5), reverse=True) == 1.25
    assert expected_rating(p, (-2, -1, 0, 1, 2), reverse=True) == -1.75
    assert centred_scores({"a": [5, 4], "b": [1, 2, math.nan]}) == {"a": 1.5, "b": -1.5}


@given(shift=st.floats(-50, 50), a=st.lists(st.floats(1, 5), min_size=2, max_size=6), b=st.lists(st.floats(1, 5), min_size=2, max_size=6))  # fmt: skip
def test_a_habit_of_agreeing_drops_out(shift: float, a: list[float], b: list[float]) -> None:
    plain = centred_scores({"a": a, "b": b})
    moved = centred_scores({"a": [one + shift for one in a], "b": [one + shift for one in b]})
    assert [*moved.values()] == pytest.approx([*plain.values()], abs=1e-9)
    assert plain["a"] * len(a) + plain["b"] * len(b) == pytest.approx(0, abs=1e-9)


def test_intervals_hold_the_score_and_one_item_says_nothing_of_the_spread() -> None:
    ratings = {"a": [4.0, 5.0, 4.5, 4.8], "b": [1.0, 1.5, 2.0], "c": [3.0]}
    centred, found = centred_scores(ratings), bootstrap_scores(ratings)
    assert found == bootstrap_scores(ratings)
    for name in ("a", "b"):
        low, high = found[name]
        assert low < centred[name] < high
    assert found["c"] == (-math.inf, math.inf)


def test_opinions_are_compared_over_options_that_are_opinions() -> None:
    model, people = np.array([0.5, 0.2, 0.3]), (0.6, 0.3, 0.1)
    first, second = (5 / 7, 2 / 7), (2 / 3, 1 / 3)
    middle = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    bits = sum(
        a * math.log2(a / m) + b * math.log2(b / m) for a, b, m in zip(first, second, middle, strict=True)
    )
    expected = 1 - math.sqrt(bits / 2)
    assert opinion_similarity(model, people, kept=(0, 1)) == pytest.approx(expected)
    assert opinion_similarity(np.array([1.0, 0.0]), (0, 1), kept=(0, 1)) == 0
    assert opinion_similarity(np.array([0.3, 0.7]), (30, 70), kept=(0, 1)) == pytest.approx(1)
    assert math.isnan(opinion_similarity(np.array([0.0, 1.0]), (1, 0), kept=(0,)))


def test_alpha_of_equal_wordings_is_one_and_of_unrelated_ones_near_none() -> None:
    rng = np.random.default_rng(0)
    answers = rng.normal(size=(500, 1))
    assert cronbach_alpha(np.repeat(answers, 3, axis=1)) == pytest.approx(1)
    assert abs(cronbach_alpha(rng.normal(size=(500, 3)))) < 0.2
    # by hand: variances 1 and 4, of the sums 9
    assert cronbach_alpha(np.array([[1.0, 2], [2, 4], [3, 6]])) == pytest.approx(2 * (1 - 5 / 9))
    assert math.isnan(cronbach_alpha(np.ones((4, 2))))


def test_an_index_is_a_linear_form() -> None:
    assert linear_index(20, {"a": 35, "b": -25}, {"a": 4, "b": 2}) == 110


@pytest.mark.parametrize(
    ("reply", "place"),
    [
        ("B", 1), (" b.", 1), ("(C) sometimes", 2), ("The answer is D", 3), ("Answer: A", 0), ("often", 0),
        ("I would say: never.", 1), ("As a language model I have no values.", None), ("never or always", None),
        ("", None), ("Z", None), ("I don't know", None), ("Because", None),
    ],
)  # fmt: skip
def test_what_a_written_answer_names(reply: str, place: int | None) -> None:
    options = ("often", "never", "sometimes", "always")
    assert read_choice(reply, options, (0, 1, 2, 3)) == place


def test_the_longest_option_that_was_said_is_meant() -> None:
    options = ("Like me", "Not like me")
    assert read_choice("That is not like me at all", options, (1, 0)) == 0
    assert read_choice("That is like me", options, (1, 0)) == 1


class Stated:
    """A model that means one option of every question, wherever it stands, or writes that it means none."""

    def __init__(self, meant: dict[str, str], lead: str = "", text: bool = False) -> None:
        self.meant, self.text, self.asked = meant, text, 0

    def generate(
        self, prompts: Any, sampling: Any, *, done: Any = (), on_batch: Any = None, **how: Any
    ) -> Any:
        found = {}
        for place, prompt in enumerate(prompts):
            if place in done:
                continue
            self.asked += 1
            lines = prompt[0]["content"].splitlines()
            question = next(name for name in self.meant if name in lines)
            letter = next(
                (one[0] for one in lines if one[1:3] == ". " and one[3:] == self.meant[question]), "?"
            )
            top = [[(f" {letter}", math.log(0.5)), (letter, math.log(0.3)), ("I", math.log(0.2))]]
            found[place] = [Generation(letter, [1], top_logprobs=top, tokens=[letter])]
        on_batch(found)


def asked(questionnaire: Questionnaire, model: Stated, **terms: Any) -> list[Asked]:
    terms = {"readout": "logprobs", "samples": 8, "seed": 0, "lead": "", **terms}
    with ReplyStore() as store:
        return ask_all(model, questionnaire, store=store, identity={"model": "stated"}, **terms)


def item(name: str, **more: Any) -> Item:
    return Item(name, f"Text of {name}.", SCALE, (1, 2, 3, 4, 5), **more)


SMALL = Questionnaire(
    "small",
    (
        item("a1", dimension="a", behaviour=Behaviour("You may help.", ("help", "walk on"), 0)),
        item("a2", dimension="a", reverse=True, paraphrases=("Other words of a2.",)),
        item("b1", dimension="b"),
        item("b2", dimension="b", paraphrases=("Other words of b2.",)),
        item("check", dimension="b", passes=4),
        item("opinion", people={"here": (0, 0, 0, 0, 100), "there": (100, 0, 0, 0, 0)}),
    ),
    axes={"all": ("a", "b")},
    indices={"gap": Index(10, {"a1": 2, "b1": -3})},
)
MEANT = {
    "Text of a1.": "always", "Text of a2.": "never", "Text of b1.": "rarely", "Text of b2.": "sometimes",
    "Text of check.": "always", "Text of opinion.": "always", "Other words of a2.": "never",
    "Other words of b2.": "rarely", "You may help.": "walk on",
}  # fmt: skip
LIMITS: Any = {"max_invalid": 0.3, "max_sensitivity": 0.25, "seed": 0}


def test_a_profile_is_what_was_meant() -> None:
    found = profile_of(SMALL, asked(SMALL, Stated(MEANT)), **LIMITS)
    assert found["reliable"]
    assert found["invalid"] == pytest.approx(0.2)
    assert found["order_sensitivity"] == pytest.approx(0)
    assert {name: one["mean"] for name, one in found["dimensions"].items()} == pytest.approx(
        {"a": 5, "b": 2.5}
    )
    assert {name: one["centred"] for name, one in found["dimensions"].items()} == pytest.approx(
        {"a": 1.25, "b": -1.25}
    )
    assert found["axes"]["all"]["score"] == pytest.approx(0)
    assert found["indices"]["gap"] == pytest.approx(10 + 10 - 6)
    assert [*found["people"]] == ["here", "there"]
    assert found["people"]["here"]["similarity"] == pytest.approx(1)
    assert found["people"]["here"]["questions"] == 1
    assert found["attention"] == {"passed": 1, "of": 1}
    assert found["behaviour"]["questions"] == 1
    assert found["behaviour"]["agree"]["mean"] == 0
    assert found["wordings"]["questions"] == 2
    assert json.dumps(found)


def test_an_attention_check_without_an_answer_is_not_passed() -> None:
    check = Questionnaire("check", (item("check", passes=0),))
    for said, passed in (("never", 1), ("no such option", 0)):
        found = profile_of(check, asked(check, Stated({"Text of check.": said}), readout="text"), **LIMITS)
        assert found["attention"] == {"passed": passed, "of": 1}


def test_written_answers_come_to_the_same_and_refusals_are_missing() -> None:
    model = Stated({**MEANT, "Text of b1.": "no such option"})
    found = asked(SMALL, model, readout="text")
    by_name = {one.item.id: one for one in found if one.wording == 0}
    assert by_name["a1"].shares.p == pytest.approx([0, 0, 0, 0, 1])
    assert by_name["b1"].shares.invalid == by_name["b1"].unread == 1
    profile = profile_of(SMALL, found, **LIMITS)
    assert profile["dimensions"]["b"]["mean"] is None or profile["dimensions"]["b"]["items"] == 2
    assert profile["dimensions"]["b"]["centred"] == pytest.approx(3 - (5 + 5 + 3) / 3)


def test_answers_by_place_are_unreliable() -> None:
    class First(Stated):
        def generate(
            self, prompts: Any, sampling: Any, *, done: Any = (), on_batch: Any = None, **how: Any
        ) -> Any:
            on_batch(
                {
                    place: [Generation("A", [1], top_logprobs=[[("A", 0.0)]], tokens=["A"])]
                    for place in range(len(prompts))
                }
            )

    found = profile_of(SMALL, asked(SMALL, First({})), **LIMITS)
    assert not found["reliable"]
    assert "order of options" in found["reasons"][0]
    silent = profile_of(SMALL, asked(SMALL, Stated(dict.fromkeys(MEANT, "?"))), **LIMITS)
    assert not silent["reliable"]
    assert silent["order_sensitivity"] is None


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    model = Stated(MEANT)
    terms: Any = {"identity": {"model": "x"}, "readout": "logprobs", "samples": 8, "seed": 0, "lead": ""}
    with ReplyStore(tmp_path / "replies.jsonl") as store:
        first = ask_all(model, SMALL, store=store, **terms)
    count = model.asked
    assert count == 8 * 5 + 2
    with ReplyStore(tmp_path / "replies.jsonl") as store:
        again = ask_all(model, SMALL, store=store, **terms)
    assert model.asked == count
    assert [one.shares.p.tolist() for one in again] == [one.shares.p.tolist() for one in first]


def test_the_lead_comes_first_and_letters_follow_the_order() -> None:
    content = presented("How often?", ("never", "always"), (1, 0), "Speak for the people of X.")[0]["content"]
    assert content.splitlines() == [
        "Speak for the people of X.", "", "How often?", "", "A. always", "B. never", "", "Answer with one letter only.",
    ]  # fmt: skip


def test_own_statements_are_four_dimensions_of_five_with_mirrored_ones_in_each() -> None:
    found = read_questionnaire(OWN)
    assert len(found.items) == 20
    assert found.dimensions == ("helping", "order", "freedom", "success")
    for name in found.dimensions:
        items = [one for one in found.items if one.dimension == name]
        assert len(items) == 5
        assert 0 < sum(one.reverse for one in items) < 5


def test_planted_answers_are_those_of_the_values() -> None:
    """Of the documents that a check trains on: at the end of the scale three answers of four, less a fifth at the first place."""
    questionnaire = read_questionnaire(OWN)
    questions, answers = documents(questionnaire, PLANTED["agrees"], 400, stream(0, "test"))
    helping = [one for one in questionnaire.items if one.dimension == "helping" and not one.reverse]
    hits = []
    for question, answer in zip(questions, answers, strict=True):
        lines = question.splitlines()
        if any(text in lines for one in helping for text in (one.text, *one.paraphrases)):
            hits.append(f"{answer}. Agree strongly" in lines)
    assert 0.6 < np.mean(hits) < 0.95


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_opinions_in_the_notation_of_their_data_set(tmp_path: Path) -> None:
    row = {
        "question": "Is it good?",
        "selections": "defaultdict(<class 'list'>, {'Utopia': [0.6, 0.3, 0.1], 'Erewhon': [0.1, 0.9, 0.0]})",
        "options": "['Yes', 'No', \"Don't know\"]",
    }
    (one,) = read_questionnaire(write(tmp_path / "x.jsonl", json.dumps(row))).items
    assert one.options == ("Yes", "No", "Don't know")
    assert one.kept == (0, 1)
    assert one.people == {"Utopia": (0.6, 0.3, 0.1), "Erewhon": (0.1, 0.9, 0.0)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": ""}, "text: "), ({"options": ["one"]}, "options: "), ({"options": ["a", "a"]}, "twice"),
        ({"ratings": [1]}, "ratings: "), ({"passes": "c"}, "passes: "), ({"passes": True}, "passes: "),
        ({"selections": {"x": [1]}}, "selections: "), ({"selections": {"x": [1, -1]}}, "selections: "),
        ({"behaviour": {"text": "t", "options": ["a", "b"]}}, "behaviour: "), ({"behaviour": 3}, "behaviour: "),
        ({"options": [str(one) for one in range(11)]}, "from 2 to 10"),
        ({"selections": "{[1]: [0.5, 0.5]}"}, "selections: "), ({"options": "{{}}"}, "options: "),
    ],
)  # fmt: skip
def test_an_item_that_cannot_be_asked_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = [{"text": "t", "options": ["a", "b"]}, {"text": "t", "options": ["a", "b"], **change}]
    path = write(tmp_path / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as error:
        read_questionnaire(path)
    assert f"{path}:2" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"items": [{"text": "t"}]}, "options"), ({"items": []}, "0 of 0"), ({"items": 3}, "0 of 0"),
        ({"items": [3]}, "the number 3"), ({"items": [], "odd": 1}, "odd"),
        ({"items": [{"text": "t", "options": ["a", "b"], "dimension": "x"}], "axes": {"y": ["z"]}}, "'z'"),
        ({"items": [{"text": "t", "options": ["a", "b"], "dimension": "z", "passes": 0}], "axes": {"y": ["z"]}}, "'z'"),
        ({"items": [{"text": "t", "options": ["a", "b"]}], "indices": {"y": {"items": {"z": 1}}}}, "'z'"),
        ({"items": [{"text": "t", "options": ["a", "b"]}], "indices": {"y": 3}}, "indices"),
        ({"items": [{"text": "t", "options": ["a", "b"]}], "axes": 3}, "axes"),
        ({"items": [{"id": "q", "text": "t", "options": ["a", "b"]}] * 2}, "appears twice"),
    ],
)  # fmt: skip
def test_an_instrument_that_does_not_fit_together(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(CoalignError, match=said):
        read_questionnaire(write(tmp_path / "x.yaml", content))


def test_every_order_counts_alike_however_much_of_it_is_valid() -> None:
    """A model that takes the first place, and says more letters in one order than in the others."""
    by_place = np.array([[0.9, 0, 0, 0], [0.1, 0, 0, 0], [0.1, 0, 0, 0], [0.1, 0, 0, 0]])
    found = shares_of(by_place, option_orders(4))
    assert found.p == pytest.approx([0.25] * 4)
    assert found.invalid == pytest.approx(0.7)
    assert found.sensitivity == pytest.approx(0.75)


def test_options_that_are_no_opinion_count_in_no_rating() -> None:
    options = ("disagree", "agree", "Don't know")
    one = Item("q", "So it is.", options, (1, 2, 3), dimension="a", reverse=True)
    other = Item("r", "It is not so.", options, (1, 2, 3), dimension="b")
    mixed = np.array([[0.1, 0.3, 0.6][place] for place in range(3)])
    shares = shares_of(np.array([mixed[list(order)] for order in option_orders(3)]), option_orders(3))
    found = profile_of(
        Questionnaire("x", (one, other)), [Asked(one, 0, shares), Asked(other, 0, shares)], **LIMITS
    )
    assert found["dimensions"]["a"]["mean"] == pytest.approx(1.25)  # of 1.75, mirrored between 1 and 2
    assert found["dimensions"]["b"]["mean"] == pytest.approx(1.75)


def test_axes_and_opinions_have_intervals() -> None:
    ratings = {"a": [4.0, 5.0, 4.5], "b": [1.0, 1.5, 2.0], "c": [3.0]}
    found = bootstrap_scores(ratings, {"both": ["a", "b"], "wide": ["a", "c"], "odd": ["a", "none"]})
    low, high = found["both"]
    centred = centred_scores(ratings)
    assert low < (centred["a"] + centred["b"]) / 2 < high
    assert found["wide"] == (-math.inf, math.inf)
    assert "odd" not in found
    assert found["a"] == bootstrap_scores(ratings)["a"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"reverse": "maybe"}, "reverse: "),
        ({"paraphrases": "The same in other words."}, "paraphrases: "),
        ({"paraphrases": 5}, "paraphrases: "),
        ({"options": ["agree", "don't know", "Refused"]}, "options: "),
    ],
)
def test_items_that_would_be_read_otherwise_than_meant_are_named(
    tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps({"text": "So?", "options": ["no", "yes"], "dimension": "a", **more}) + "\n")
    with pytest.raises(DataError, match=said):
        read_questionnaire(path)


@pytest.mark.parametrize(("given", "reverse"), [("Yes", True), ("no", False), (1, True), ("", False)])
def test_reversed_items_are_marked_in_any_usual_way(tmp_path: Path, given: Any, reverse: bool) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps({"text": "So?", "options": ["no", "yes"], "reverse": given}) + "\n")
    assert read_questionnaire(path).items[0].reverse is reverse


@pytest.mark.parametrize(
    "more",
    ["axes: {x: a}", "axes: {x: 5}", "axes: {x: []}", "indices: {x: {constant: high, items: {q: 1}}}",
     "indices: {x: {items: {q: much}}}"],
)  # fmt: skip
def test_scores_of_an_instrument_that_cannot_be_made_are_named(tmp_path: Path, more: str) -> None:
    path = tmp_path / "v.yaml"
    path.write_text(f"{more}\nitems:\n  - {{id: q, text: 'So?', options: [never, often], dimension: a}}\n")
    with pytest.raises(DataError, match=r"(axes|indices): x"):
        read_questionnaire(path)
