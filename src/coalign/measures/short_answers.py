"""Short answers against gold answers: normalisation and matches of free-form question answering."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import regex

from coalign.measures.answers import numbers_in, parse_answer, same_answer
from coalign.measures.texts.text_units import CJK

Match = Literal["words", "substring", "exact"]
_PUNCTUATION = re.compile(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~‘’´]""")
_SPACELESS = regex.compile(rf"[{CJK}\p{{Thai}}\p{{Lao}}\p{{Khmer}}\p{{Myanmar}}]")
_OTHER_PUNCTUATION = regex.compile(r"\p{P}")
"""What the published rules leave: the punctuation of other scripts."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise_answer(text: str) -> str:
    """Lower case, underscores and punctuation as spaces, without articles and repeated spaces (TriviaQA's rules)."""
    text = _PUNCTUATION.sub(" ", text.replace("_", " ").lower())
    return " ".join(_ARTICLES.sub(" ", text).split())


def answer_f1(prediction: str, gold: str) -> float:
    """F1 of two normalised answers, in [0, 1]: the harmonic mean of word precision and recall, counts clipped (SQuAD's).
    Two answers without words are equal.
    """
    found, wanted = (Counter(normalise_answer(one).split()) for one in (prediction, gold))
    total = found.total() + wanted.total()
    return 2 * (found & wanted).total() / total if total else 1.0


def has_match(prediction: str, gold: Sequence[str], match: Match = "words") -> bool:
    """Whether a normalised gold answer is in the normalised prediction.

    A gold answer that normalises to nothing (`A`, `The The`, `-`) is looked for as it is, in its own case.

    Args:
        match: `words`: as whole words in a row (in scripts that are written without spaces every character is one), a number
            as a whole number of the same value (5 is in neither 3.5 nor 1,500 nor -5); `substring`: anywhere, also inside a word ("art" in "party"), as the official code of
            arXiv 2312.07000 does; `exact`: nothing else may stand there.
    """
    return any(_has(prediction, one, match) for one in gold)


def _has(prediction: str, gold: str, match: Match) -> bool:
    wanted, found = normalise_answer(gold), normalise_answer(prediction)
    number = parse_answer(gold) if match == "words" and not any(map(str.isalpha, gold)) else None
    if number and number.kind == "number":
        return any(same_answer(number, one) for one in numbers_in(_SPACELESS.sub(r" \g<0> ", prediction)))
    if not wanted:
        wanted, found = " ".join(gold.split()), " ".join(prediction.split())
        if match == "words":
            return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", found) is not None
    if match == "exact":
        return found == wanted
    if match == "words":
        wanted, found = (
            " ".join(_SPACELESS.sub(r" \g<0> ", _OTHER_PUNCTUATION.sub(" ", one)).split())
            for one in (wanted, found)
        )
    edge = " " if match == "words" else ""
    return bool(wanted) and f"{edge}{wanted}{edge}" in f" {found} "
