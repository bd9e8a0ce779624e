"""What a judge's verdicts depend on besides the answers: their order, their length, and who wrote them.

Order: the share of pairs whose verdict turns when the answers are exchanged, and whether it then goes to the same place.
Length: rank correlation of the difference in length with the verdict. Authorship: how often the judge prefers answers
that it wrote itself, above what people say of the same pairs. A correlation is no cause: long answers can be better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from coalign.judging.protocol import Choice, JudgeItem, PairVerdict
from coalign.judging.run import majority
from coalign.measures.detection import bootstrap_of, spearman
from coalign.measures.statistics import bootstrap_mean, mcnemar, paired_bootstrap, wilson_interval

_CREDIT: dict[Choice, float] = {"first": 1.0, "second": 0.0, "tie": 0.5}
FEWEST = 3
"""Pairs below which no correlation is computed."""


def order_probe(comparisons: Sequence[PairVerdict]) -> dict[str, Any]:
    """How verdicts turn with the order.

    Returns:
        `pairs` with a verdict in both orders; `turned`, the share whose verdicts differ, with a 95 % interval;
        `to_first`, `to_second`, pairs that go to the response at the same place in both orders; `p_value` of the
        hypothesis that both places are as likely (two-sided, exact).
    """
    both = [one for one in comparisons if one.outcome != "failed" and len(one.opinions) == 2]
    places = [[opinion.shown_choice for opinion in one.opinions] for one in both]
    first, second = (sum(one == [place, place] for one in places) for place in ("first", "second"))
    turned = sum(one.consistent is False for one in both)
    return {
        "pairs": len(both),
        "turned": wilson_interval(turned, len(both)).to_dict() if both else None,
        "to_first": first,
        "to_second": second,
        "p_value": mcnemar(first, second),
    }


def length_probe(
    items: Sequence[JudgeItem], comparisons: Sequence[PairVerdict], *, seed: int = 0
) -> dict[str, Any]:
    """How verdicts go with length, in characters.

    Returns:
        `pairs` of different length with a verdict; `correlation`, Spearman's, of the difference in length with the
        share of the win, with a 95 % interval, None where one of them never changes; `longer`, the longer response's
        mean share of the win.
    """
    rows = [
        (len(item.responses[0]) - len(item.responses[1]), one.credit)
        for item, one in zip(items, comparisons, strict=True)
        if one.credit is not None and len(item.responses[0]) != len(item.responses[1])
    ]
    found: dict[str, Any] = {"pairs": len(rows), "correlation": None, "longer": None}
    if rows:
        longer = [credit if gap > 0 else 1 - credit for gap, credit in rows]
        found["longer"] = bootstrap_mean(longer, seed=seed).to_dict()
    if len(rows) >= FEWEST and all(len({row[column] for row in rows}) > 1 for column in (0, 1)):
        gaps, credits = (np.array([row[column] for row in rows], float) for column in (0, 1))
        found["correlation"] = bootstrap_of(spearman, gaps, credits, seed=seed).to_dict()
    return found


def author_probe(
    items: Sequence[JudgeItem],
    comparisons: Sequence[PairVerdict],
    labels: Sequence[Sequence[Choice]],
    authors: Callable[[JudgeItem], tuple[str | None, str | None]],
    own: str,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """How often a judge prefers what it wrote itself.

    Args:
        authors: of an item's two responses.
        own: the judge's name among them.

    Returns:
        `pairs` of which the judge wrote exactly one; `own`, its mean share of the win there; over the pairs that people
        judged, too, `labelled`, `people`, the same by their majority, and `above_people`, the difference, paired.
    """
    judged: list[float] = []
    compared: list[tuple[float, float]] = []
    for item, one, said in zip(items, comparisons, labels, strict=True):
        mine = [name == own for name in authors(item)]
        if sum(mine) != 1 or one.credit is None:
            continue
        credit = one.credit if mine[0] else 1 - one.credit
        judged.append(credit)
        people = majority(said)
        if people is not None:
            compared.append((_CREDIT[people] if mine[0] else 1 - _CREDIT[people], credit))
    found: dict[str, Any] = {"pairs": len(judged), "own": None, "labelled": len(compared)}
    if judged:
        found["own"] = bootstrap_mean(judged, seed=seed).to_dict()
    if compared:
        people, credits = map(list, zip(*compared, strict=True))
        found["people"] = fmean(people)
        found["above_people"] = paired_bootstrap(people, credits, seed=seed).to_dict()
    return found


def error_probe(
    comparisons: Sequence[PairVerdict], labels: Sequence[Sequence[Choice]]
) -> dict[str, Any] | None:
    """What asking in both orders is worth, against the responses that are known to be better; None without any.

    Returns:
        `pairs` with a better response; `one_order`, the share of single verdicts that are wrong (none and ties are);
        `both_orders`, the share among the pairs on which both orders agree; `kept`, the share of these.
    """
    known = [
        (one, truth)
        for one, said in zip(comparisons, labels, strict=True)
        if (truth := majority(said)) in ("first", "second")
    ]
    if not known:
        return None
    single = [opinion.choice != truth for one, truth in known for opinion in one.opinions]
    agreed = [one.choice != truth for one, truth in known if one.consistent]
    return {
        "pairs": len(known),
        "one_order": fmean(single),
        "both_orders": fmean(agreed) if agreed else None,
        "kept": len(agreed) / len(known),
    }
