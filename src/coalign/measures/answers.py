"""Final answers: where a text gives one, what was written there, and whether two of them are the same.

One part for every verifier and metric that compares answers. What is written is read exactly, never to its first
digits: numbers with separators, signs, percent signs, units, exponents and fractions (also in LaTeX) become fractions;
letters of options, yes and no, dates, lists, tuples and sets are kinds of their own. Whatever else has the look of
mathematics (roots, powers, intervals, formulas) is an expression, which `coalign.measures.symbolic` compares. Where
nobody can tell, `same_answer` says None: not scorable, neither right nor wrong.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Literal

from coalign.measures import symbolic

Kind = Literal["number", "letter", "boolean", "date", "list", "expression", "text"]

_UNSIGNED = (
    r"(?:\d{1,3}(?:,\d{3})+(?!\d|,\d)|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?![\d.])"
    r"|[1-9]\d{0,2}(?:[ \u00a0\u2009\u202f']\d{3})+(?![\d])|\d+(?=[\D]|$))"
    r"(?:\.\d+(?!\.?\d))?|\.\d+"
)
_PLAIN = rf"(?:{_UNSIGNED})(?:[eE][-+]?\d{{1,3}}(?![\w.]))?"
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = rf"(?:\s(?P<scale>{'|'.join(_SCALES)})\b)?"
_IN_TEXT = re.compile(
    rf"(?P<sign>(?<![\w.)\]])[-+])?(?<![\w.,])(?<!\d:)(?:(?P<whole>\d+)\s(?=\d+/\d))?"
    rf"(?P<top>{_PLAIN})(?:/(?P<bottom>{_PLAIN}))?(?P<percent>\s?%)?{_SCALE}(?![\w^\\])(?![.,:]\d)"
)
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)\s+(?=\d+/\d|\\frac)|(?P<whole_>\d+)(?=\\frac))?"
    rf"(?:(?P<top>[-+]?{_PLAIN})(?:\s*/\s*(?P<bottom>[-+]?{_PLAIN}))?"
    rf"|\\frac\{{\s*(?P<top_>[-+]?{_PLAIN})\s*\}}\{{\s*(?P<bottom_>[-+]?{_PLAIN})\s*\}})"
    rf"(?:\s*\*\s*(?P<base>10)\s*(?:\^|\*\*)\s*\{{?(?P<power>[-+]?\d{{1,3}})\}}?)?{_SCALE}"
)
_POWER = re.compile(r"(?P<sign>-?)(?P<base>\d{1,9})(?:\^|\*\*)\{?(?P<power>[-+]?\d{1,3})\}?")
_EXPONENT = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?|\.\d+)[eE]\+?(-?\d{1,3})(?![\w.])")
_STRONG = re.compile(r"####|\\f?boxed\s*(?=[{\d\w])")
_PHRASE = re.compile(r"\bA:|\banswer\s*(?:is\b|:|=)", re.IGNORECASE)
_EDGES = " \t\n\"'`*_.,:;!?"
_SENTENCE = re.compile(r"(?<=[^\s.])[.!?](?=\s|$)")
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "log",
        "ln",
        "exp",
        "sqrt",
        "pi",
        "det",
        "mod",
        "max",
        "min",
        "lim",
    ]
)
_MATHS = re.compile(
    r"[\\^=+*/<>√π∞≤≥≠±|]|\d\s*\(|[^\W\d_]\s*\(|\d[a-z]\b|(?<=\w)\s*-\s*(?=\w)|[\[(].*,.*[\])]|\{.*\}"
)
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:)]*|\(?([A-J])\)(?:\s.*)?|([A-J]):\s.*", re.DOTALL)
_BOOLEAN = re.compile(
    r"(yes|no|true|false)(?=$|[,.;:!]|\s+(?:because|since|as|it|they|he|she|the)\b)", re.IGNORECASE
)
_ASSIGNED = re.compile(r"(?:^|[^<>!=:])=(?!=)")
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d %B %Y", "%B %d %Y", "%d %b %Y", "%b %d %Y", "%d.%m.%Y")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_LARGEST = 4_000
"""Digits beyond which Python refuses to read or to write a number."""
_DEEPEST = 50
"""Brackets inside each other beyond which a text is no list."""
_UNITS: dict[str, tuple[str, Fraction]] = {
    name: (kind, Fraction(factor))
    for kind, names in {
        "length": {"mm": "1/1000", "cm": "1/100", "m": "1", "km": "1000", "meter": "1", "metre": "1",
                   "centimeter": "1/100", "millimeter": "1/1000", "kilometer": "1000", "inch": "127/5000",
                   "foot": "381/1250", "feet": "381/1250", "ft": "381/1250", "yard": "1143/1250", "mile": "201168/125"},
        "mass": {"mg": "1/1000", "g": "1", "kg": "1000", "gram": "1", "kilogram": "1000"},
        "time": {"second": "1", "sec": "1", "minute": "60", "min": "60", "hour": "3600", "day": "86400",
                 "week": "604800"},
        "volume": {"ml": "1/1000", "l": "1", "liter": "1", "litre": "1", "milliliter": "1/1000"},
        "money": {"cent": "1/100", "dollar": "1"},
    }.items()
    for name, factor in names.items()
}  # fmt: skip
"""Units of one dimension that are worked out; every other word beside a number is left out of the comparison."""


@dataclass(frozen=True)
class Answer:
    """An answer as it is compared.

    Attributes:
        text: in the form that is shown: a number in decimals where they end, else as a fraction; text in lower case.
        value: of a number; a percentage as it is written.
        items: of a list; `brackets` are those around it, empty where there were none.
        unit: the known unit of a number, `%` for a percentage, else empty.
    """

    kind: Kind
    text: str
    value: Fraction | None = None
    items: tuple[Answer, ...] = ()
    brackets: str = ""
    unit: str = ""


def final_answer(text: str) -> Answer | None:
    """The final answer of a text, None where it gives none.

    It stands in the last box or behind the last `####`; without these behind the last `A:` or `the answer is`; else
    it is the last number.
    """
    marks = list(_STRONG.finditer(text))
    if marks:
        rest = text[marks[-1].end() :]
        if marks[-1].group() != "####":
            return parse_answer(_boxed(rest))
        return parse_answer((rest.strip().splitlines() or [""])[0])
    marks = list(_PHRASE.finditer(text))
    if marks:
        line = (text[marks[-1].end() :].strip(" \t\n:=").splitlines() or [""])[0]
        whole = parse_answer(line)
        if whole is None or whole.kind != "text":
            return whole
        return parse_answer(_SENTENCE.split(line)[0])
    numbers = numbers_in(text)
    return numbers[-1] if numbers else None


def _boxed(rest: str) -> str:
    """What a box holds: up to its closing brace, or the one character or word behind the command."""
    if not rest.startswith("{"):
        return (rest.split() or [""])[0]
    depth = 0
    for place, char in enumerate(rest):
        depth += (char == "{") - (char == "}")
        if not depth:
            return rest[1:place]
    return rest[1:].partition("\n")[0]  # the text was cut off


def parse_answer(text: str) -> Answer | None:
    """What an answer says; None where nothing is written.

    Beside words the first number counts (`18 eggs a day`); a formula keeps all that it has.
    """
    plain = _plain(text)
    if not plain:
        return None
    chosen = _LETTER.fullmatch(plain)
    if chosen:
        return Answer("letter", next(filter(None, chosen.groups())).lower())
    said = _BOOLEAN.match(plain)
    if said:
        return Answer("boolean", "yes" if said.group(1).lower() in ("yes", "true") else "no")
    for parse in (_date, _number, _equation, _list):
        found = parse(plain)
        if found is not None:
            return found
    if _is_mathematics(plain):
        # `2e5` would be read as a multiple of Euler's number
        return Answer("expression", "".join(_EXPONENT.sub(r"(\1*10^{\2})", plain).split()))
    numbers = numbers_in(plain)
    return (
        numbers[0]
        if numbers
        else Answer("text", " ".join(plain.casefold().split()).strip(_EDGES + "()[]{}$"))
    )


def numbers_in(text: str) -> list[Answer]:
    """The numbers of a text that stand by themselves, in order: none in `v2`, `2.0.0` or `3:30`."""
    return [
        _as_number(value, "%" if one["percent"] else "")
        for one in _IN_TEXT.finditer(_characters(text))
        if (value := _value(one)) is not None
    ]


def same_answer(one: Answer, other: Answer) -> bool | None:
    """Whether two answers are the same; None where that cannot be said (see `coalign.measures.symbolic`).

    Numbers are compared exactly, after their units where both have known ones of a dimension; a percentage equals its
    bare number and the share that it is. Lists in brackets have an order, sets and bare lists have none. `3,5` may be
    a list or a decimal: beside a number it is not scorable.
    """
    if one.kind == other.kind == "number":
        return _same_number(one, other)
    if one.kind == other.kind == "list":
        return _same_list(one, other)
    if one.kind == other.kind and one.kind != "expression":
        return one.text == other.text
    kinds = {one.kind, other.kind}
    if kinds == {"list", "number"}:
        listed = one if one.kind == "list" else other
        return None if _may_be_decimal(listed) else False
    if "expression" in kinds and not kinds & {"text", "boolean", "date"}:
        return one.text == other.text or symbolic.equal(one.text, other.text)
    return False


def _characters(text: str) -> str:
    """Text in NFKC with one kind of minus; fractions and exponents of one character spelt out, as NFKC joins them
    to the digit before.
    """
    spelt = []
    for char in text:
        shape = unicodedata.decomposition(char)
        if shape.startswith("<fraction>"):
            spelt.append(" " + unicodedata.normalize("NFKC", char).replace("\u2044", "/"))
        elif shape.startswith("<super>") and char.isdigit():
            spelt.append(f"^{unicodedata.normalize('NFKC', char)}")
        else:
            spelt.append(char if char in "\u00a0\u2009\u202f" else unicodedata.normalize("NFKC", char))
    return re.sub(r"(?<=\^\d)\^(?=\d)", "", "".join(spelt)).replace("−", "-").replace("\u2044", "/")


def _plain(text: str) -> str:
    """An answer without marks of layout: dollars around mathematics, commands for spaces and fonts, stress, edges."""
    text = re.sub(r"\\[()\[\]]|\*\*|\\(?:left|right|displaystyle)\b", "", _characters(text))
    text = re.sub(r"\$([^$]+)\$", r"\1", text)
    text = re.sub(r"(?<=\d)(?:\{,\}|\\[,!;: ])(?=\d{3})", ",", text).replace("{,}", ",")
    text = re.sub(r"(?<=\d)\\(?:text|mathrm)\{[eE]\}\{?([-+]?\d{1,3})\}?", r"e\1", text)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|operatorname|mbox|textit)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\[,!;: ]|~", " ", text)
    text = re.sub(r"\\(?:cdot|times)(?![a-z])|×|·", "*", text).replace(r"\%", "%")
    text = re.sub(r"\^\s*\{?\\circ\}?|\\degree|°", " degrees", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\?\$", " dollar ", text).strip(_EDGES)
    return " ".join(text.split()) if "\n" in text else text


def _number(text: str) -> Answer | None:
    """A text that is a number and, at most, words before and behind it."""
    power = _POWER.fullmatch(text)
    if power and int(power["base"]):
        value = _writable(Fraction(int(power["base"])) ** int(power["power"]))
        return None if value is None else _as_number(-value if power["sign"] else value)
    for found in _NUMBER.finditer(text):
        before, after = text[: found.start()], text[found.end() :]
        rest = f"{before} {after}"
        if re.search(r"\d", rest) or re.search(r"[\w.\\)]$", before) or _is_mathematics(rest):
            return None
        if re.match(r"[\w^]", after) and not re.match(r"[^\W\d_]{1,2}\b|[^\W\d_]{3,}", after):
            return None
        value = _value(found)
        if value is None:
            return None
        unit = "%" if re.match(r"\s*(?:%|percent\b)", after) else _unit(rest)
        if (
            len(words := re.findall(r"[^\W\d_]+", rest)) == 1
            and len(words[0]) == 1
            and words[0] not in _UNITS
        ):
            return None  # 2x
        return _as_number(value, unit)
    return None


def _value(found: re.Match[str]) -> Fraction | None:
    parts = {name.rstrip("_"): part for name, part in found.groupdict().items() if part}
    value, whole = _quotient(parts["top"], parts.get("bottom")), _fraction(parts.get("whole", "0"))
    if value is None or whole is None:
        return None
    value += whole
    value *= Fraction(10) ** (int(parts.get("power", 0)) + _SCALES.get(parts.get("scale", ""), 0))
    return _writable(-value if parts.get("sign") == "-" else value)


def _writable(value: Fraction) -> Fraction | None:
    digits = max(abs(value.numerator), value.denominator).bit_length() * math.log10(2)
    return value if digits <= _LARGEST else None


def _quotient(top: str, bottom: str | None) -> Fraction | None:
    above, below = _fraction(top), _fraction(bottom or "1")
    return above / below if above is not None and below else None


def _fraction(text: str) -> Fraction | None:
    if len(text) > _LARGEST:
        return None
    plain = re.sub(r"[,' \u00a0\u2009\u202f+]", "", text)
    if plain.count(".") > 1:
        plain = plain.replace(".", "")
    return Fraction(plain)


def _unit(text: str) -> str:
    for word in re.findall(r"[^\W\d_]+", text.casefold()):
        for name in (word, word.removesuffix("s"), word.removesuffix("es")):
            if name in _UNITS:
                return name
    return ""


def _as_number(value: Fraction, unit: str = "") -> Answer:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if value.denominator == 1 or rest > 1 or value.denominator > 10**9:
        text = str(value)
    else:
        places = next(k for k in range(1, 40) if 10**k % value.denominator == 0)
        digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
        text = f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"
    return Answer("number", text, value=value, unit=unit)


def _date(text: str) -> Answer | None:
    plain = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b|,|\bof\b", "", text)
    for form in _DATES:
        try:
            value = datetime.strptime(" ".join(plain.split()), form).date()
        except ValueError:
            continue
        return Answer("date", value.isoformat())
    return None


def _equation(text: str) -> Answer | None:
    """What stands behind the last sign of equality: `x = 5`, `10 - 3 = 7 apples`."""
    sides = _ASSIGNED.split(text)
    many = len(sides) < 2 or any("," in one or " and " in one for one in sides[1:-1])
    if many or re.search(r"[,;].*=", text) or not sides[-1].strip(_EDGES):
        return None
    return parse_answer(sides[-1])


def _list(text: str) -> Answer | None:
    """Numbers, letters or formulas in brackets or with commas between them; words are text (`Paris, France`)."""
    inner, brackets = text.replace(r"\{", "{").replace(r"\}", "}"), ""
    depths = itertools.accumulate((one in "([{") - (one in ")]}") for one in inner)
    if max(depths) > _DEEPEST:
        return None
    if _BRACKETS.get(inner[0]) == inner[-1] and _closes_last(inner):
        brackets, inner = inner[0], inner[1:-1]
    parts = _split(inner)
    if len(parts) < 2 and not (brackets == "{" and inner.strip()):
        return parse_answer(inner) if brackets == "(" and inner.strip() else None
    items = [parse_answer(one) for one in parts]
    whole = [one for one in items if one is not None and one.kind not in ("text", "boolean", "date")]
    if len(whole) < len(items) or any(map(_words, parts)) or (text[0] in "[(" and not brackets):
        return None
    shown = f"{brackets}{','.join(one.text for one in whole)}{_BRACKETS.get(brackets, '')}"
    return Answer("list", shown, items=tuple(whole), brackets=brackets)


def _closes_last(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def _split(text: str) -> list[str]:
    """The parts between commas, semicolons and `and` outside brackets; the separators of one number are none."""
    parts, depth, start = [], 0, 0
    thousands = [one.span() for one in re.finditer(_UNSIGNED, text) if "," in one.group()]
    for found in re.finditer(r"[(\[{)\]}]|[,;]|\band\b", text):
        char = found.group()
        depth += (char in "([{") - (char in ")]}")
        if char in (",", ";", "and") and not depth and not any(a <= found.start() < b for a, b in thousands):
            parts.append(text[start : found.start()])
            start = found.end()
    return [one for one in (*parts, text[start:]) if one.strip()]


def _words(text: str) -> list[str]:
    return [one for one in _WORD.findall(text) if one.casefold() not in _FUNCTIONS]


def _is_mathematics(text: str) -> bool:
    return bool(_MATHS.search(text)) and not _words(re.sub(r"\\[A-Za-z]+", "", text))


def _same_number(one: Answer, other: Answer) -> bool:
    assert one.value is not None
    assert other.value is not None
    left, right = _UNITS.get(one.unit), _UNITS.get(other.unit)
    if left and right:
        return left[0] == right[0] and one.value * left[1] == other.value * right[1]
    if "%" in (one.unit, other.unit) and one.unit != other.unit:
        percent, share = (one.value, other.value) if one.unit == "%" else (other.value, one.value)
        return share in (percent, percent / 100)
    return one.value == other.value


def _same_list(one: Answer, other: Answer) -> bool | None:
    if len(one.items) != len(other.items) or (
        one.brackets and other.brackets and one.brackets != other.brackets
    ):
        return False
    if "(" in one.brackets + other.brackets or "[" in one.brackets + other.brackets:
        return _all([same_answer(a, b) for a, b in zip(one.items, other.items, strict=True)])
    left, unsure = list(other.items), False
    for item in one.items:
        found = [same_answer(item, candidate) for candidate in left]
        if True in found:
            left.pop(found.index(True))
        elif None in found:
            unsure = True
        else:
            return False
    return None if unsure else True


def _all(found: Sequence[bool | None]) -> bool | None:
    return False if False in found else None if None in found else True


def _may_be_decimal(listed: Answer) -> bool:
    whole = [one.value for one in listed.items]
    return (
        not listed.brackets
        and len(whole) == 2
        and all(one is not None and one.denominator == 1 for one in whole)
    )
