"""How well an answer in several modalities follows its prompt and fits together."""

from __future__ import annotations

import math
from collections.abc import Mapping

PAIRS = ("TV", "TA", "VA")
"""Pairs of text (T), vision (V) and audio (A)."""
ALL = "TVA"


def all_modality_terms(
    instruction: Mapping[str, float],
    synergy: Mapping[str, float],
    votes: Mapping[str, float],
    *,
    all_three: bool,
) -> dict[str, float]:
    """The terms of AMG by pair: `alpha_ab (S_a + S_b) S_ab / 2` (Align Anything, arXiv 2412.15838, all-modality generation).

    The score is their sum: 0 for an answer of one modality, 10 at most. The repository's report prints one term under a sum
    over modalities; it is read as a sum over the three pairs.

    Args:
        instruction: how well each modality follows the prompt, `T`, `V`, `A`, 0 to 10; a modality that is not there has none, or 0.
        synergy: how well both of a pair fit together, `TV`, `TA`, `VA`, 0 to 1; a pair that is not there has none, or 0.
        votes: share of people who chose each combination for the prompt, 0 to 1, at most 1 together.
        all_three: the model gave all three: each pair has a third of the votes for all three in place of its own.

    Raises:
        ValueError: a number out of its range, or an unknown name.
    """
    _assert_within("instruction", instruction, "TVA", 10)
    _assert_within("synergy", synergy, PAIRS, 1)
    _assert_within("votes", votes, ("T", "V", "A", *PAIRS, ALL), 1)
    if sum(votes.values()) > 1 + 1e-9:
        raise ValueError(f"votes: {sum(votes.values()):g} together, expected shares of at most 1")
    found = {}
    for pair in PAIRS:
        share = votes.get(ALL, 0.0) / 3 if all_three else votes.get(pair, 0.0)
        both = [instruction.get(one, 0.0) for one in pair]
        found[pair] = share * (both[0] + both[1]) * synergy.get(pair, 0.0) / 2
    return found


def all_modality_score(
    instruction: Mapping[str, float],
    synergy: Mapping[str, float],
    votes: Mapping[str, float],
    *,
    all_three: bool,
) -> float:
    """The sum of `all_modality_terms`."""
    return math.fsum(all_modality_terms(instruction, synergy, votes, all_three=all_three).values())


def _assert_within(
    what: str, values: Mapping[str, float], known: tuple[str, ...] | str, highest: float
) -> None:
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{what}: {name!r}, expected one of {', '.join(known)}")
        if not 0 <= value <= highest:
            raise ValueError(f"{what}: {name} is {value}, expected 0 to {highest:g}")
