"""Short answers against gold answers: normalisation and matches of free-form question answering."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Match = Literal["words", "substring", "exact"]
_PUNCTUATION = re.compile(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~‘’´]""")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise_answer(text: str) -> str:
    """Lower case, underscores and punctuation as spaces, without articles and repeated spaces (TriviaQA's rules)."""
    text = _PUNCTUATION.sub(" ", text.replace("_", " ").lower())
    return " ".join(_ARTICLES.sub(" ", text).split())


def has_match(prediction: str, gold: Sequence[str], match: Match = "words") -> bool:
    """Whether a normalised gold answer is in the normalised prediction.

    Args:
        match: `words`: as whole words in a row; `substring`: anywhere, also inside a word ("art" in "party"), as the
            official code of arXiv 2312.07000 does; `exact`: nothing else may stand there. A gold answer that
            normalises to nothing matches nothing.
    """
    found = normalise_answer(prediction)
    wanted = filter(None, map(normalise_answer, gold))
    if match == "exact":
        return found in wanted
    edge = " " if match == "words" else ""
    return any(f"{edge}{one}{edge}" in f" {found} " for one in wanted)
