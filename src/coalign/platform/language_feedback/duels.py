"""How often one of two texts is better, and how often it would be at equal length."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from coalign.measures.length_control import length_controlled_win_rate

RATES = ("win rate", "win rate, length-controlled")


def duel(
    before: Sequence[float], after: Sequence[float], texts: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """How often the second of two texts has the higher value, a tie half, and the same under length control (words). Pairs
    without both values (NaN) do not count; empty without any.
    """
    known = [
        (float(b > a) + 0.5 * (a == b), len(two.split()), len(one.split()))
        for a, b, (one, two) in zip(before, after, texts, strict=True)
        if a == a and b == b
    ]
    if not known:
        return {}
    wins, mine, others = zip(*known, strict=True)
    controlled = length_controlled_win_rate(wins, mine, others)
    return {RATES[0]: statistics.fmean(wins), RATES[1]: controlled, "compared": float(len(known))}
