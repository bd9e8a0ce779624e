"""Verifiers of the rules of IFEval (arXiv 2311.07911) and of FollowRAG, which has 22 of the 25: comparable scores.

They count as the published scripts do, bugs of little effect included, so that scores can be set beside published ones; the
other verifiers of this package are the careful ones. Different on purpose: keywords and markers are plain text and no
patterns (`c++` is an error there), an edge of a forbidden word that is no letter needs no word boundary, and text in
capitals alone is read in lower case before its language is detected. The names are FollowRAG's; `coalign.judging.verifiers.following`
knows IFEval's, and the loose form of its scores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Len

from coalign.core.files import parse_json
from coalign.core.options import Count, CountOrZero
from coalign.judging.verifiers.registry import ConstraintError, Text, Texts, verifier
from coalign.measures.texts.languages import detect_language, known_languages
from coalign.measures.texts.punkt import punkt_tokenizer

Relation = Literal["at least", "less than"]
Letter = Annotated[str, Len(1, 1), "one character"]

CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""What `format_constrained_response` asks for."""
_JSON_FENCES = ("```json", "```Json", "```JSON", "```")
_BULLETS = re.compile(r"^[^\S\n]*(?:\*[^*]|-).*$", re.MULTILINE)
_CONTRACTED = r"'(?:s|m|d|ll|re|ve|t)\b"
_CAPITAL_TOKEN = re.compile(rf"\w+(?:[-./]\w+|(?!{_CONTRACTED})'\w+)*|{_CONTRACTED}", re.IGNORECASE)


def _bracketed(line: str) -> int:
    """How many `[…]` a line has: from each bracket that opens to the next that closes. In linear time."""
    found = place = 0
    while (place := line.find("]", line.find("[", place) + 1 or len(line)) + 1) > 0:
        found += 1
    return found


def _has_title(line: str) -> bool:
    """Whether something stands between the first `<<` and the last `>>` of a line."""
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end - 2 and bool(line[start : end + 2].lstrip("<").rstrip(">").strip())


def _holds(count: int, relation: Relation, n: int) -> float:
    return float(count >= n if relation == "at least" else count < n)


def _whole(word: str) -> str:
    left, right = (r"\b" if re.match(r"\w", edge) else "" for edge in (word[0], word[-1]))
    return left + re.escape(word) + right


@verifier("keywords_inclusion", classification="response", describe="contains {keywords}")
def keywords_inclusion(response: str, *, keywords: Texts) -> float:
    """Every keyword occurs, in any case, also inside words."""
    return float(all(re.search(re.escape(one), response, re.IGNORECASE) for one in keywords))


@verifier("keywords_exclusion", classification="response", describe="does not contain {forbidden_words}")
def keywords_exclusion(response: str, *, forbidden_words: Texts) -> float:
    """None of the words occurs as a whole word, in any case."""
    return float(not any(re.search(_whole(one), response, re.IGNORECASE) for one in forbidden_words))


@verifier(
    "keywords_frequency", classification="response", describe="uses “{keyword}” {relation} {frequency:time}"
)
def keywords_frequency(response: str, *, keyword: Text, frequency: CountOrZero, relation: Relation) -> float:
    """The keyword occurs at least, or less than, so many times, in any case, also inside words."""
    return _holds(len(re.findall(re.escape(keyword.strip()), response, re.IGNORECASE)), relation, frequency)


@verifier(
    "keywords_letter_frequency",
    classification="response",
    describe="has the letter “{letter}” {let_relation} {let_frequency:time}",
)
def keywords_letter_frequency(
    response: str, *, letter: Letter, let_frequency: CountOrZero, let_relation: Relation
) -> float:
    """The letter occurs at least, or less than, so many times, in any case."""
    return _holds(response.lower().count(letter.lower()), let_relation, let_frequency)


@verifier("length_words", classification="response", describe="{relation} {num_words:word}")
def length_words(response: str, *, num_words: Count, relation: Relation) -> float:
    """At least, or less than, so many runs of letters, digits and underscores; `it's` is two."""
    return _holds(len(re.findall(r"\w+", response)), relation, num_words)


def _needs_punkt(_: Mapping[str, Any]) -> None:
    punkt_tokenizer()


@verifier(
    "length_sentence",
    classification="response",
    describe="{relation} {num_sentences:sentence}",
    check=_needs_punkt,
)
def length_sentence(response: str, *, num_sentences: Count, relation: Relation) -> float:
    """At least, or less than, so many sentences of NLTK's English Punkt model (extra `sentences`)."""
    return _holds(len(punkt_tokenizer().tokenize(response)), relation, num_sentences)


@verifier("length_paragraph", classification="response", describe="{num_paragraphs:paragraph} between ***")
def length_paragraph(response: str, *, num_paragraphs: Count) -> float:
    """Exactly so many paragraphs between `***`; an empty one is allowed at either end alone."""
    parts = [bool(one.strip()) for one in re.split(r"\s?\*\*\*\s?", response)]
    return float(all(parts[1:-1]) and sum(parts) == num_paragraphs)


def _within(args: Mapping[str, Any]) -> None:
    if args["nth_paragraph"] > args["num_paragraphs"]:
        raise ConstraintError(
            "nth_paragraph",
            f"is {args['nth_paragraph']}",
            f"at most num_paragraphs, {args['num_paragraphs']}",
        )


@verifier(
    "position_first_word",
    classification="response",
    describe="{num_paragraphs:paragraph}, number {nth_paragraph} of which begins with “{first_word}”",
    check=_within,
)
def position_first_word(
    response: str, *, num_paragraphs: Count, nth_paragraph: Count, first_word: Text
) -> float:
    """Exactly so many paragraphs between blank lines, and the first word of the n-th is this one, in any case.

    Blank paragraphs are not counted, but keep their place among the n.
    """
    parts = response.split("\n\n")
    if sum(bool(one.strip()) for one in parts) != num_paragraphs:
        return 0.0
    words = parts[nth_paragraph - 1].split()
    found = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'), maxsplit=1)[0] if words else ""
    return float(found.lower() == first_word.lower())


@verifier("position_postscript", classification="response", describe="a postscript “{postscript_marker}”")
def position_postscript(response: str, *, postscript_marker: Text) -> float:
    """The marker of the postscript occurs, in any case; P.S. and P.P.S may have a space inside."""
    marker = postscript_marker.strip()
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return float(re.search(known.get(marker, re.escape(marker.lower())), response.lower()) is not None)


@verifier("position_end_with", classification="response", describe="ends with “{end_phrase}”")
def position_end_with(response: str, *, end_phrase: Text) -> float:
    """Ends with the phrase, in any case, without the white space and double quotes around the whole."""
    return float(response.strip().strip('"').lower().endswith(end_phrase.strip().lower()))


@verifier(
    "structure_placeholder",
    classification="response",
    describe="at least {num_placeholders:placeholder} in square brackets",
)
def structure_placeholder(response: str, *, num_placeholders: Count) -> float:
    """At least so many placeholders in square brackets."""
    return float(sum(map(_bracketed, response.split("\n"))) >= num_placeholders)


@verifier("structure_bullets", classification="response", describe="exactly {num_bullets:bullet point}")
def structure_bullets(response: str, *, num_bullets: CountOrZero) -> float:
    """Exactly so many lines that begin with `*` (not `**`) or `-`."""
    return float(len(_BULLETS.findall(response)) == num_bullets)


@verifier("structure_highlights", classification="response", describe="at least {num_highlights:*highlight*}")
def structure_highlights(response: str, *, num_highlights: Count) -> float:
    """At least so many stretches in `*stars*` or `**stars**` that are not empty."""
    single = (one.strip("*").strip() for one in re.findall(r"\*[^\n*]*\*", response))
    double = (one[2:-2].strip() for one in re.findall(r"\*\*[^\n*]*\*\*", response))
    return float(sum(map(bool, [*single, *double])) >= num_highlights)


@verifier(
    "structure_sections",
    classification="response",
    describe="at least {num_sections:section}, each begun with “{section_spliter}” and its number",
)
def structure_sections(response: str, *, section_spliter: Text, num_sections: Count) -> float:
    """At least so many places where the marker and a number stand."""
    return float(len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", response)) >= num_sections)


@verifier("structure_title", classification="response", describe="a title in <<double angular brackets>>")
def structure_title(response: str) -> float:
    """A title in `<<double angular brackets>>`, on one line and not blank."""
    return float(any(map(_has_title, response.split("\n"))))


@verifier("format_json", classification="response", describe="JSON alone")
def format_json(response: str) -> float:
    """The whole response is JSON of any kind; a Markdown code fence around it is taken off."""
    text = response.strip()
    for fence in _JSON_FENCES:
        text = text.removeprefix(fence)
    try:
        parse_json(text.removesuffix("```").strip())
    except ValueError:
        return 0.0
    return 1.0


@verifier("format_no_commas", classification="response", describe="no `,`")
def format_no_commas(response: str) -> float:
    """No ASCII comma."""
    return float("," not in response)


@verifier("format_quotation", classification="response", describe="wrapped in double quotation marks")
def format_quotation(response: str) -> float:
    """The first and the last character are `"`, white space aside."""
    text = response.strip()
    return float(len(text) > 1 and text[0] == text[-1] == '"')


@verifier("format_repeat_question", classification="response", describe="first repeats “{prompt_to_repeat}”")
def format_repeat_question(response: str, *, prompt_to_repeat: Text) -> float:
    """Begins with the question, in any case."""
    return float(response.strip().lower().startswith(prompt_to_repeat.strip().lower()))


@verifier(
    "format_constrained_response", classification="response", describe=f"one of: {' '.join(CONSTRAINED)}"
)
def format_constrained_response(response: str) -> float:
    """Contains one of `My answer is yes.`, `My answer is no.` and `My answer is maybe.`, as they are."""
    return float(any(one in response for one in CONSTRAINED))


@verifier("format_two_responses", classification="response", describe="two different answers between ******")
def format_two_responses(response: str) -> float:
    """Two different answers between `******`; an empty one is allowed at either end alone."""
    parts = [one.strip() for one in response.split("******")]
    written = [one for one in parts if one]
    return float(all(parts[1:-1]) and len(written) == 2 and written[0] != written[1])


def _known_language(args: Mapping[str, Any]) -> None:
    known = {one.partition("-")[0] for one in known_languages()}
    if args["language"].partition("-")[0] not in known:
        raise ConstraintError(
            "language", f"{args['language']!r} cannot be detected", ", ".join(sorted(known))
        )


@verifier(
    "format_language", classification="response", describe="in the language {language}", check=_known_language
)
def format_language(response: str, *, language: Text) -> float:
    """The detected language is this one (ISO 639-1; `zh` for any Chinese), or none can be detected (extra `languages`)."""
    found = detect_language(response)
    return float(found is None or language in (found, found.partition("-")[0]))


def _english(response: str) -> bool:
    return detect_language(response) in (None, "en")


def _needs_languages(_: Mapping[str, Any]) -> None:
    known_languages()


@verifier(
    "cases_uppercase", classification="response", describe="English in capitals", check=_needs_languages
)
def cases_uppercase(response: str) -> float:
    """All letters are capitals and the language is detected as English, or none can be detected (extra `languages`)."""
    return float(response.isupper() and _english(response))


@verifier(
    "cases_lowercase", classification="response", describe="English in lower case", check=_needs_languages
)
def cases_lowercase(response: str) -> float:
    """All letters are small and the language is detected as English, or none can be detected (extra `languages`)."""
    return float(response.islower() and _english(response))


@verifier(
    "cases_capital_words",
    classification="response",
    describe="{capital_relation} {capital_frequency:word} in capitals",
)
def cases_capital_words(
    response: str, *, capital_frequency: CountOrZero, capital_relation: Relation
) -> float:
    """At least, or less than, so many words in capitals alone; hyphenated ones count once, `I'M` twice."""
    found = sum(one.isupper() for one in _CAPITAL_TOKEN.findall(response))
    return _holds(found, capital_relation, capital_frequency)
