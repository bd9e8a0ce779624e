"""Rules of IFEval and FollowRAG: what follows them, strictly and loosely, under which ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coalign.judging.verifiers.constraints import Constraint, ConstraintError, verify
from coalign.judging.verifiers.following import (
    IFEVAL,
    constraints_of,
    follow,
    loose_forms,
    parse_instruction,
    parse_instructions,
)
from coalign.judging.verifiers.tasks import read_tasks
from tests.preference.tiny_runs import write

RULES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords_inclusion", {"keywords": ["C++", "moss"]}, "Mosses love c++.", "Moss loves C."),
    ("keywords_exclusion", {"forbidden_words": ["moss", "c++"]}, "Mossy stones.", "Moss."),
    ("keywords_exclusion", {"forbidden_words": ["c++"]}, "C is fine.", "I write C++."),
    ("keywords_frequency", {"keyword": "a.b", "frequency": 2, "relation": "at least"}, "a.b A.B", "a.b axb"),
    ("keywords_frequency", {"keyword": "fox", "frequency": 1, "relation": "less than"}, "Cats.", "Foxes."),
    ("keywords_letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, "Zzz", "Z"),
    ("length_words", {"num_words": 3, "relation": "less than"}, "it's", "well-known, it"),
    ("length_sentence", {"num_sentences": 2, "relation": "at least"}, "Dr. May left. So did I.", "Dr. May left"),
    ("length_paragraph", {"num_paragraphs": 2}, "***\none *** two", "one *** *** two"),
    ("position_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "So"}, "A.\n\n'so, b", "So.\n\nB"),
    ("position_postscript", {"postscript_marker": "N.B."}, "Text.\nn.b. this", "Text, November."),
    ("position_postscript", {"postscript_marker": "P.P.S"}, "p. p. s. you", "P.S. you"),
    ("position_end_with", {"end_phrase": "The end."}, '"This is THE END."\n', "The end. Or not"),
    ("structure_placeholder", {"num_placeholders": 2}, "[name], [place]", "[name]"),
    ("structure_bullets", {"num_bullets": 2}, "Two:\n* a\n - b", "* a\n- b\n- c"),
    ("structure_highlights", {"num_highlights": 2}, "*one* and *two*", "*one* and * *"),
    ("structure_sections", {"section_spliter": "Part", "num_sections": 2}, "Part 1 a\nPart 2 b", "part 1, part 2"),
    ("structure_title", {}, "<<On moss>>\nIt grows.", "<< >>\nIt grows."),
    ("format_json", {}, '```json\n["a"]\n```', 'Here: ["a"]'),
    ("format_no_commas", {}, "1000 stones", "1,000 stones"),
    ("format_quotation", {}, ' "moss" ', '"'),
    ("format_repeat_question", {"prompt_to_repeat": "Who?"}, "who? She.", "She. Who?"),
    ("format_constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("format_two_responses", {}, "yes\n******\nno", "yes ****** yes"),
    ("cases_capital_words", {"capital_frequency": 2, "capital_relation": "at least"}, "I'M here", "WELL-KNOWN here"),
    ("cases_capital_words", {"capital_frequency": 2, "capital_relation": "less than"}, "O'NEIL left", "A B"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs", "good", "bad"), RULES)
def test_a_rule_tells_what_follows_it(name: str, kwargs: dict[str, Any], good: str, bad: str) -> None:
    assert (verify(name, "", good, kwargs), verify(name, "", bad, kwargs)) == (1.0, 0.0)
    assert verify(name, "", " \n", kwargs) == 0.0


@pytest.mark.parametrize(
    ("name", "kwargs", "good", "bad"),
    [
        ("format_language", {"language": "fr"}, "Où est la bibliothèque de la ville ?", "Where is the library of the town?"),
        ("format_language", {"language": "zh"}, "图书馆在哪里？我想借一本书。", "図書館はどこですか。本を借りたいです。"),
        ("format_language", {"language": "fr"}, "1234", "Where is the library of the town?"),
        ("cases_uppercase", {}, "THE LIBRARY IS CLOSED ON MONDAYS", "LA BIBLIOTHÈQUE EST FERMÉE LE LUNDI MATIN"),
        ("cases_lowercase", {}, "the library is closed on mondays", "the library is closed on Mondays"),
    ],
)  # fmt: skip
def test_rules_of_language(name: str, kwargs: dict[str, Any], good: str, bad: str) -> None:
    pytest.importorskip("langdetect")
    assert (verify(name, "", good, kwargs), verify(name, "", bad, kwargs)) == (1.0, 0.0)
    assert [verify(name, "", good, kwargs) for _ in range(5)] == [1.0] * 5


def test_a_language_that_cannot_be_detected_is_an_error_before_anything_is_checked() -> None:
    pytest.importorskip("langdetect")
    with pytest.raises(ConstraintError, match="language: 'tlh' cannot be detected"):
        parse_instruction("format_language", {"language": "tlh"})


def test_both_benchmarks_ids_name_the_same_rule() -> None:
    kwargs = {"num_words": 3.0, "relation": "at least", "keywords": None}
    one = parse_instruction("length_constraints:number_words", kwargs)
    assert one == parse_instruction("length_words", {"num_words": 3, "relation": "at least"})
    assert len(set(IFEVAL.values())) == len(IFEVAL) == 25


@pytest.mark.parametrize(
    ("names", "kwargs", "message"),
    [
        (["length_constraints:number_wordz"], [{}], "instruction_id_list[0]: 'length_constraints:number_wordz' is no known rule"),
        (["format_json", "max_words"], [{}, {"n": 3}], "instruction_id_list[1]: 'max_words' is no known rule"),
        (["length_words"], [{"relation": "at most", "num_words": 3}], "kwargs[0].relation: 'at most' is not usable"),
        (["length_words"], [{"relation": "at least", "num_words": 2.5}], "kwargs[0].num_words: 2.5 is not usable"),
        (["length_words"], [{"relation": "at least"}], "kwargs[0].num_words: is missing"),
        (["format_json"], [{"number": 3}], "kwargs[0].number: is not an argument"),
        (["format_json", "format_json"], [{}], "kwargs: is [{}], expected a list of 2 mappings"),
        (["position_first_word"], [{"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"}], "kwargs[0].nth_paragraph"),
        ([], [], "instruction_id_list: is []"),
        ("format_json", [{}], "instruction_id_list: is 'format_json'"),
        (["format_json"], ["{}"], "kwargs[0]: is '{}'"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_an_error_with_its_place(names: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        parse_instructions(names, kwargs)
    assert message in str(caught.value)


def test_loose_forms_leave_out_lines_and_stars_and_blanks() -> None:
    assert loose_forms("a\n*b*\nc") == [
        "a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]  # fmt: skip
    assert loose_forms("*a*") == ["*a*", "a"]
    assert loose_forms(" \n") == []


def test_a_response_may_follow_a_rule_loosely_alone() -> None:
    rules = parse_instructions(["format_json", "format_no_commas", "structure_title"], [None, {}, {}])
    followed = follow(rules, "", 'Sure, here it is:\n{"a": 1}')
    assert followed.strict == (False, False, False)
    assert followed.loose == (True, True, False)
    assert follow(rules, "", " ").loose == (False, False, False)


def test_columns_of_the_benchmarks_stand_for_constraints(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
    (task,) = read_tasks(write(tmp_path / "p.jsonl", [row]))
    assert task.constraints == (Constraint("format_no_commas"),)
    own = {**row, "constraints": [{"verifier": "max_words", "n": 3}]}
    assert constraints_of(own) == (Constraint("max_words", {"n": 3}),)
