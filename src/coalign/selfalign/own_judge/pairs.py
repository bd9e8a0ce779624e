"""Pairs of a round's own responses, their order by a judge, and what the round tells of the judges."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from coalign.loops.readings import FLOORS, LABEL_ACCURACY, Floor, tell
from coalign.loops.rounds import Round
from coalign.loops.rows import Row

READINGS = {
    **FLOORS,
    "agreement": Floor(
        0.5,
        "the internal rewards agree less often than by chance",
        "Raise --penalty-weight, or give the judge more to learn from (--judge-data).",
    ),
    "label balance": Floor(
        0.2,
        "nearly all pairs go to the same place although their order is random",
        "The judge reads the position: give it more to learn from (--judge-data), or another template.",
    ),
    "entropy": Floor(
        0.05,
        "the internal rewards are certain of nearly every pair",
        "If they are wrong they are so together: lower --entropy-weight.",
    ),
}


def sampled_pairs(round: Round, rows: Sequence[Row]) -> list[Row]:
    """Each two responses to a prompt, in the order in which they were sampled, which says nothing; equal texts are left
    out and counted. Kept as `pairs`, with the `truth` of both where it is known.
    """
    found, equal = [], 0
    for row in rows:
        for place in range(0, len(row["responses"]) - 1, 2):
            first, second = row["responses"][place : place + 2]
            if first.strip() == second.strip():
                equal += 1
                continue
            pair = {
                "id": f"{row['id']}/{place // 2}",
                "prompt": row["prompt"],
                "chosen": first,
                "rejected": second,
            }
            found.append({**pair, "truth": row["truth"][place : place + 2]} if "truth" in row else pair)
    round.write("pairs", found)
    tell(round, {"equal pairs": equal})
    return found


def ordered_by_judge(pairs: Sequence[Row], verdicts: Sequence[Row]) -> list[Row]:
    """The pairs in the order that the judges give them (the mean of theirs, the implicit reward apart)."""
    ordered = []
    for pair, verdict in zip(pairs, verdicts, strict=True):
        if verdict["p"] is None:
            continue
        swapped = statistics.fmean(verdict["p"][1:]) <= 0.5
        chosen, rejected = (
            (pair["rejected"], pair["chosen"]) if swapped else (pair["chosen"], pair["rejected"])
        )
        ordered.append({**pair, "chosen": chosen, "rejected": rejected})
    return ordered


def tell_verdicts(round: Round, pairs: Sequence[Row], verdicts: Sequence[Row], confidence: float) -> None:
    """Tell how far the internal rewards agree on the pairs, and where their truth is known, how often they are right.

    Args:
        pairs: of the round, as sampled.
        verdicts: their probabilities `p`, the implicit reward's first.
        confidence: how sure each must be of a pair that is selected.
    """
    known = [
        (one["p"], pair.get("truth"))
        for pair, one in zip(pairs, verdicts, strict=True)
        if one["p"] is not None
    ]
    agreed = [len({p > 0.5 for p in each}) == 1 for each, _ in known]
    selected = [
        (each, truth)
        for (each, truth), same in zip(known, agreed, strict=True)
        if same and min(max(p, 1 - p) for p in each) >= confidence
    ]
    first = _mean([each[0] > 0.5 for each, _ in selected])
    judged = [([statistics.fmean(each[1:])], truth) for each, truth in known]
    tell(
        round,
        {
            "agreement": _mean(agreed),
            "selected": len(selected) / len(known) if known else None,
            "label balance": None if first is None else min(first, 1 - first),
            "entropy": _mean([_entropy(p) for each, _ in known for p in each]),
            LABEL_ACCURACY: _accuracy(selected),
            "judge accuracy": _accuracy(judged),
        },
        floors=READINGS,
    )


def _accuracy(judged: Sequence[tuple[Sequence[float], Sequence[float] | None]]) -> float | None:
    """Share of pairs whose first judge prefers the truly better response, over those with one."""
    return _mean(
        [
            (each[0] > 0.5) == (truth[0] > truth[1])
            for each, truth in judged
            if truth is not None and None not in truth and truth[0] != truth[1]
        ]
    )


def _entropy(p: float) -> float:
    from math import log

    return -sum(one * log(one) for one in (p, 1 - p) if one > 0)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
