"""What each verifier says of texts whose value is known."""

from __future__ import annotations

from typing import Any

import pytest

from coalign.judging.verifiers.constraints import verifiers, verify
from coalign.judging.verifiers.following import RULES

ONE_WORD = {"verifier": "max_words", "n": 1}
LIST = "Here:\n- one\n* two\n  • three"

CASES: list[tuple[str, dict[str, Any], str, float]] = [
    ("max_words", {"n": 3}, "a well-known don't", 1),
    ("max_words", {"n": 3}, "one two three four", 0),
    ("min_words", {"n": 3}, "one two", 0),
    ("exact_words", {"n": 4}, "漢字 is kanji", 1),
    ("words_between", {"low": 2, "high": 3}, "one two three", 1),
    ("final_answer", {"answer": "1,000"}, "500 and 500 make 1000.0", 1),
    ("final_answer", {"answer": "1/2"}, "The answer is 0.5, not 7.", 1),
    ("final_answer", {"answer": "42"}, "First 42, then 43.", 0),
    ("final_answer", {"answer": "42"}, "I do not know.", 0),
    ("final_answer", {"answer": "yes"}, "A: Yes, it is.", 1),
    ("max_sentences", {"n": 1}, "It costs 3.50 dollars, e.g. at Dr. Smith's.", 1),
    ("max_sentences", {"n": 1}, "One. Two", 0),
    ("exact_sentences", {"n": 2}, "“Really?” he asked. Yes", 1),
    ("exact_sentences", {"n": 2}, "A line\nanother line", 1),
    ("min_sentences", {"n": 2}, "Wait... what", 0),
    ("exact_sentences", {"n": 2}, "これは本です。はい。", 1),
    ("sentences_between", {"low": 1, "high": 2}, "1. First item.\n2. Second item.", 1),
    ("max_characters", {"n": 5}, " abcde ", 1),
    ("exact_characters", {"n": 1}, "👩‍👩‍👧", 1),
    ("exact_characters", {"n": 1}, "e\u0301", 1),
    ("min_characters", {"n": 6}, "abcde", 0),
    ("characters_between", {"low": 1, "high": 4}, "abcde", 0),
    ("must_include", {"keywords": ["Red", "new york", "car"]}, "A RED bus in New\nYork.", 2 / 3),
    ("must_include", {"keywords": ["art"]}, "party", 0),
    ("must_include", {"keywords": ["C++"]}, "I like c++.", 1),
    ("must_include", {"keywords": ["don't"]}, "I don’t know", 1),
    ("must_include", {"keywords": ["本"]}, "日本語", 1),
    ("must_include_stems", {"stems": ["Run", "art"]}, "running a party", 0.5),
    ("must_not_include", {"keywords": ["art", "red"]}, "a red party", 0.5),
    ("starts_with", {"phrase": "Dear all,"}, "“Dear all: hello", 1),
    ("starts_with", {"phrase": "No"}, "Nothing", 0),
    ("starts_with", {"phrase": ">>"}, ">> go", 1),
    ("ends_with", {"phrase": "thank you!"}, "Well, **thank you**.", 1),
    ("ends_with", {"phrase": "art"}, "a party, a part", 0),
    ("ends_with", {"phrase": "art"}, "fine art?", 1),
    ("option_list", {"options": ["yes", "no"]}, " “Yes.” ", 1),
    ("option_list", {"options": ["yes", "no"]}, "Yes, it is.", 0),
    ("option_list", {"options": ["yes", "no"], "mode": "lenient"}, "Yes, it is.", 1),
    ("option_list", {"options": ["yes", "no"], "mode": "lenient"}, "Yes and no.", 0),
    ("option_list", {"options": ["York", "New York"], "mode": "lenient"}, "In New York.", 1),
    ("no_commas", {}, "a b", 1),
    ("no_commas", {}, "a， b", 0),
    ("no_punctuation", {}, "it's a well-known fact", 1),
    ("no_punctuation", {}, "a fact.", 0),
    ("no_repetition", {"n": 2}, "a b a b", 2 / 3),
    ("no_repetition", {"n": 3}, "a b", 1),
    ("contains_number", {"n": 2}, "from 1,000.5 to 7", 1),
    ("contains_number", {"n": 3}, "from 1,000.5 to 7", 0),
    ("max_keyword_uses", {"keyword": "very", "n": 1}, "very, very big", 0),
    ("min_keyword_uses", {"keyword": "very", "n": 2}, "very, Very big", 1),
    ("json_object", {"keys": ["a", "b"]}, '{"a": 1}', 0.5),
    ("json_object", {"keys": ["a"]}, '```json\n{"a": 1}\n```', 1),
    ("json_object", {"keys": []}, "{}", 1),
    ("json_object", {"keys": []}, 'Sure: {"a": 1}', 0),
    ("json_object", {"keys": []}, '{"a": NaN}', 0),
    ("json_object", {"keys": []}, "[" * 100_000, 0),
    ("json_object", {"keys": []}, '{"a": ' + "9" * 10_000 + "}", 0),
    ("bullet_points", {"n": 3}, LIST, 1),
    ("bullet_points", {"n": 2, "relation": "at_least"}, LIST, 1),
    ("bullet_points", {"n": 2, "relation": "at_most"}, LIST, 2 / 3),
    ("bullet_points", {"n": 5}, LIST, 3 / 5),
    ("bullet_points", {"n": 2}, "1. a\n2. b", 0),
    ("bullet_points", {"n": 0}, "*bold* and -5", 1),
    ("numbered_list", {"n": 2}, "1. a\n2) b", 1),
    ("numbered_list", {"n": 2}, "1. a\n3. b", 0),
    ("paragraph_count", {"n": 2}, "a\nb\r\n \r\n\r\nc\n\n", 1),
    ("placeholders", {"n": 2}, "Dear [name], at [address]", 1),
    ("placeholders", {}, "a[ ]", 0),
    ("letter_case", {"case": "lower"}, "all lower, 42 漢", 1),
    ("letter_case", {"case": "lower"}, "Not lower", 0),
    ("letter_case", {"case": "upper"}, "ALL CAPS 42", 1),
    ("letter_case", {"case": "title"}, "The Old Man and the Sea", 1),
    ("letter_case", {"case": "title"}, "the Old Man", 0),
    ("script", {"name": "cyrillic"}, "Да 12, ok", 0.5),
    ("script", {"name": "japanese"}, "コーヒーを飲む", 1),
    ("script", {"name": "latin"}, "123 !", 0),
    ("quoted", {}, "“hello there”", 1),
    ("quoted", {}, '"hello" there', 0),
    ("quoted", {}, '"a" and "b"', 0),
    ("all_of", {"constraints": [{"verifier": "no_commas"}, ONE_WORD]}, "a b", 0),
    ("any_of", {"constraints": [{"verifier": "no_commas"}, ONE_WORD]}, "a b", 1),
    ("not", {"constraint": {"verifier": "no_commas"}}, "a, b", 1),
    ("weighted", {"constraints": [{"verifier": "no_commas"}, ONE_WORD], "weights": [3.0, 1.0]}, "a b", 0.75),
]


@pytest.mark.parametrize(("name", "args", "response", "value"), CASES)
def test_response_verifiers(name: str, args: dict[str, Any], response: str, value: float) -> None:
    assert verify(name, "", response, args) == pytest.approx(value)


PROMPT = "Summarise: the old miller sold his grey horse to the baker in May."


PROMPT_CASES: list[tuple[str, dict[str, Any], str, float]] = [
    ("passes_tests", {"tests": "assert one == 1", "sandbox": "none"}, "```python\none = 1\n```", 1),
    ("passes_tests", {"tests": "assert one == 1", "sandbox": "none"}, "one = 2", 0),
    ("source_overlap", {}, "The miller sold a horse.", 1),
    ("source_overlap", {}, "The miller bought a cow.", 1 / 3),
    ("source_overlap", {}, "It was as it is.", 0),
    ("no_copying", {"n": 3}, "the old miller sold", 0),
    ("no_copying", {"n": 3}, "a miller sold his horse", 2 / 3),
    ("no_copying", {"n": 3}, "sold his grey cow", 0.5),
    ("no_copying", {"n": 3}, "grey horse", 1),
    ("extracted", {}, "His GREY horse.", 1),
    ("extracted", {}, "his horse", 0),
    ("extracted", {}, "rey horse", 0),
]


@pytest.mark.parametrize(("name", "args", "response", "value"), PROMPT_CASES)
def test_prompt_verifiers(name: str, args: dict[str, Any], response: str, value: float) -> None:
    assert verify(name, PROMPT, response, args) == pytest.approx(value)


OPTIONS = {"options": ["before", "after"]}


GROUP_CASES: list[tuple[str, dict[str, Any], str, list[str], float]] = [
    ("same_answer", {}, "Yes.", ["yes", "no"], 0.5),
    ("same_answer", {}, "!", ["?"], 0),
    ("consistent_options", OPTIONS, "Before.", ["before", "It was before", "after", "who knows"], 0.5),
    ("different_options", OPTIONS, "before", ["after", "before", "before or after"], 1 / 3),
    ("numeric_order", {"relation": "below"}, "In 1914-1918", ["In 1,939", "1914"], 0.5),
    ("numeric_order", {"relation": "at_least"}, "-3.5 degrees", ["−4", "none"], 0.5),
    ("numeric_order", {"relation": "equal_to"}, "9" * 400, ["9" * 401], 0),
]


@pytest.mark.parametrize(("name", "args", "own", "others", "value"), GROUP_CASES)
def test_group_verifiers(name: str, args: dict[str, Any], own: str, others: list[str], value: float) -> None:
    assert verify(name, "", own, args, [("", other) for other in others]) == pytest.approx(value)


def test_no_built_in_verifier_is_left_without_a_case() -> None:
    tested_elsewhere = RULES  # tests/rewards/test_following.py
    assert set(verifiers()) - tested_elsewhere == {case[0] for case in (*CASES, *PROMPT_CASES, *GROUP_CASES)}
