"""Entries of TMX files, as translation programs write them: inline markup, line breaks, variants of languages."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError
from coalign.core.extras import require

_NATIVE_CODE = {"bpt", "ept", "it", "ph", "ut"}
"""Inline elements of TMX that hold the markup of a document, not text."""
_BREAK_TYPE = {"lb", "br", "pb", "cb", "linebreak", "break", "newline", "tab"}
_BREAK_CODE = re.compile(
    r"<\s*/?\s*(br|p|div|tab|w:br|w:tab|text:line-break)\b|\\[nrt]|[\n\r\t\u2028\u000b]", re.IGNORECASE
)
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]"
)
_BREAK = "\0"  # stands for a break until it is known what is on both sides


@dataclass(frozen=True)
class Entry:
    """A pair of a TMX file."""

    source: str
    target: str
    id: str


@dataclass
class Entries:
    """What a TMX file holds of two languages.

    Attributes:
        lacking: entries without text in both.
        languages: all codes that were seen.
        other_variants: (code that was asked for, code that was taken) to entries, where a region or script was asked
            for and another, or none, was there.
    """

    entries: list[Entry] = field(default_factory=list)
    lacking: int = 0
    languages: set[str] = field(default_factory=set)
    other_variants: Counter[tuple[str, str]] = field(default_factory=Counter)


def read_entries(path: Path, codes: tuple[str, str]) -> Entries:
    """The entries with text in both languages, in order.

    A language without region takes any region; one with a region takes its own, else another, which is counted.

    Raises:
        DataError: absent, or not TMX.
    """
    parser: Any = require("defusedxml.ElementTree", "translation")
    found = Entries()
    try:
        for _, element in parser.iterparse(str(path), events=("end",), forbid_dtd=False):
            if _name(element) != "tu":
                continue
            variants = list(_variants(element))
            found.languages.update(code for code, _ in variants)
            sides = [_of_language(variants, code) for code in codes]
            if sides[0] is None or sides[1] is None:
                found.lacking += 1
            else:
                found.entries.append(Entry(sides[0][1], sides[1][1], element.get("tuid") or ""))
                for wanted, (taken, _) in zip(codes, (sides[0], sides[1]), strict=True):
                    if "-" in _plain(wanted) and _plain(taken) != _plain(wanted):
                        found.other_variants[wanted, taken] += 1
            element.clear()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not a TMX file that can be read ({error}).") from error
    return found


def _name(element: Any) -> str:
    """The tag without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _variants(unit: Any) -> Iterator[tuple[str, str]]:
    """(language code, text) of each variant."""
    for variant in unit:
        if _name(variant) == "tuv":
            code = variant.get(_XML_LANG) or variant.get("lang") or ""
            for segment in variant:
                if _name(segment) == "seg":
                    yield code, _joined(_text(segment))


def _text(element: Any) -> str:
    """Text without the markup of documents, which leaves a mark where it breaks the text; highlighted text stays."""
    parts = [element.text or ""]
    for child in element:
        if _name(child) not in _NATIVE_CODE:
            parts.append(_text(child))
        elif _breaks(child):
            parts.append(_BREAK)
        parts.append(child.tail or "")
    return "".join(parts)


def _breaks(element: Any) -> bool:
    """Whether markup stands for white space: a break by its type or its code, and any placeholder, which is never a part
    of a word. Paired codes (bold, links) stand inside words.
    """
    kind = str(element.get("type") or "").lower().removeprefix("x-")
    code = "".join(element.itertext())
    return _name(element) == "ph" or kind in _BREAK_TYPE or _BREAK_CODE.search(code) is not None


def _joined(text: str) -> str:
    """Breaks as one space where letters, digits or the end of a sentence meet, as nothing before punctuation and between
    characters of scripts without spaces.
    """
    first, *rest = re.split(f"{_BREAK}+", text)
    made = first
    for part in rest:
        before, after = made[-1:], part[:1]
        spaceless = _SPACELESS.match(before) and _SPACELESS.match(after)
        meets = before and (after.isalnum() or after in "\"'([{¿¡“«„‘") and before not in "([{\"'¿¡“«„‘/"
        made += f" {part}" if meets and not spaceless else part
    return " ".join(made.split())


def _plain(code: str) -> str:
    return code.lower().replace("_", "-")


def _of_language(variants: Sequence[tuple[str, str]], code: str) -> tuple[str, str] | None:
    """(code, text) of the very code, else of the language without region, else of any variant of the language."""
    wanted = _plain(code)
    base = wanted.partition("-")[0]
    with_text = [(one, text) for one, text in variants if text]
    for test in (
        lambda one: one == wanted,
        lambda one: one == base,
        lambda one: one.partition("-")[0] == base,
    ):
        for one, text in with_text:
            if test(_plain(one)):
                return one, text
    return None
