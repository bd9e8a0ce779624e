"""Verifiers of the response's form: JSON, lists, paragraphs, letter case, script, quotation marks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import regex

from coalign.core.files import parse_json
from coalign.core.options import Count, CountOrZero
from coalign.judging.verifiers.registry import verifier
from coalign.measures.texts.text_units import (
    count_bullets,
    is_blank,
    list_numbers,
    normalise,
    paragraphs,
    words,
)

Relation = Literal["exactly", "at_least", "at_most"]
Script = Literal[
    "latin", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "thai", "han", "japanese", "hangul"
]

_SCRIPTS: dict[str, tuple[str, ...]] = {"japanese": ("Han", "Hiragana", "Katakana")}
_FENCE = regex.compile(r"\A```[\w-]*[ \t]*\n(.*?)\n?```\Z", regex.DOTALL)
_QUOTED = regex.compile(r"\A(?:\"[^\"]+\"|“[^“”]+”|„[^„“”]+[“”]|«[^«»]+»|「[^「」]+」|『[^『』]+』)\Z")
_MINOR_WORD_LIST = "a an and as at but by for from in nor of off on or over per so the to up via with yet"
_MINOR_WORDS = frozenset(_MINOR_WORD_LIST.split())


@verifier(
    "json_object", classification="response", graded=True, describe="a JSON object with the keys {keys}"
)
def json_object(response: str, *, keys: Annotated[list[str], "a list of texts"]) -> float:
    """A JSON object: 0 where it is none (text around it included), else the share of the keys that it has.

    One Markdown code fence around the whole answer is taken off. NaN and infinities are not JSON. Strings are
    compared as they are, without normalisation. No keys: any object will do.
    """
    found = _load_json(response)
    if not isinstance(found, dict):
        return 0.0
    return sum(key in found for key in keys) / len(keys) if keys else 1.0


@verifier("bullet_points", classification="response", graded=True, describe="{relation!w} {n:bullet point}")
def bullet_points(response: str, *, n: CountOrZero, relation: Relation = "exactly") -> float:
    """How near the number of lines that begin with a bullet mark (`-`, `*`, `•`, ...) and white space is to n."""
    return _nearness(count_bullets(response), relation, n)


@verifier("numbered_list", classification="response", graded=True, describe="{relation!w} {n:numbered item}")
def numbered_list(response: str, *, n: Count, relation: Relation = "exactly") -> float:
    """How near the number of lines that begin like `1.` or `2)` is to n; 0 unless numbered 1, 2, 3, ... in order."""
    numbers = list_numbers(response)
    return _nearness(len(numbers), relation, n) if numbers == list(range(1, len(numbers) + 1)) else 0.0


@verifier("paragraph_count", classification="response", graded=True, describe="{relation!w} {n:paragraph}")
def paragraph_count(response: str, *, n: Count, relation: Relation = "exactly") -> float:
    """How near the number of blocks separated by blank lines is to n."""
    return _nearness(len(paragraphs(response)), relation, n)


@verifier("placeholders", classification="response", describe="at least {n:placeholder} such as [name]")
def placeholders(response: str, *, n: Count = 1) -> float:
    """At least n placeholders in square brackets, such as `[address]`."""
    found = regex.findall(r"\[([^\[\]\n]+)\]", normalise(response))
    return float(sum(not is_blank(one) for one in found) >= n)


@verifier("letter_case", classification="response", describe="{case} case")
def letter_case(response: str, *, case: Literal["lower", "upper", "title"]) -> float:
    """Nothing changes in lower (upper) case, or every word begins with a capital (title).

    Letters without case pass. In title case, short English function words may be lower case except as first word.
    """
    plain = normalise(response)
    if case == "title":
        found = words(plain)
        return float(all(_titled(word, first=index == 0) for index, word in enumerate(found)))
    return float(plain == (plain.lower() if case == "lower" else plain.upper()))


@verifier("script", classification="response", graded=True, describe="written in {name} script")
def script(response: str, *, name: Script) -> float:
    """Share of the letters that belong to the script; letters common to scripts are left out; 0 without letters.

    `japanese` is Han, Hiragana and Katakana; `han` is Han alone.
    """
    plain = normalise(response)
    own = "".join(rf"\p{{Script={one}}}" for one in _SCRIPTS.get(name, (name,)))
    letters = len(regex.findall(r"(?!\p{Script=Common}|\p{Script=Inherited})\p{L}", plain))
    return len(regex.findall(rf"(?=[{own}])\p{{L}}", plain)) / letters if letters else 0.0


@verifier("quoted", classification="response", describe="wrapped in quotation marks")
def quoted(response: str) -> float:
    """The whole response stands in one pair of double quotation marks (“ ”, „ “, « » and 「 」 count), none inside."""
    return float(_QUOTED.match(normalise(response)) is not None)


def _nearness(count: int, relation: Relation, n: int) -> float:
    """1 where the relation holds, else the smaller of the two numbers over the larger."""
    holds = {"exactly": count == n, "at_least": count >= n, "at_most": count <= n}[relation]
    return 1.0 if holds else min(count, n) / max(count, n)


def _load_json(text: str) -> Any:
    plain = text.strip().removeprefix("\ufeff")
    fenced = _FENCE.match(plain)
    try:
        return parse_json(fenced.group(1) if fenced else plain, parse_constant=_refuse)
    except ValueError:
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _titled(word: str, *, first: bool) -> bool:
    return word[0] == word[0].title() or (not first and word in _MINOR_WORDS)
