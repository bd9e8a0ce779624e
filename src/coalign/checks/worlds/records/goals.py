"""Replies of the default model that a program scores, and models that are asked for a score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from torch import nn

from coalign.checks.arms import Measures
from coalign.checks.worlds.records.default_model import open_default, sampled, short, text_logps
from coalign.core.errors import DataError
from coalign.data.records import Demonstration, Messages, Preference, PromptRecord, Record
from coalign.preference.data.goal_conditioning import Placement, Scale, goal_placement, with_goal

SCALE = Scale(1, 10)
GOALS = LOW, HIGH = 2, 9
"""Between which the scores of samples are compared."""


def plainness(text: str) -> int:
    """A score from 1 to 10 for short words: 10 up to 3.5 letters a word on average, 3 less for every letter more."""
    words = re.findall(r"[^\W\d_]+", text)
    if not words:
        return 1
    return round(min(10.0, max(1.0, 10 - 3 * (fmean(map(len, words)) - 3.5))))


@dataclass(frozen=True)
class GoalText:
    """Prompts, and pairs of the default model's replies to them of different scores."""

    seed: int
    prompts: list[PromptRecord]
    pairs: list[Preference]

    @property
    def good(self) -> list[Preference]:
        """The pairs whose rejected reply scores at or above the median of the rejected ones."""
        middle = median(_rejected_score(one) for one in self.pairs)
        return [one for one in self.pairs if _rejected_score(one) >= middle]


def goal_text(prompts: Sequence[PromptRecord], seed: int, *, n: int = 24, tokens: int = 64) -> GoalText:
    """`n` short prompts, and the pairs among two replies of 32 tokens to each.

    Raises:
        DataError: to no prompt replies of different scores were sampled.
    """
    taken = short(prompts, n, seed, tokens=tokens)
    replies = sampled([one.prompt for one in taken], 2, max_new_tokens=32, seed=seed)
    pairs: list[Preference] = []
    for record, row in zip(taken, replies, strict=True):
        texts = [one.text.strip() for one in row]
        better, worse = sorted(texts, key=plainness, reverse=True)
        scores = plainness(better), plainness(worse)
        if all(texts) and scores[0] > scores[1]:
            scored = {"chosen_score": scores[0], "rejected_score": scores[1]}
            pairs.append(Preference.of(record, chosen=better, rejected=worse, **scored))
    if not pairs:
        raise DataError("No prompt has two replies of different scores.", hint="Give other prompts.")
    return GoalText(seed, taken, pairs)


def goal_measures(material: GoalText, model: nn.Module | None, goal: float | None) -> Measures:
    """Change of the summed log-probability of good rejected replies from the default model under the prompt that is
    used at inference, nats a reply; for a model of goals also the mean score of samples under a low and a high goal.

    Args:
        goal: that is asked for at inference; None for prompts as they are.
    """
    rejected = [
        Demonstration.of(one, prompt=_asked(one, goal), completion=one.rejected) for one in material.good
    ]
    changes = [
        float(after[0].sum() - before[0].sum())
        for after, before in zip(text_logps(rejected, model), text_logps(rejected), strict=True)
    ]
    measures = {"good rejected, change": fmean(changes)}
    if goal is not None:
        for asked in GOALS:
            prompts = [_asked(one, asked) for one in material.prompts]
            own = sampled(prompts, 2, max_new_tokens=32, seed=material.seed, model=model)
            measures[f"score, goal {asked}"] = fmean(plainness(one.text) for row in own for one in row)
    return measures


def text_placement() -> Placement:
    """Where the goal stands in prompts of the default model."""
    return goal_placement(open_default()[1])


def _asked(record: Record, goal: float | None) -> Messages:
    if goal is None:
        return record.prompt
    return with_goal(record.prompt, goal, scale=SCALE, placement=text_placement())


def _rejected_score(pair: Preference) -> float:
    assert pair.rejected_score is not None
    return pair.rejected_score
