"""The bundled quickstart prompts: size, balance, constraints stated in words, held-out values unseen in training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

from coalign.judging.verifiers.constraints import Constraint, constraint_satisfaction, parse_constraints
from coalign.judging.verifiers.context import FUNCTION_WORDS
from coalign.measures.texts.text_units import contains_phrase, fold, folded_words

ASSET = resources.files("coalign.selfalign") / "assets" / "quickstart.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in ASSET.read_text(encoding="utf-8").splitlines()]
SPLITS = ("train", "heldout")
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
ENDINGS = ("end", "ends", "finish", "last", "last words", "close", "final word")
INCLUDED = ("include", "includes", "use", "uses", "using", "contain", "contains", "with", "mention", "appear")
CHOSEN = ("option", "pick", "name", "answer", "reply", "say", "label", "one word", "one of", "choose")
STATED_BY = {
    "letter_case": ("lower case", "lowercase", "capital letters"),
    "no_commas": ("commas",),
    "quoted": ("quotation marks", "double quotes"),
    "json_object": ("JSON",),
    "bullet_points": ("bullet", "bullets"),
    "max_words": ("words",),
    "max_sentences": ("sentence", "sentences"),
    "must_include": (*ENDINGS, *INCLUDED),
    "starts_with": ("start", "begin", "first words", "open"),
    "ends_with": ENDINGS,
    "option_list": CHOSEN,
}
# Words that tell how to answer, or what kind of text to write. No other content word is in both splits.
INSTRUCTION_WORD_LIST = """
    allowed answer appear begin between bullet bullets capital case choose commas complete contains
    describe double easy end ends entire entirely exactly explain fewer fill finish first give go include
    inside invent json keep key keys know last leave less letters like limit line list lower lowercase
    made make marks maximum message motto name need nothing number object open option options output per
    points put quotation quotes reply response return say see sentence sentences short slogan something
    start starting starts stay story tell text thing things tiny tip title two use uses using whole
    without word words wrap write
"""
INSTRUCTION_WORDS = set(INSTRUCTION_WORD_LIST.split())


def rows(split: str) -> list[dict[str, Any]]:
    return [row for row in ROWS if row["split"] == split]


def family(row: dict[str, Any]) -> str:
    return row["id"].rpartition("-")[0]


def values(constraint: Constraint) -> Iterator[Any]:
    """The single values of a constraint's arguments: each keyword, option and key by itself, phrases folded."""
    for one in constraint.args.values():
        yield from map(fold, one) if isinstance(one, list) else (fold(one) if isinstance(one, str) else one,)


def test_size_and_balance() -> None:
    assert all(set(row) == {"id", "split", "prompt", "constraints"} for row in ROWS)
    assert len(rows("train")) >= 105
    assert len(rows("heldout")) >= 48
    assert {row["split"] for row in ROWS} == set(SPLITS)
    train, heldout = (Counter(map(family, rows(split))) for split in SPLITS)
    assert train.keys() == heldout.keys()
    assert min(train.values()) >= 8
    assert min(heldout.values()) >= 4


def test_no_duplicates() -> None:
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    bags = [frozenset(folded_words(row["prompt"])) for row in ROWS]
    for index, one in enumerate(bags):
        for other in bags[index + 1 :]:
            assert len(one & other) / len(one | other) < 0.7, (sorted(one), sorted(other))


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_the_prompt_states_its_constraints(row: dict[str, Any]) -> None:
    prompt = row["prompt"]
    constraints = parse_constraints(row["constraints"])
    assert 1 <= len(constraints) <= 2
    for constraint in constraints:
        assert any(contains_phrase(prompt, one) for one in STATED_BY[constraint.verifier])
        for name, value in constraint.args.items():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, int):
                    spelt = [str(one), NUMBERS.get(one, str(one)), "single" if one == 1 else str(one)]
                    assert any(contains_phrase(prompt, number) for number in spelt)
                elif name in ("phrase", "keywords", "options", "keys"):
                    assert contains_phrase(prompt, one)
    assert len(folded_words(prompt)) <= 40


def test_heldout_values_are_unseen_in_training() -> None:
    seen: dict[str, dict[str, set[Any]]] = {split: {} for split in SPLITS}
    for row in ROWS:
        for constraint in parse_constraints(row["constraints"]):
            own = {one for one in values(constraint) if one not in ("lower", "lenient", "exactly")}
            seen[row["split"]].setdefault(constraint.verifier, set()).update(own)
    assert seen["train"].keys() == seen["heldout"].keys()
    for name, heldout in seen["heldout"].items():
        assert not heldout & seen["train"][name], name
    for row in rows("heldout"):
        assert any(seen["heldout"][one.verifier] for one in parse_constraints(row["constraints"])), row["id"]


def test_topics_are_disjoint() -> None:
    content = [
        {word for row in rows(split) for word in folded_words(row["prompt"])} - FUNCTION_WORDS
        for split in SPLITS
    ]
    assert content[0] & content[1] <= INSTRUCTION_WORDS


IDEAL = {
    "max-words-t01": "Cooler, shorter days stop the green pigment, so the leaves turn brown.",
    "max-words-h05": "A violin is made of wood and strings.",
    "sentences-t02": "Pour boiling water over tea leaves, wait three minutes, and strain.",
    "sentences-h03": "Penguins hold their chicks on their feet. A fold of skin covers them.",
    "include-t02": "A little rain makes the garden grow and brings a smile to my face.",
    "include-h04": "Green ivy climbs the old tower of the castle.",
    "start-t06": "In my view, a goldfish is easy to keep because it needs little space.",
    "start-h03": "Believe it or not, dolphins sleep with one eye open.",
    "end-t10": "Happy birthday, and all the best to you, my dear friend!",
    "end-h02": "Bring water and a map, and start early. Take care!",
    "option-t01": "A vegetable.",
    "option-h05": "spam",
    "lower-t06": "two teams chase one ball while the crowd sings.",
    "lower-h02": "a sailor needs a map, a rope and an anchor.",
    "bullets-t05": "- Reading builds vocabulary.\n- It trains focus.\n- It is fun.",
    "bullets-h02": "- Mercury\n- Venus\n- Earth\n- Mars",
    "no-commas-t07": "Every family dinner ends with a loud laugh.",
    "no-commas-h04": "Most of them want to see the pyramids.",
    "quoted-t08": '"Soft bubbles for a bright new day."',
    "quoted-h04": '"Your Majesty, it is an honour to meet you."',
    "json-t01": '{"color": "red", "taste": "sweet"}',
    "json-h02": '{"currency": "yen"}',
}


@pytest.mark.parametrize("row_id", IDEAL)
def test_an_ideal_answer_passes_and_a_rambling_one_does_not(row_id: str) -> None:
    row = next(row for row in ROWS if row["id"] == row_id)
    constraints = parse_constraints(row["constraints"])
    assert constraint_satisfaction(row["prompt"], IDEAL[row_id], constraints)[0] == 1
    rambling = "Sure! Here is what I think, as you asked. It is a long story, really. " * 3
    assert constraint_satisfaction(row["prompt"], rambling, constraints)[0] < 1


def test_every_family_has_an_ideal_answer_in_both_splits() -> None:
    covered = {(family(row), row["split"]) for row in ROWS if row["id"] in IDEAL}
    assert covered == {(family(row), row["split"]) for row in ROWS}
