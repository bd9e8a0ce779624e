"""A judge's comparisons as a reward: what share of a prompt's other responses a response beats."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coalign.judging.protocol import JudgeItem, Rubric

if TYPE_CHECKING:
    from coalign.judging.protocol import Judge
    from coalign.judging.rewards.mix import Draft


@dataclass
class ComparisonReward:
    """The mean share of the win of a response over the others to its prompt in one call, in [0, 1].

    Each pair is compared in both orders; a tie, and orders that disagree, are one half each. A pair of which an order has no verdict
    counts for neither; a response without any verdict is NaN. `failures` counts such pairs.
    """

    judge: Judge
    name: str
    criteria: str
    failures: int = 0
    asked: int = 0
    lowest = 0.0

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        groups: dict[int, list[int]] = {}
        for place, one in enumerate(drafts):
            groups.setdefault(one.index, []).append(place)
        pairs = [pair for places in groups.values() for pair in itertools.combinations(places, 2)]
        items = [
            JudgeItem(
                id=f"{first}-{second}",
                prompt=drafts[first].messages,
                responses=(drafts[first].text, drafts[second].text),
            )
            for first, second in pairs
        ]
        verdicts = self.judge.compare(items, rubric=Rubric(criteria=self.criteria)) if items else []
        won: list[list[float]] = [[] for _ in drafts]
        for (first, second), verdict in zip(pairs, verdicts, strict=True):
            if verdict.credit is None:
                self.failures += 1
            else:
                won[first].append(verdict.credit)
                won[second].append(1 - verdict.credit)
        self.asked += len(pairs)
        return [statistics.fmean(one) if one else math.nan for one in won]
