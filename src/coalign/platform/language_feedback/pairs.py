"""Pairs of a refinement and the response that it refines: which are worth learning, and what a critique gave away."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

PairRow = Mapping[str, Any]
"""With `response`, `critique` and `refinement`."""
_WORD = re.compile(r"\w+")


def teaches_nothing(response: str, refinement: str) -> str | None:
    """Why a pair is dropped: one side is empty, or both are the same but for white space; None where it is kept.

    The loss of an identical pair is log 2 whatever the model says, and its gradient is none.
    """
    if not response.strip():
        return "empty response"
    if not refinement.strip():
        return "empty refinement"
    if response.split() == refinement.split():
        return "identical"
    return None


def overlap(critique: str, refinement: str) -> float:
    """The share of the refinement's words, each kind once, that stand in the critique: 1 where the critique held them all.

    Case does not matter; 0 for a refinement without words.
    """
    words = set(_WORD.findall(refinement.lower()))
    return len(words & {*_WORD.findall(critique.lower())}) / len(words) if words else 0.0


def tell_pairs(rows: Sequence[PairRow]) -> dict[str, float]:
    """Figures of pairs: mean numbers of words of responses, critiques and refinements, and the mean overlap of critique and
    refinement. Empty without rows.
    """
    if not rows:
        return {}
    lengths = {
        f"mean words, {name}": statistics.fmean(len(row[name].split()) for row in rows)
        for name in ("response", "critique", "refinement")
    }
    shared = statistics.fmean(overlap(row["critique"], row["refinement"]) for row in rows)
    return {**lengths, "critique overlap": shared}
