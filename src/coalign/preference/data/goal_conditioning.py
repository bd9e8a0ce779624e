"""Score-conditioned pairs: the goal text in a prompt, and the relabelling of pairs and rankings that carry scores."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import DataError, RecordProblem
from coalign.data.records import Message, Messages, Preference, Ranking

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Placement = Literal["system", "user"]
GOAL = (
    "Write a reply whose quality, on a scale from {lowest} to {highest}, deserves the score given below. "
    "Let the reply itself show it; do not mention the score.\nOverall score: {goal}"
)
"""The goal text (our wording); it ends with the line that carries the score."""


def goal_reward(scores: Tensor, goals: Tensor) -> Tensor:
    """`R(x, y, g) = -(g - r(x, y))^2`, elementwise: the closer a response's score to the goal, the better (section 4).

    Args:
        scores: r, any shape.
        goals: g, the same shape.
    """
    return -((goals - scores) ** 2)


def format_score(score: float) -> str:
    """`9` for 9.0, `7.5` for 7.5."""
    return str(int(score)) if float(score).is_integer() else str(float(score))


@dataclass(frozen=True)
class Scale:
    """The scale of the scores, named in every goal text. `highest` is the goal at inference.

    Raises:
        ValueError: it is empty.
    """

    lowest: float = 1.0
    highest: float = 10.0

    def __post_init__(self) -> None:
        if not self.lowest < self.highest:
            raise ValueError(f"a scale from {self.lowest} to {self.highest} is empty")

    def goal_text(self, goal: float) -> str:
        return GOAL.format(
            lowest=format_score(self.lowest), highest=format_score(self.highest), goal=format_score(goal)
        )

    def __contains__(self, score: float) -> bool:
        return self.lowest <= score <= self.highest


def with_goal(
    prompt: Messages, goal: float, *, scale: Scale = Scale(), placement: Placement = "system"
) -> Messages:
    """The prompt that asks for a reply worth `goal`. Used in training, in evaluation and at inference alike.

    Args:
        prompt: left as it is; the result shares no message with it.
        placement: `system`: the goal text is the system message, after what it already says; `user`: it stands
            before the first user message, a blank line between them, for templates without a system role.
    """
    messages: Messages = [{**message} for message in prompt]
    text = scale.goal_text(goal)
    if placement == "system":
        if messages and messages[0]["role"] == "system":
            messages[0]["content"] += f"\n\n{text}"
            return messages
        return [Message(role="system", content=text), *messages]
    first = next((message for message in messages if message["role"] == "user"), None)
    if first is None:
        return [*messages, Message(role="user", content=text)]
    first["content"] = f"{text}\n\n{first['content']}"
    return messages


def goal_placement(tokenizer: PreTrainedTokenizerBase) -> Placement:
    """`system` where the chat template shows a system message, else `user`."""
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        return "user"
    probe: Any = [{"role": "system", "content": "#goal#"}, {"role": "user", "content": "?"}]
    try:
        return "system" if "#goal#" in str(tokenizer.apply_chat_template(probe, tokenize=False)) else "user"
    except TemplateError:
        return "user"


def relabel_pair(
    pair: Preference, *, scale: Scale = Scale(), placement: Placement = "system"
) -> list[Preference]:
    """Two rows from a pair with scores: each score is the goal once, and the response that has it is preferred.

    The rows' scores are their goal rewards: 0 and minus the squared difference. Equal scores give two rows that
    contradict each other: `relabel` leaves such pairs out.

    Raises:
        ValueError: a score is missing.
    """
    if pair.chosen_score is None or pair.rejected_score is None:
        raise ValueError("a pair without scores cannot be relabelled")
    better, worse = (pair.chosen, pair.chosen_score), (pair.rejected, pair.rejected_score)
    miss = -((pair.chosen_score - pair.rejected_score) ** 2)
    return [
        replace(
            pair,
            prompt=with_goal(pair.prompt, goal, scale=scale, placement=placement),
            chosen=preferred,
            rejected=other,
            chosen_score=0.0,
            rejected_score=miss,
            extra={**pair.extra, "goal": goal},
        )
        for (preferred, goal), (other, _) in ((better, worse), (worse, better))
    ]


@dataclass(frozen=True)
class Relabelled:
    """Score-conditioned pairs, and what was left out.

    Attributes:
        records: two a pair.
        ties: pairs of equal scores.
        identical: pairs of equal responses.
        inconsistent: pairs whose further ratings contradict their scores.
        unused: pairs that `share` left out.
    """

    records: list[Preference]
    ties: int = 0
    identical: int = 0
    inconsistent: int = 0
    unused: int = 0


def relabel(
    records: Sequence[Preference | Ranking],
    *,
    scale: Scale = Scale(),
    placement: Placement = "system",
    share: float = 1.0,
    ratings: str | None = None,
    rescale: bool = False,
    range_from: Sequence[Preference | Ranking] | None = None,
    seed: int = 0,
) -> Relabelled:
    """Score-conditioned pairs from any preferences with scores: two from each pair (best and another response).

    Args:
        records: pairs with both scores, or rankings, of which the best response is set against another at random.
        share: of the pairs that is used, drawn at random; at 0.5 the number of rows is the number of pairs (the
            paper's Half-RA).
        ratings: a further column with one entry a response (a number or a list of numbers, which are averaged);
            pairs whose chosen response has the lower average are left out.
        rescale: map the scores of each source linearly on `scale`, to one decimal. Scores of different judges are not
            on one scale.
        range_from: the records whose scores give the range of each file for `rescale`, by default `records`; the
            same for training and held-out records puts both on one scale.

    Raises:
        DataError: a score is missing, or lies outside `scale`; every such record is named.
    """
    draw = random.Random(seed)
    _check_scores(records)
    means = [None] * len(records) if ratings is None else _rating_means(records, ratings)
    rows = [_pair_rows(record, draw) for record in records]
    pairs = [
        _pair(record, better, worse)
        for record, (better, worse), mean in zip(records, rows, means, strict=True)
        if mean is None or mean[better] >= mean[worse]
    ]
    inconsistent = len(records) - len(pairs)
    pairs = _rescaled(pairs, scale, records if range_from is None else range_from) if rescale else pairs
    _check_scale(pairs, scale)
    distinct = [pair for pair in pairs if pair.chosen != pair.rejected]
    ranked = [pair for pair in distinct if pair.chosen_score != pair.rejected_score]
    chosen = sorted(draw.sample(range(len(ranked)), round(share * len(ranked))))
    return Relabelled(
        [row for index in chosen for row in relabel_pair(ranked[index], scale=scale, placement=placement)],
        ties=len(distinct) - len(ranked),
        identical=len(pairs) - len(distinct),
        inconsistent=inconsistent,
        unused=len(ranked) - len(chosen),
    )


def _scored(record: Preference | Ranking) -> tuple[tuple[str, ...], tuple[float | None, ...]]:
    if isinstance(record, Ranking):
        return record.responses, record.scores
    return (record.chosen, record.rejected), (record.chosen_score, record.rejected_score)


def _pair_rows(record: Preference | Ranking, draw: random.Random) -> tuple[int, int]:
    """The responses of the pair: as given, or the best of a ranking and one of the others."""
    if isinstance(record, Preference):
        return 0, 1
    best = max(range(len(record.scores)), key=lambda row: record.scores[row])
    return best, draw.choice([row for row in range(len(record.scores)) if row != best])


def _pair(record: Preference | Ranking, better: int, worse: int) -> Preference:
    responses, scores = _scored(record)
    return Preference.of(
        record,
        chosen=responses[better],
        rejected=responses[worse],
        chosen_score=scores[better],
        rejected_score=scores[worse],
    )


def _rating_means(records: Sequence[Preference | Ranking], column: str) -> list[list[float]]:
    """For each record the average rating of each response.

    Raises:
        DataError: a record does not have one number or list of numbers a response; every such record is named.
    """
    means: list[list[float]] = []
    problems: list[RecordProblem] = []
    for record in records:
        values, size = record.extra.get(column), len(_scored(record)[0])
        try:
            if not isinstance(values, list | tuple) or len(values) != size:
                raise ValueError
            means.append([fmean(one) if isinstance(one, list | tuple) else float(one) for one in values])
        except (TypeError, ValueError, OverflowError):  # StatisticsError (an empty list) is a ValueError
            expected = f"{size} entries, one a response: a number or a list of numbers"
            problems.append(record.problem(column, f"holds {values!r}", expected))
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} records have no usable ratings.", problems)
    return means


def _rescaled(
    pairs: Sequence[Preference], scale: Scale, range_from: Sequence[Preference | Ranking]
) -> list[Preference]:
    seen: dict[str, list[float]] = defaultdict(list)
    for record in range_from:
        seen[record.source.of] += [score for score in _scored(record)[1] if score is not None]
    ends = {source: (min(scores), max(scores)) for source, scores in seen.items()}

    def on_scale(score: float, low: float, high: float) -> float:
        place = (score - low) / (high - low) if high > low else 1.0
        return round(scale.lowest + place * (scale.highest - scale.lowest), 1)

    rescaled = []
    for pair in pairs:
        better, worse = (on_scale(score, *ends[pair.source.of]) for score in _scores(pair))
        rescaled.append(replace(pair, chosen_score=better, rejected_score=worse))
    return rescaled


def _scores(pair: Preference) -> tuple[float, float]:
    assert pair.chosen_score is not None
    assert pair.rejected_score is not None
    return pair.chosen_score, pair.rejected_score


def _check_scores(records: Sequence[Preference | Ranking]) -> None:
    problems = [
        record.problem("scores", "are missing", "chosen_score and rejected_score")
        for record in records
        if None in _scored(record)[1]
    ]
    if problems:
        raise DataError(
            f"{len(problems)} of {len(records)} pairs have no scores to aim at.",
            problems,
            hint="Give each pair chosen_score and rejected_score, or give rankings with scores.",
        )


def _check_scale(pairs: Sequence[Preference], scale: Scale) -> None:
    low, high = format_score(scale.lowest), format_score(scale.highest)
    problems = [
        pair.problem("scores", f"hold {format_score(score)}", f"scores from {low} to {high}")
        for pair in pairs
        for score in _scores(pair)
        if score not in scale
    ]
    if problems:
        raise DataError(
            f"{len(problems)} scores lie outside the scale that the goal text names.",
            problems,
            hint="Name the scale of your scores (--lowest, --highest), or have them mapped on it (--rescale).",
        )
