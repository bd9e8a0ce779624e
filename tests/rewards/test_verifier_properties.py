"""Properties that hold for any text: range, determinism, no exception, order between limits, normalisation."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalign.core.extras import is_installed
from coalign.judging.verifiers.constraints import Constraint, verifiers, verify
from coalign.measures.texts import text_units
from coalign.measures.texts.text_units import fold, is_blank, normalise

NO_COMMAS = {"verifier": "no_commas"}
# Arguments for every verifier: by name where the verifier needs its own, else by argument name.
BY_NAME: dict[str, dict[str, Any]] = {
    "numeric_order": {"relation": "at_most"},
    "weighted": {"constraints": [NO_COMMAS, {"verifier": "quoted"}], "weights": [1.0, 0.3]},
    "script": {"name": "japanese"},
}
BY_ARGUMENT: dict[str, Any] = {
    "n": 2, "low": 2, "high": 3, "case": "title", "answer": "2", "phrase": "a b.", "keyword": "a", "keys": ["a"], "stems": ["a", "漢"],
    "keywords": ["a", "C++", "漢", "don't"], "options": ["a", "a b", "!"],
    "constraints": [NO_COMMAS, {"verifier": "no_repetition"}], "constraint": {"verifier": "no_repetition"},
    "forbidden_words": ["a", "C++", "漢"], "frequency": 2, "letter": "a", "let_frequency": 2, "let_relation": "at least",
    "num_words": 2, "num_sentences": 2, "num_paragraphs": 2, "nth_paragraph": 2, "first_word": "a", "postscript_marker": "P.S.",
    "end_phrase": "a", "num_placeholders": 2, "num_bullets": 2, "num_highlights": 2, "section_spliter": "a", "num_sections": 2,
    "prompt_to_repeat": "a", "language": "en", "capital_frequency": 2, "capital_relation": "less than",
}  # fmt: skip
RELATIONS = ("keywords_frequency", "length_words", "length_sentence")
OF_LANGUAGE = ("format_language", "cases_uppercase", "cases_lowercase")

ANY_TEXT = st.text(st.characters(), max_size=200)  # surrogates and control characters included
MARKED = st.text("ab AB.,!?-–*•1２3[]{}\"“”「」'’\n\r\t漢カー。é\u0301\u200d\ufeff\x00", max_size=80)
TEXT = ANY_TEXT | MARKED | st.text(max_size=80)


def built_in() -> dict[str, Constraint]:
    found = {}
    for name, one in verifiers().items():
        if name == "passes_tests" or (name in OF_LANGUAGE and not is_installed("langdetect")):
            continue  # programs are not any text
        needed = {argument: BY_ARGUMENT[argument] for argument in one.args if argument in BY_ARGUMENT}
        needed |= {"relation": "at least"} if name in RELATIONS else {}
        found[name] = Constraint(name, BY_NAME.get(name, needed))
    return found


@pytest.mark.parametrize("name", sorted(built_in()))
@settings(max_examples=60)
@given(prompt=TEXT, response=TEXT, other=TEXT)
def test_any_text_has_a_value(name: str, prompt: str, response: str, other: str) -> None:
    constraint = built_in()[name]
    value = constraint.verify(prompt, response, [(prompt, other)])
    assert type(value) is float
    assert 0 <= value <= 1
    assert value == constraint.verify(prompt, response, [(prompt, other)])
    if is_blank(response):
        assert value == 0
    graded = verifiers()[name].graded
    assert graded or value in (0, 1)


UNITS = ["a ", "a", "[a", '"', "“", "\n", "\n ", "- ", "1. ", ". ", "!?", "漢", "\u0301"]
UNITS += ["{", "a,b. ", "-", "'", "<<", "* ", "***", "A.", "I'M "]


@pytest.mark.parametrize("name", sorted(built_in()))
def test_huge_text_takes_linear_time(name: str) -> None:
    for unit in UNITS:
        text = "x" + unit * (50_000 // len(unit))
        start = time.process_time()
        built_in()[name].verify(text, text, [(text, text)])
        assert time.process_time() - start < 2, unit


@settings(max_examples=200)
@given(text=TEXT, n=st.integers(1, 20))
def test_limits_are_ordered(text: str, n: int) -> None:
    for unit in ("words", "sentences", "characters"):
        most, least, exact = (
            verify(f"{kind}_{unit}", "", text, {"n": n}) for kind in ("max", "min", "exact")
        )
        assert most <= verify(f"max_{unit}", "", text, {"n": n + 1})
        assert least >= verify(f"min_{unit}", "", text, {"n": n + 1})
        assert exact == min(most, least)
        assert exact == verify(f"{unit}_between", "", text, {"low": n, "high": n})
        if not is_blank(text):
            assert max(most, least) == 1


@settings(max_examples=300)
@given(text=TEXT)
def test_normalisation_is_idempotent_and_ignored_by_every_count(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert fold(fold(text)) == fold(text)
    for units, changed in (
        (text_units.words, normalise(text)),
        (text_units.sentences, normalise(text)),
        (text_units.paragraphs, f"\n\n{text} \n"),
        (text_units.count_characters, f"  {text}\n"),
        (text_units.folded_words, fold(text)),
    ):
        assert units(changed) == units(text)


@settings(max_examples=200)
@given(text=TEXT)
def test_case_folding_satisfies_the_case_verifier(text: str) -> None:
    for case, changed in (("lower", normalise(text).lower()), ("upper", normalise(text).upper())):
        if not is_blank(changed) and normalise(changed) == changed:
            assert verify("letter_case", "", changed, {"case": case}) == 1


@settings(max_examples=200)
@given(text=TEXT, keyword=TEXT.filter(lambda text: not is_blank(text)))
def test_include_and_not_include_are_complements(text: str, keyword: str) -> None:
    if is_blank(text):
        return
    args = {"keywords": [keyword]}
    assert verify("must_include", "", text, args) + verify("must_not_include", "", text, args) == 1
    assert verify("must_include", "", keyword, args) == 1
    assert verify("option_list", "", keyword, {"options": [keyword]}) == 1
    for name in ("starts_with", "ends_with"):
        assert verify(name, "", keyword, {"phrase": keyword}) == 1
    once = {"keyword": keyword, "n": 1}
    assert verify("min_keyword_uses", "", text, once) == verify("must_include", "", text, args)


@settings(max_examples=100)
@given(text=TEXT, values=st.lists(st.sampled_from([1, 2, 3, 5, 8]), min_size=1, max_size=4))
def test_composites_agree_with_their_definition(text: str, values: list[int]) -> None:
    inner = [Constraint("no_repetition", {"n": n}) for n in values]
    found = [one.verify("", text) for one in inner]
    assert verify("all_of", "", text, {"constraints": inner}) == min(found)
    assert verify("any_of", "", text, {"constraints": inner}) == max(found)
    weights = [1.0] * len(inner)
    mean = verify("weighted", "", text, {"constraints": inner, "weights": weights})
    assert mean == pytest.approx(sum(found) / len(found))
    twice = verify("not", "", text, {"constraint": Constraint("not", {"constraint": inner[0]})})
    assert twice == pytest.approx(found[0])
