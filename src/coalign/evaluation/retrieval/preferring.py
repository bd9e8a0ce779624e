"""Whether rewards and judges prefer the better response of each pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import ConfigError
from coalign.data.passages import shortened
from coalign.data.records import Message, Messages
from coalign.evaluation.retrieval.pairs import Pair
from coalign.judging.protocol import JudgeItem, PairVerdict
from coalign.judging.rewards.mix import Draft, Reward
from coalign.loops.rows import Row
from coalign.loops.scoring import chunked_rows
from coalign.measures.texts.text_units import words

if TYPE_CHECKING:
    from coalign.judging.protocol import Judge, Rubric

Tie = Literal["half", "wrong"]
CREDITS = {"half": 0.5, "wrong": 0.0}
"""What equal scores, or a verdict that there is a tie, count."""


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """What a reward or a judge makes of the pairs.

    Attributes:
        credits: [pairs] 1 where it prefers the chosen response, 0 where it prefers the other or says nothing, ties
            between; of a judge the mean over both orders.
        gaps: [pairs] score of the chosen less that of the rejected response; None without scores.
        shortened: pairs whose passages were cut to fit; `cut`: pairs that were too long all the same.
        unscored: scores or verdicts that there are not.
        strict: [pairs] of a judge: right in both orders.
        first_shown: of a judge: the share of its replies that prefer what was shown first.
    """

    name: str
    kind: str
    credits: tuple[float, ...]
    gaps: tuple[float | None, ...] = ()
    shortened: int = 0
    cut: int = 0
    unscored: int = 0
    strict: tuple[bool, ...] | None = None
    first_shown: float | None = None


def length_preferences(pairs: Sequence[Pair], tie: Tie) -> Preferences:
    """The baseline that prefers the response with more words."""
    gaps = [float(len(words(one.chosen)) - len(words(one.rejected))) for one in pairs]
    return Preferences(
        name="length alone", kind="baseline", credits=preference_credits(gaps, tie), gaps=tuple(gaps)
    )


def reward_preferences(
    path: Path, pairs: Sequence[Pair], name: str, open_reward: Callable[[], Reward], tie: Tie
) -> Preferences:
    """What a reward prefers. Its scores are kept in `path`, a row a pair, and not made twice.

    A reward that says what it has room for (`fits`) is shown pairs that are too long with their passages cut evenly from
    their ends, where the prompt holds them as they are; question and responses stay whole.
    """

    def work() -> Callable[[Sequence[Row]], list[Row]]:
        reward = open_reward()

        def score(part: Sequence[Row]) -> list[Row]:
            drafts, notes = [], []
            for row in part:
                pair = pairs[row["place"]]
                prompt, note = fitted(pair, getattr(reward, "fits", None))
                notes.append(note)
                drafts += [Draft(row["place"], prompt, text) for text in (pair.chosen, pair.rejected)]
            values = [float(one) for one in reward.score(drafts)]
            found = [None if math.isnan(one) else one for one in values]
            return [
                {"scores": found[2 * place : 2 * place + 2], "passages": note}
                for place, note in enumerate(notes)
            ]

        return score

    tasks = [{"id": one.id, "place": place} for place, one in enumerate(pairs)]
    rows = chunked_rows(path, tasks, work, label=f"Scoring, {name}", unit="pair")
    scores = [row["scores"] for row in rows]
    gaps = [None if None in one else one[0] - one[1] for one in scores]
    notes = [row["passages"] for row in rows]
    return Preferences(
        name=name, kind="reward", credits=preference_credits(gaps, tie), gaps=tuple(gaps),
        shortened=notes.count("shortened"), cut=notes.count("too long"), unscored=sum(one.count(None) for one in scores),
    )  # fmt: skip


def judge_preferences(
    judge: Judge, pairs: Sequence[Pair], tie: Tie, rubric: Rubric | None = None
) -> tuple[Preferences, list[PairVerdict]]:
    """What a judge prefers, asked in both orders."""
    items = [JudgeItem(id=one.id, prompt=one.prompt, responses=(one.chosen, one.rejected)) for one in pairs]
    verdicts = judge.compare(items, rubric=rubric, label=f"Comparing, {judge.name}")
    orders = [[one.shown_choice for one in each.opinions] for each in verdicts]
    found = generative_accuracy([one[0] for one in orders], [one[-1] for one in orders], tie=tie)
    preferences = Preferences(
        name=judge.name, kind="judge", credits=found.credits, strict=found.strict,
        first_shown=found.first_position_rate, unscored=sum(one.count(None) for one in orders),
    )  # fmt: skip
    return preferences, verdicts


@dataclass(frozen=True)
class GenerativeAccuracy:
    """Figures of verdicts in both orders.

    Attributes:
        credits: [pairs] mean over the two orders of 1 (right), 0 (wrong, or no verdict) and what a tie counts.
        strict: [pairs] right in both orders.
        first_position_rate: share of all replies that prefer what was shown first.
    """

    credits: tuple[float, ...]
    strict: tuple[bool, ...]
    first_position_rate: float


def generative_accuracy(
    chosen_first: Sequence[str | None], chosen_second: Sequence[str | None], *, tie: Tie = "half"
) -> GenerativeAccuracy:
    """Accuracy of a judge that was asked in both orders.

    Args:
        chosen_first, chosen_second: [pairs] verdicts by place (`first`, `second`, `tie`; None: it could not be read), where
            the chosen response was shown first, and second.
        tie: what a tie counts.

    Raises:
        ValueError: no pair, or different numbers of verdicts.
    """
    if not chosen_first or len(chosen_first) != len(chosen_second):
        raise ValueError(
            f"{len(chosen_first)} and {len(chosen_second)} verdicts, expected as many, one or more"
        )
    value = CREDITS[tie]
    pairs = [
        (
            {"first": 1.0, "tie": value}.get(one or "", 0.0),
            {"second": 1.0, "tie": value}.get(other or "", 0.0),
        )
        for one, other in zip(chosen_first, chosen_second, strict=True)
    ]
    shown = [*chosen_first, *chosen_second]
    return GenerativeAccuracy(
        tuple(sum(one) / 2 for one in pairs),
        tuple(one == (1.0, 1.0) for one in pairs),
        shown.count("first") / len(shown),
    )


def fitted(pair: Pair, fits: Callable[[Messages, str], bool] | None) -> tuple[Messages, str | None]:
    """The prompt with its passages cut evenly so that both responses have room, and `shortened` or `too long` where it had
    to be or could not be cut.
    """
    both = (pair.chosen, pair.rejected)
    if fits is None or all(fits(pair.prompt, one) for one in both):
        return pair.prompt, None
    held = [one for one in pair.references if any(one.text in message["content"] for message in pair.prompt)]

    def prompt_with(passages: Sequence[Any]) -> Messages:
        made: Messages = []
        for message in pair.prompt:
            text = message["content"]
            for before, after in zip(held, passages, strict=True):
                text = text.replace(before.text, after.text, 1)
            made.append(Message(role=message["role"], content=text))
        return made

    found = (
        shortened(held, lambda passages: all(fits(prompt_with(passages), one) for one in both))
        if held
        else None
    )
    return (pair.prompt, "too long") if found is None else (prompt_with(found), "shortened")


def open_named_reward(spec: str | dict[str, Any], judge: Callable[[str | None], Judge]) -> Reward:
    """A reward of the reward language by itself.

    Raises:
        ConfigError: a weight, which alone changes nothing but, below 0, the order.
    """
    from coalign.judging.rewards.specs import RewardOptions, build_rewards, parse_reward

    if parse_reward(spec).weight != 1:
        raise ConfigError(f"reward: {spec!r}: a weight has no effect here; leave it out.")
    mixed = build_rewards(RewardOptions(reward=[spec]), open_judge=judge, unscorable="leave out")
    return mixed.rewards[0].reward


def preference_credits(gaps: Sequence[float | None], tie: Tie) -> tuple[float, ...]:
    """[pairs] 1 where the chosen response scores higher, 0 where it does not or has no score, what a tie counts between."""
    return tuple(0.0 if one is None or one < 0 else 1.0 if one > 0 else CREDITS[tie] for one in gaps)
