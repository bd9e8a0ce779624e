"""Sets of common words for a sentence to use: the task of writing with given words, at desk scale."""

from __future__ import annotations

import random

from coalign.checks.worlds.texts import read_texts

WORDS: list[str] = read_texts("common_words")
"""120 nouns and verbs that a child knows; none is the beginning of another."""


def keyword_sets(seed: int, count: int, size: int = 3) -> list[list[str]]:
    """`count` sets of `size` different words, drawn by seed."""
    draw = random.Random(f"keyword sets {seed}")
    return [draw.sample(WORDS, size) for _ in range(count)]
