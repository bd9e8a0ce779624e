"""Rows of a round that a judge ranks: what can be ranked of them, what they keep of it, and what is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from coalign.data.records import Record
from coalign.judging.demonstrations import Demonstration
from coalign.judging.protocol import JudgeItem
from coalign.judging.ranking import Ranker
from coalign.judging.ranking_cycles import Cycled
from coalign.loops.rows import Row
from coalign.measures.agreement import spearman


def distinct_places(responses: Sequence[str], beliefs: Sequence[float]) -> list[int]:
    """Places of the responses that can be ranked: not empty, each text once, with a likelihood."""
    first = {text.strip(): place for place, text in reversed([*enumerate(responses)])}
    return [
        place
        for text, place in sorted(first.items(), key=lambda one: one[1])
        if text and not math.isnan(beliefs[place])
    ]


def item_of(task: Record, row: Row, places: Sequence[int]) -> JudgeItem:
    """What a judge is given of a row: the responses at `places`."""
    texts = tuple(row["responses"][place] for place in places)
    return JudgeItem(id=row["id"], prompt=row["prompt"], responses=texts, extra=task.extra)


def ranking_columns(one: Cycled | None) -> Mapping[str, Any]:
    """What a row keeps of its cycles."""
    if one is None or one.ranked is None:
        return {
            "values": None,
            "belief": [*one.belief] if one else None,
            "agreed": [],
            "reply": None,
            "shown": [],
        }
    return {
        "values": one.values and [*one.values],
        "belief": [*one.belief],
        "agreed": [*one.agreed],
        "reply": one.ranked.reply,
        "shown": [[*keys] for keys in one.shown],
    }


def ranking_figures(
    items: Sequence[JudgeItem], asked: Sequence[int], cycled: Sequence[Cycled]
) -> dict[str, float | None]:
    """What a round tells of its rankings."""
    known = [(items[n], one) for n, one in zip(asked, cycled, strict=True) if one.values is not None]
    firsts = [
        one.ranked.order[0] == one.ranked.shown_first
        for _, one in known
        if one.ranked and one.ranked.order and one.ranked.shown_first is not None
    ]
    along = [
        spearman(one.values, lengths)
        for item, one in known
        if one.values
        and len({*one.values}) > 1
        and len({*(lengths := [len(text) for text in item.responses])}) > 1
    ]
    return {
        "ranked": len(known),
        "nothing to rank": len(items) - len(asked),
        "unreadable": sum(one.ranked is not None and one.values is None for one in cycled),
        "not asked": sum(one.ranked is None for one in cycled),
        "requests a prompt": fmean(len(one.shown) for one in cycled) if cycled else None,
        "agreement": fmean(len(one.agreed) / len(one.belief) for _, one in known) if known else None,
        "first shown best": fmean(firsts) if firsts else None,
        "rank with length": fmean(along) if along else None,
    }


def ranking_row(row: Row) -> Row | None:
    """A ranking of the judge's last order; None without one, or where all responses tie."""
    if row["values"] is None or len({*row["values"]}) < 2:
        return None
    ranked = sorted(zip(row["values"], row["ranked"], strict=True), key=lambda one: -one[0])
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "responses": [text for _, text in ranked],
        "scores": [value for value, _ in ranked],
    }


def preference_credits(
    ranker: Ranker,
    fixed: Sequence[Demonstration],
    before: Sequence[Row],
    after: Sequence[Row],
    budget: int | None = None,
) -> tuple[list[float], int]:
    """1 for each held-out prompt to which the judge prefers the answer after, 0 before, 1/2 for ties and equal texts;
    and the requests that it took. What cannot be read, or lies beyond the budget, is left out.
    """
    credits: list[float] = []
    items: list[JudgeItem] = []
    for one, other in zip(before, after, strict=True):
        texts = (one["responses"][0], other["responses"][0])
        if texts[0].strip() == texts[1].strip():
            credits.append(0.5)
        else:
            items.append(JudgeItem(id=one["id"], prompt=one["prompt"], responses=texts))
    items = items if budget is None else items[: max(0, budget)]
    found = ranker.rank(items, [fixed] * len(items), label="Comparing held-out answers") if items else []
    for verdict in found:
        if verdict.values is not None:
            old, new = verdict.values
            credits.append(0.5 + 0.5 * ((new > old) - (new < old)))
    return credits, sum(one.cost.calls for one in found)
