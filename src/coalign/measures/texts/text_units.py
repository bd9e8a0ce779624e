"""Units of text that verifiers and text metrics count: characters, words, sentences, paragraphs, list items.

Everything is rule-based, deterministic and total: any `str` is accepted, lone surrogates included.

- `normalise`: Unicode NFKC, line ends as `\\n`, white space at both ends removed. Case and punctuation stay.
- `fold`: `normalise`, typographic quotes and dashes as ASCII, case folded, white-space runs as one space.
- a word: a run of letters, digits and marks, with apostrophes, hyphens and (between digits) `. , : /` inside:
  `don't`, `well-known`, `3.14` are one word each. Every Han, Hiragana or Katakana character is a word. Scripts
  written without spaces otherwise (Thai, Lao, Khmer) count one word a run.
- a sentence: ends at `. ! ? …` and their CJK, Arabic and Devanagari forms before white space or the end of a line,
  and at every line break; common English abbreviations, initials and list numbers end none, and neither does an
  ellipsis or a stop inside closing quotes before a lower-case word. Only stretches with at least one word count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import regex

_ASCII_MARKS = str.maketrans(
    {**dict.fromkeys("‘’‚‛ʼ′", "'"), **dict.fromkeys("“”„‟«»″", '"'), **dict.fromkeys("‐‑‒–—−", "-")}
)
CJK = r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}"
_WORD = regex.compile(
    rf"[{CJK}]|(?:(?![{CJK}_])[\w])+(?:(?:['’ʼ\-‐‑]|(?<=\d)[.,:/](?=\d))(?:(?![{CJK}_])[\w])+)*"
)
_ASCII_WORD = re.compile(r"[a-zA-Z0-9]+(?:(?:['\-]|(?<=[0-9])[.,:/](?=[0-9]))[a-zA-Z0-9]+)*")
_EDGE_WORD = regex.compile(rf"(?![{CJK}])\w")
_CLUSTERED = r"\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}"
_EDIT_UNIT = regex.compile(rf"[{CJK}]|(?=[{_CLUSTERED}])\X|(?:(?![{CJK}{_CLUSTERED}])\S)+")
_GRAPHEME = regex.compile(r"\X")
_VISIBLE = regex.compile(r"[\p{L}\p{M}\p{N}\p{P}\p{S}]")
_LIST_MARK = regex.compile(r"^[^\S\n]*(?:[-*+•‣◦–—]|\(?\d{1,3}[.)])[^\S\n]+", regex.MULTILINE)
_BULLET = regex.compile(r"^[^\S\n]*[-*+•‣◦–—][^\S\n]+\S", regex.MULTILINE)
_NUMBERED = regex.compile(r"^[^\S\n]*\(?(\d{1,3})[.)][^\S\n]+\S", regex.MULTILINE)
_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.*\S)")
_PARAGRAPH_BREAK = regex.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE_END = regex.compile(r"(?<stop>[.!?…]+)[\"'”’»)\]*_]*(?=\s|$)|(?<stop>[。！？؟۔।]+)|\n")
_ABBREVIATION = regex.compile(
    r"(?:^|[^\w.])(?:mr|mrs|ms|dr|prof|st|vs|fig|approx|(?:\p{L}\.)+\p{L})$",
    regex.IGNORECASE,
)
_INITIAL = regex.compile(r"(?:^|\s)\p{Lu}$")


def normalise(text: str) -> str:
    """Text in NFKC with `\\n` line ends and no white space at either end."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    return (plain if text.isascii() else unicodedata.normalize("NFKC", plain)).strip()


def fold(text: str) -> str:
    """`normalise`, ASCII quotes and dashes, case folded, runs of white space as one space: for comparisons."""
    if text.isascii():  # the same, and faster
        return " ".join(text.lower().split())
    plain = unicodedata.normalize("NFKC", normalise(text).translate(_ASCII_MARKS).casefold())
    return " ".join(plain.split())


def is_blank(text: str) -> bool:
    """Whether nothing in the text is visible (white space, control and format characters only)."""
    return _VISIBLE.search(text) is None


def words(text: str) -> list[str]:
    """The words of `normalise(text)`, in order, case kept."""
    return _words(normalise(text))


def edit_units(text: str) -> list[str]:
    """What edits are counted in: the text between white space, and in scripts that are written without spaces every
    character (Han, Hiragana, Katakana) or cluster of letter and marks (Thai, Lao, Khmer, Burmese).
    """
    return _EDIT_UNIT.findall(text)


def folded_words(text: str) -> list[str]:
    """The words of `fold(text)`: for counting n-grams and overlaps."""
    return _words(fold(text))


def _words(text: str) -> list[str]:
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text)


def count_characters(text: str) -> int:
    """Characters as a reader sees them (extended grapheme clusters) of the stripped text, inner spaces included."""
    plain = unicodedata.normalize("NFC", text.replace("\r\n", "\n")).strip()
    return sum(1 for _ in _GRAPHEME.finditer(plain))


def sentences(text: str) -> list[str]:
    """The sentences of the text (see the module docstring), list marks and outer white space removed."""
    plain = _LIST_MARK.sub("", normalise(text))
    found, start = [], 0
    for end in _SENTENCE_END.finditer(plain):
        if _ends_sentence(plain, start, end):
            found.append(plain[start : end.end()])
            start = end.end()
    found.append(plain[start:])
    return [one.strip() for one in found if _WORD.search(one)]


def sentence_ends(text: str) -> list[int]:
    """Where the sentences of a text end, as places in the text as it is; its end is not among them.

    The rules are those of `sentences`. A list mark belongs to its item, so none of these places is inside one.
    """
    marks = [one.span() for one in _LIST_MARK.finditer(text)]
    ends, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        place = end.end()
        if any(low < place <= high for low, high in marks) or not _ends_sentence(text, start, end):
            continue
        start = place
        if place < len(text):
            ends.append(place)
    return ends


def _ends_sentence(text: str, start: int, end: regex.Match[str]) -> bool:
    stop = end.group("stop")
    if stop is None:
        return True
    after = text[end.end() : end.end() + 16].lstrip(" \t")
    if after[:1].islower() and (stop in ("...", "…") or not end.group().endswith(stop)):
        return False
    if stop != ".":
        return True
    before = text[max(start, end.start() - 24) : end.start()]
    at_line_end = after[:1] in ("", "\n")
    return at_line_end or not (_INITIAL.search(before) or _ABBREVIATION.search(before))


def paragraphs(text: str) -> list[str]:
    """Blocks of text separated by at least one blank line."""
    return [one for one in _PARAGRAPH_BREAK.split(normalise(text)) if not is_blank(one)]


def count_bullets(text: str) -> int:
    """Lines that begin with a bullet mark (`- * + •`, dashes), white space and text."""
    return len(_BULLET.findall(normalise(text)))


def list_items(text: str) -> list[str]:
    """What the lines say that begin with a dash, a bullet or a number, each once, in their order."""
    found = [match[1] for line in text.splitlines() if (match := _ITEM.match(line))]
    return list(dict.fromkeys(found))


def list_numbers(text: str) -> list[int]:
    """The numbers of the lines that begin like `1.` or `2)`, in order."""
    return [int(number) for number in _NUMBERED.findall(normalise(text))]


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All n-grams of a token sequence, in order; none when it is shorter than n."""
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def find_phrases(text: str, phrases: Sequence[str]) -> list[str]:
    """The folded phrases that occur in the text, in order of occurrence, without overlaps, longest first.

    Compared after `fold`. A phrase is found only as whole words: `art` is not in `party`; edges of a phrase that
    are not letters or digits (`C++`), or are CJK characters, need no word boundary.
    """
    alternatives = sorted({fold(phrase) for phrase in phrases} - {""}, key=lambda one: (-len(one), one))
    if not alternatives:
        return []
    return regex.findall("|".join(_whole(one) for one in alternatives), fold(text))


def contains_phrase(text: str, phrase: str) -> bool:
    """Whether the phrase occurs in the text as whole words, after `fold`."""
    return bool(find_phrases(text, [phrase]))


def _whole(phrase: str) -> str:
    left = r"(?<!\w)" if _EDGE_WORD.match(phrase[0]) else ""
    right = r"(?!\w)" if _EDGE_WORD.match(phrase[-1]) else ""
    return left + regex.escape(phrase, special_only=True) + right
