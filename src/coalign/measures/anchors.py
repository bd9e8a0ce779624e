"""The quality of a thing by comparing it with a fixed set of others."""

from __future__ import annotations

from collections.abc import Iterable


def anchor_quality(votes: Iterable[Iterable[int]], *, tie_credit: float = 0.5) -> float | None:
    """(wins + credit x ties) over comparisons, in [0, 1]; None without a comparison.

    Source: the Baichuan Alignment report (arXiv 2410.14940), section 3.1.3; the formula is ours, the report says
    "aggregated".

    Args:
        votes: for each anchor the verdict of every judge: 1 better than the anchor, 0 the same, -1 worse.
        tie_credit: what a tie counts.
    """
    flat = [vote for several in votes for vote in several]
    if not flat:
        return None
    return (sum(vote > 0 for vote in flat) + tie_credit * sum(vote == 0 for vote in flat)) / len(flat)
