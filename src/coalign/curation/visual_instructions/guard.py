"""A guard of facts: what a text states that a rewriting by somebody who cannot see the picture must neither lose nor add.

Facts are numbers (in figures or in words), colours, places, yes, no and not, names (capitalised words within a sentence), and
words of the user's own. That a meaning is kept is more than that: the guard refuses what is surely wrong and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

NUMBERS = (
    *[
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
    ],
    *["seventeen", "eighteen", "nineteen", "twenty"],
)
COLOURS = frozenset(
    [
        "red",
        "green",
        "blue",
        "yellow",
        "purple",
        "cyan",
        "orange",
        "white",
        "black",
        "grey",
        "pink",
        "brown",
        "gold",
        "silver",
        "beige",
        "turquoise",
        "violet",
        "magenta",
    ]
)
PLACES = frozenset(
    [
        "left",
        "right",
        "top",
        "bottom",
        "above",
        "below",
        "behind",
        "front",
        "middle",
        "centre",
        "corner",
        "under",
        "over",
        "between",
        "beside",
        "inside",
        "outside",
        "upper",
        "lower",
        "foreground",
        "background",
    ]
)
ANSWERS = frozenset({"yes", "no", "not", "never", "none", "nobody", "nothing", "without"})
SPELLINGS = {"gray": "grey", "center": "centre", "n't": "not", "centered": "centre"}
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[A-Za-z]+(?:'[a-z]+)?")
_START = re.compile(r"(?:^|[.!?:]\s+|\n\s*|[\"'(]\s*)$")
_ARTICLE_LIKE = frozenset({"one"})
"""Words that are a number only beside others: "the left one" counts nothing."""


@dataclass(frozen=True)
class Facts:
    """What two texts have in common and what not.

    Attributes:
        lost: facts of the original that the rewriting lacks.
        added: facts of the rewriting that the original lacks.
        kept: share of the original's facts that are there; 1 where it has none.
    """

    lost: frozenset[str]
    added: frozenset[str]
    kept: float

    @property
    def reason(self) -> str:
        """Why the rewriting is refused, in words; empty where it is not."""
        if self.lost:
            return f"loses {', '.join(sorted(self.lost))}"
        return f"adds {', '.join(sorted(self.added))}" if self.added else ""


def facts_of(text: str, more: Collection[str] = ()) -> frozenset[str]:
    """The facts of a text, in one spelling: numbers in figures, the rest in lower case.

    Args:
        more: words that are facts besides, in lower case, plurals included.
    """
    found = set()
    for match in _WORD.finditer(text):
        word = match[0]
        low = word.lower()
        if low.endswith("n't"):
            found.add("not")
            continue
        low = SPELLINGS.get(low.removesuffix("'s"), low.removesuffix("'s"))
        single = _singular(low, more)
        if low[0].isdigit():
            found.add(low.replace(",", "").rstrip("."))
        elif low in NUMBERS and low not in _ARTICLE_LIKE:
            found.add(str(NUMBERS.index(low)))
        elif low in COLOURS or low in PLACES or low in ANSWERS:
            found.add(low)
        elif single is not None:
            found.add(single)
        elif word[0].isupper() and low != "i" and not _START.search(text[: match.start()]):
            found.add(low)
    return frozenset(found)


def compare_facts(original: str, rewritten: str, *, beside: str = "", more: Iterable[str] = ()) -> Facts:
    """What a rewriting lost and added.

    Args:
        beside: text whose facts may be added (the question, for an answer): they were known.
        more: further words that are facts.
    """
    words = {one.lower() for one in more}
    before, after = facts_of(original, words), facts_of(rewritten, words)
    known = before | facts_of(beside, words)
    kept = len(before & after) / len(before) if before else 1.0
    return Facts(before - after, after - known, kept)


def _singular(word: str, more: Collection[str]) -> str | None:
    """The word of `more` that this is, or whose plural it is."""
    return next((one for one in (word, word.removesuffix("s"), word.removesuffix("es")) if one in more), None)
