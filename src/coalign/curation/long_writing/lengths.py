"""Lengths: how many words a text has, how many a request asks for, and how well the two agree."""

from __future__ import annotations

import re
from typing import Literal

from coalign.measures.texts.text_units import words

Counter = Literal["official", "all-scripts"]
"""How words are counted: as the official code does (Chinese characters and runs of ASCII letters that stand alone), or by
`coalign.measures.texts.text_units`, which knows every script, digits and accents."""
Reading = Literal["official", "extended"]
"""How a required length is read: by the official patterns, or also in other forms."""

_CHINESE = re.compile("[\u4e00-\u9fff]")
_ENGLISH = re.compile(r"\b[a-zA-Z]+\b")
_DIGITS = {one: place for place, one in enumerate("零一二三四五六七八九")} | {"两": 2, "俩": 2}
_UNITS = {"百": 100, "千": 1000, "万": 10_000}
_BEFORE_UNIT = re.compile(f"(.)([{''.join(_UNITS)}])字")
_NUMBERS = {
    name: value
    for value, name in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
    )
} | {name: 20 + 10 * place for place, name in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"))}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "k": 1000}
_WRITTEN = re.compile(
    rf"(?<![\w.,])((?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?\s*(?:k|hundred|thousand)?"
    rf"|(?:(?:{'|'.join([*_NUMBERS, 'hundred', 'thousand', 'a', 'and'])})[\s-]+)*?"
    rf"(?:{'|'.join([*_NUMBERS, 'hundred', 'thousand'])}))[\s-]*words?\b",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\d\s*(?:-|–|~|to|至|到)\s*\d[\d,.]*\s*(?:words?\b|[个多余]?字)", re.IGNORECASE)
_CHINESE_WRITTEN = re.compile(f"((?:\\d+(?:\\.\\d+)?|[{''.join(_DIGITS)}十百千万]+)[百千万]?)\\s*[个多余]?字")


def count_words(text: str, counter: Counter = "official") -> int:
    """Words of a text.

    The official count adds Chinese characters (U+4E00 to U+9FFF) and runs of ASCII letters between word boundaries: digits
    and other scripts count nothing, and an accented letter splits a word.
    """
    if counter == "all-scripts":
        return len(words(text))
    return len(_CHINESE.findall(text)) + len(_ENGLISH.findall(text))


def length_score(required: int, actual: int) -> float:
    """How well a text of `actual` words keeps to `required` ones, 0 to 100 (official code, `EvalLength`).

    100 at the required length, falling linearly in actual / required to 0 at four times as many, and in required / actual
    to 0 at a third. A text without a word has 0, where the published formula divides by zero.

    Raises:
        ValueError: no length is required.
    """
    if required < 1:
        raise ValueError(f"{required} words are required, expected at least 1")
    if actual == 0:
        return 0.0
    over = (actual / required - 1) / 3 if actual > required else (required / actual - 1) / 2
    return 100 * max(0.0, 1 - over)


def required_length(request: str, reading: Reading = "official") -> int | None:
    """The one length in words (or Chinese characters) that a request names; None where it names none or several.

    The official patterns are digits before 字, a digit's character before 百字, 千字 and 万字, and digits before " words".
    They read "1,500 words" as 500 and miss "500-word" and "3千字". `extended` reads these and written numbers too, and takes a
    range for several. Official lengths are compared as they are written: 500字 beside 五百字 are two.
    """
    if reading == "extended" and _RANGE.search(request):
        return None
    found = _official(request) if reading == "official" else _extended(request)
    return int(found.pop()) or None if len(found) == 1 else None


def _official(request: str) -> set[str | int]:
    found: set[str | int] = {*re.findall(r"(\d+)字", request), *re.findall(r"(\d+) words", request)}
    for digit, unit in _BEFORE_UNIT.findall(request):
        if digit in _DIGITS:
            found.add(_DIGITS[digit] * _UNITS[unit])
    return found


def _extended(request: str) -> set[str | int]:
    english = (_english(one.lower()) for one in _WRITTEN.findall(request))
    chinese = (_chinese(one) for one in _CHINESE_WRITTEN.findall(request))
    return {one for one in (*english, *chinese) if one}


def _english(text: str) -> int:
    """`1,500`, `2k`, `five hundred`, `twenty-five` to a number."""
    whole, last = 0.0, 0.0
    for part in re.findall(r"\d[\d,.]*|[a-z]+", text):
        if part[0].isdigit():
            last = float(part.replace(",", "").rstrip("."))
        elif part in _SCALES:
            last = max(last, 1.0) * _SCALES[part]
            if _SCALES[part] == 1000:
                whole, last = whole + last, 0.0
        else:
            last += _NUMBERS.get(part, 0)
    return round(whole + last)


def _chinese(text: str) -> int:
    """`3千`, `一千五百`, `两万`, `800` to a number."""
    whole, part, digit = 0.0, 0.0, 0.0
    for one in re.findall(r"\d+(?:\.\d+)?|.", text):
        if one[0].isdigit():
            digit = float(one)
        elif one in _DIGITS:
            digit = _DIGITS[one]
        elif one == "万":
            whole, part, digit = (whole + part + digit) * 10_000, 0.0, 0.0
        else:
            part += (digit or 1) * {"十": 10, "百": 100, "千": 1000}[one]
            digit = 0.0
    return round(whole + part + digit)
