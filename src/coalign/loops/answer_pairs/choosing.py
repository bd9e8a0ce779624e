"""Which of a model's own answers to a prompt are better and which worse, from similarities to a given answer or from rewards."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def dissimilar(
    responses: Sequence[str], similarities: Sequence[float], ratio: float
) -> tuple[list[int], list[int]]:
    """Ranks by similarity to the given answer, and places of the responses that are unlike it (Self-Contrast, arXiv 2404.00604,
    section 3; its code).

    The least similar of n responses has rank 0, equal ones share the lowest rank. Of equal texts the first counts, which leaves m.
    Those are kept whose rank is below the one at place `min(int(n ratio), m - 1)` of the m ranks in ascending order, and which are
    not blank. As in the official code ranks and `n ratio` are of all responses: where they are repeated, another share than
    `ratio` is kept, and the most similar response never is.

    Args:
        responses: at least one.
        similarities: to the given answer, one a response; any finite numbers.
        ratio: in (0, 1].
    """
    ascending = sorted(similarities)
    ranks = [ascending.index(one) for one in similarities]
    places = first_places(responses)
    left = sorted(ranks[place] for place in places)
    cut = left[min(int(len(responses) * ratio), len(left) - 1)]
    return ranks, [place for place in places if ranks[place] < cut and responses[place].strip()]


def first_places(texts: Sequence[str]) -> list[int]:
    """Places of the texts that did not stand before, ascending."""
    return sorted({text: place for place, text in reversed([*enumerate(texts)])}.values())


def right_and_wrong(
    responses: Sequence[str], rewards: Sequence[float], *, right_from: float, wrong_to: float
) -> tuple[list[int], list[int]]:
    """Places of the right and of the wrong responses, each text once; NaN is neither.

    Args:
        rewards: one a response.
        right_from, wrong_to: a reward of at least the one is right, of at most the other wrong.
    """
    places = [place for place in first_places(responses) if responses[place].strip()]
    known = [place for place in places if not math.isnan(rewards[place])]
    right = [place for place in known if rewards[place] >= right_from]
    return right, [place for place in known if rewards[place] <= wrong_to]


def drawn_pairs(better: Sequence[int], worse: Sequence[int], most: int, seed: int) -> list[tuple[int, int]]:
    """At most so many pairs, in which no response stands oftener than it must, drawn with the seed."""
    if not (better and worse):
        return []
    draw = random.Random(seed)
    left, right = draw.sample(better, len(better)), draw.sample(worse, len(worse))
    count = min(most, max(len(left), len(right)))
    return [(left[one % len(left)], right[one % len(right)]) for one in range(count)]
