"""Verifiers of the response's text: how long it is, what it says, how it begins and ends.

Counts are of `text_units` (NFKC; what a word and a sentence is, is said there). Phrases are compared after `fold`:
case, typographic quotes and runs of white space do not matter, inflected forms are other words.
"""

from __future__ import annotations

import operator
import string
import unicodedata
from collections.abc import Callable
from typing import Any, Literal

import regex

from coalign.core.options import Count, CountOrZero
from coalign.judging.verifiers.registry import Text, Texts, low_to_high, verifier
from coalign.measures.texts.text_units import (
    contains_phrase,
    count_characters,
    find_phrases,
    fold,
    folded_words,
    ngrams,
    normalise,
    sentences,
    words,
)

# What may surround an answer without changing it; `:` because models write "Answer: yes".
_EDGES = string.whitespace + "\"'`*_.,;:!?()[]{}<>"
_COMMA = regex.compile(r"[,،、՝߸፣᠂᠈]")
_INNER_MARK = regex.compile(r"(?<=\w)['’ʼ\-‐‑](?=\w)")


def _register_limits(unit: str, count: Callable[[str], int], note: str = "") -> None:
    """The verifiers `max_words`, `min_words`, `exact_words` and `words_between`, of any unit that can be counted."""

    def limit(name: str, wording: str, holds: Callable[[int, int], bool]) -> None:
        def function(response: str, *, n: Count) -> float:
            return float(holds(count(response), n))

        add(
            function, f"{name}_{unit}s", f"{wording} {{n:{unit}}}", f"{wording.capitalize()} n {unit}s{note}."
        )

    def between(response: str, *, low: Count, high: Count) -> float:
        return float(low <= count(response) <= high)

    def add(function: Callable[..., float], name: str, words: str, summary: str, **more: Any) -> None:
        function.__qualname__, function.__doc__ = name, summary
        verifier(name, classification="response", describe=words, **more)(function)

    limit("max", "at most", operator.le)
    limit("min", "at least", operator.ge)
    limit("exact", "exactly", operator.eq)
    bounds = f"{note} and both bounds included" if note else ", both included"
    summary = f"From low to high {unit}s{bounds.replace(' included and', ' and')}."
    add(between, f"{unit}s_between", f"{{low}} to {{high:{unit}}}", summary, check=low_to_high)


_register_limits("word", lambda text: len(words(text)))
_register_limits("sentence", lambda text: len(sentences(text)))
_register_limits("character", count_characters, ", spaces included")


@verifier("must_include", classification="response", graded=True, describe="includes {keywords}")
def must_include(response: str, *, keywords: Texts) -> float:
    """Share of the keywords or phrases that occur as whole words."""
    return sum(contains_phrase(response, one) for one in keywords) / len(keywords)


@verifier(
    "must_include_stems", classification="response", graded=True, describe="includes words from {stems}"
)
def must_include_stems(response: str, *, stems: Texts) -> float:
    """Share of the stems with which a word begins, so that `run` is found in `running`."""
    found = folded_words(response)
    return sum(any(word.startswith(fold(one)) for word in found) for one in stems) / len(stems)


@verifier("must_not_include", classification="response", graded=True, describe="does not include {keywords}")
def must_not_include(response: str, *, keywords: Texts) -> float:
    """Share of the keywords or phrases that do not occur as whole words."""
    return sum(not contains_phrase(response, one) for one in keywords) / len(keywords)


@verifier("starts_with", classification="response", describe="starts with “{phrase}”")
def starts_with(response: str, *, phrase: Text) -> float:
    """Begins with the phrase; opening quotes and brackets, case and the phrase's end punctuation do not matter."""
    wanted, found = _bare(phrase), fold(response)
    found = found if found.startswith(wanted) else found.lstrip(_EDGES)
    return float(found.startswith(wanted) and not _same_word(wanted[-1:], found[len(wanted) :][:1]))


@verifier("ends_with", classification="response", describe="ends with “{phrase}”")
def ends_with(response: str, *, phrase: Text) -> float:
    """Ends with the phrase; closing quotes, brackets and punctuation and case do not matter."""
    wanted, found = _bare(phrase), fold(response)
    found = found if found.endswith(wanted) else found.rstrip(_EDGES)
    before = found.removesuffix(wanted)[-1:]
    return float(found.endswith(wanted) and not _same_word(wanted[:1], before))


@verifier("option_list", classification="response", describe="answers with one of {options} ({mode})")
def option_list(response: str, *, options: Texts, mode: Literal["strict", "lenient"] = "strict") -> float:
    """The answer is one of the options: nothing else (strict), or exactly one of them is named (lenient).

    Surrounding white space, quotes, brackets, Markdown emphasis and punctuation, and case, do not matter.
    """
    if mode == "strict":
        return float(_bare(response) in {_bare(option) for option in options})
    return float(len(set(find_phrases(response, options))) == 1)


@verifier("no_commas", classification="response", describe="no commas")
def no_commas(response: str) -> float:
    """No comma of any script, also none inside numbers."""
    return float(_COMMA.search(normalise(response)) is None)


@verifier("no_punctuation", classification="response", describe="no punctuation")
def no_punctuation(response: str) -> float:
    """No punctuation character, except apostrophes and hyphens inside words."""
    plain = _INNER_MARK.sub("", normalise(response))
    return float(not any(unicodedata.category(character).startswith("P") for character in plain))


@verifier("no_repetition", classification="response", graded=True, describe="no repeated run of {n:word}")
def no_repetition(response: str, *, n: Count = 3) -> float:
    """Distinct n-grams of words over all of them; 1 where the response has fewer than n words."""
    found = ngrams(folded_words(response), n)
    return len(set(found)) / len(found) if found else 1.0


@verifier("contains_number", classification="response", describe="contains at least {n:number}")
def contains_number(response: str, *, n: Count = 1) -> float:
    """At least n numbers written in digits; `1,000.5` is one."""
    return float(len(regex.findall(r"\d+(?:[.,]\d+)*", normalise(response))) >= n)


@verifier("max_keyword_uses", classification="response", describe="uses “{keyword}” at most {n:time}")
def max_keyword_uses(response: str, *, keyword: Text, n: CountOrZero) -> float:
    """The keyword or phrase occurs at most n times as whole words."""
    return float(len(find_phrases(response, [keyword])) <= n)


@verifier("min_keyword_uses", classification="response", describe="uses “{keyword}” at least {n:time}")
def min_keyword_uses(response: str, *, keyword: Text, n: Count) -> float:
    """The keyword or phrase occurs at least n times as whole words."""
    return float(len(find_phrases(response, [keyword])) >= n)


def _bare(text: str) -> str:
    """Folded text without `_EDGES` at its ends; kept whole where nothing would be left."""
    folded = fold(text)
    return folded.strip(_EDGES) or folded


def _same_word(last: str, following: str) -> bool:
    return bool(last and following) and last.isalnum() and following.isalnum()
