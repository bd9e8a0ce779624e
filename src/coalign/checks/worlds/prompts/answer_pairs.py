"""Pairs of answers in plain English, a full one and a thin one, for checks of judges that read.

A question asks how something works or is done. The full answer says four true things about it; the thin one says two of
the four and fills up with sentences that say nothing, in an order of its own. Which answer stands first is drawn, so
that the truth favours neither place.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from coalign.checks.worlds.texts import read_texts

TOPICS: dict[str, list[str]] = read_texts("topics")
"""Question to five true statements."""
EMPTY: list[str] = read_texts("empty_statements")
"""Sentences that say nothing."""


@dataclass(frozen=True)
class AnswerPair:
    """A question and two answers.

    Attributes:
        better: 0 where the first answer is the full one, 1 where the second is.
    """

    question: str
    answers: tuple[str, str]
    better: int


def answer_pairs(seed: int, count: int) -> list[AnswerPair]:
    """`count` pairs, questions in a drawn order and repeated with other statements where there are more pairs."""
    rng = random.Random(f"answer pairs {seed}")
    questions = [
        one for _ in range(-(-count // len(TOPICS))) for one in rng.sample(sorted(TOPICS), len(TOPICS))
    ]
    return [_pair(rng, question) for question in questions[:count]]


def _pair(rng: random.Random, question: str) -> AnswerPair:
    full = rng.sample(TOPICS[question], 4)
    thin = [*rng.sample(full, 2), *rng.sample(EMPTY, 2)]
    rng.shuffle(thin)
    good, bad = " ".join(full), " ".join(thin)
    first = rng.random() < 0.5
    return AnswerPair(question, (good, bad) if first else (bad, good), 0 if first else 1)
