"""Rewards of responses, finished or not, and their combination into one number to search or choose by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from coalign.core.errors import ConfigError
from coalign.data.records import Messages
from coalign.judging.verifiers.constraints import Constraint
from coalign.models.types import is_prefilled

if TYPE_CHECKING:
    from coalign.judging.protocol import Judge
    from coalign.models.reward_model import RewardModel

Combine = Literal["sum", "min", "max"]
"""Weighted mean; the worst (all of them must hold); the best (one of them is enough)."""


class Draft(NamedTuple):
    """A response to value.

    Attributes:
        index: number of its prompt, for rewards that differ from prompt to prompt.
        prompt: the conversation, or plain text.
        text: of the response.
        finished: nothing follows.
    """

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # no tuple is searched for it
    prompt: Messages | str
    text: str
    finished: bool = True

    @classmethod
    def of(cls, index: int, prompt: Messages | str, text: str, finished: bool) -> Draft:
        """A beginning of the answer that the prompt ends with is part of what is valued."""
        if not isinstance(prompt, str) and is_prefilled(prompt):
            prompt, text = prompt[:-1], prompt[-1]["content"] + text
        return cls(index, prompt, text, finished)

    @property
    def question(self) -> str:
        """The last message of the prompt."""
        return (
            self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"] if self.prompt else ""
        )


class Reward(Protocol):
    """Anything that values responses, the higher the better."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def score(self, drafts: Sequence[Draft]) -> Sequence[float]:
        """One finite number a draft, which depends on that draft alone."""
        ...


@dataclass(frozen=True)
class ConstraintReward:
    """The value of a verifier in [0, 1]."""

    constraint: Constraint

    def __post_init__(self) -> None:
        _refuse_groups([self.constraint])

    @property
    def name(self) -> str:
        return self.constraint.describe()

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        return [self.constraint.verify(one.question, one.text) for one in drafts]


@dataclass(frozen=True)
class OwnConstraintsReward:
    """Each prompt's own constraints: the share that is satisfied, in [0, 1]; 0 for a prompt without any.

    Args:
        constraints: by number of the prompt.
    """

    constraints: Mapping[int, Sequence[Constraint]]
    name: str = "constraints"

    def __post_init__(self) -> None:
        _refuse_groups([one for each in self.constraints.values() for one in each])

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        found = []
        for one in drafts:
            values = [each.verify(one.question, one.text) for each in self.constraints.get(one.index, ())]
            found.append(math.fsum(values) / len(values) if values else 0.0)
        return found


@dataclass(frozen=True)
class ModelReward:
    """A reward model's output."""

    model: RewardModel
    name: str

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        return self.model.score([one.prompt for one in drafts], [one.text for one in drafts])


@dataclass
class JudgeReward:
    """A judge's rating, put on [0, 1] from its scale.

    A draft for which there is no verdict has the lowest value, 0; `failures` counts them.
    """

    judge: Judge
    name: str
    criteria: str | None = None
    bounds: tuple[float, float] = (1.0, 10.0)
    failures: int = 0
    asked: int = 0

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        from coalign.judging.protocol import JudgeItem, Rubric, Scale

        items = [
            JudgeItem(id=str(place), prompt=_messages(one.prompt), responses=(one.text,))
            for place, one in enumerate(drafts)
        ]
        low, high = self.bounds
        ratings = self.judge.rate(
            items,
            rubric=Rubric(criteria=self.criteria) if self.criteria else None,
            scale=Scale(low=low, high=high),
        )
        self.asked += len(ratings)
        self.failures += sum(one.score is None for one in ratings)
        scores = [low if one.score is None else one.score for one in ratings]
        return [(one - low) / (high - low) for one in scores]


@dataclass(frozen=True)
class Weighted:
    """A reward and its weight; a negative weight asks for less of it."""

    reward: Reward
    weight: float = 1.0


@dataclass
class RewardMix:
    """Several rewards as one.

    Args:
        rewards: one or more.
        combine: see `Combine`.
        normalise: standardise every reward over the drafts of one prompt in a call before it is weighted, for rewards
            of different scale.

    Raises:
        ConfigError: no reward, weights that are all 0, or weights with `min` or `max`, which have no use for them.
    """

    rewards: Sequence[Weighted]
    combine: Combine = "sum"
    normalise: bool = False
    _known: dict[tuple[int, int, str, bool], float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ConfigError(
                "There is no reward to search by.", hint="Give one, such as --reward max_words:20."
            )
        weights = [one.weight for one in self.rewards]
        if not any(weights):
            raise ConfigError("The weights of the rewards are all 0.")
        twice = [name for place, name in enumerate(self.names) if name in self.names[:place]]
        if twice:
            raise ConfigError(f"The reward {twice[0]!r} is given twice.", hint="Give it once, with a weight.")
        if self.combine != "sum" and set(weights) != {1.0}:
            raise ConfigError(
                f"combine: {self.combine} takes the rewards as they are; leave their weights out."
            )

    @property
    def names(self) -> list[str]:
        return [one.reward.name for one in self.rewards]

    def values(self, drafts: Sequence[Draft]) -> list[list[float]]:
        """[drafts][rewards], as the rewards give them. A text is asked for once until `forget`."""
        table = [[0.0] * len(self.rewards) for _ in drafts]
        for column, one in enumerate(self.rewards):
            keys = [(column, draft.index, draft.text, draft.finished) for draft in drafts]
            new = {key: place for place, key in enumerate(keys) if key not in self._known}
            if new:
                scores = one.reward.score([drafts[place] for place in new.values()])
                self._known.update(zip(new, map(float, scores), strict=True))
            for row, key in zip(table, keys, strict=True):
                row[column] = self._known[key]
        return table

    def combined(self, drafts: Sequence[Draft], values: Sequence[Sequence[float]]) -> list[float]:
        """One number a draft out of its `values`."""
        rows = [list(one) for one in values]
        if self.normalise:
            rows = standardised(rows, [one.index for one in drafts])
        if self.combine != "sum":
            return [min(row) if self.combine == "min" else max(row) for row in rows]
        return combine_rewards(rows, [one.weight for one in self.rewards])

    def __call__(self, drafts: Sequence[Draft]) -> list[float]:
        return self.combined(drafts, self.values(drafts))

    def forget(self) -> None:
        """Drop the remembered texts, when other prompts follow."""
        self._known.clear()


def combine_rewards(values: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """`sum_j w_j r_j / sum_j |w_j|` of each row.

    Args:
        values: [drafts][rewards].
        weights: [rewards], not all 0.
    """
    total = math.fsum(map(abs, weights))
    return [
        math.fsum(weight * value for weight, value in zip(weights, row, strict=True)) / total
        for row in values
    ]


def standardised(values: Sequence[Sequence[float]], groups: Sequence[int]) -> list[list[float]]:
    """Every column less its mean, over its standard deviation, within each group; a constant column is 0."""
    found = [list(row) for row in values]
    for group in set(groups):
        rows = [place for place, one in enumerate(groups) if one == group]
        for column in range(len(values[rows[0]])):
            numbers = [values[row][column] for row in rows]
            mean, deviation = statistics.fmean(numbers), statistics.pstdev(numbers)
            for row, number in zip(rows, numbers, strict=True):
                found[row][column] = (number - mean) / deviation if deviation > 1e-12 else 0.0
    return found


def _refuse_groups(constraints: Sequence[Constraint]) -> None:
    for one in constraints:
        if one.needs_group:
            raise ConfigError(
                f"{one.verifier} compares with the responses to other prompts: it cannot guide a search."
            )


def _messages(prompt: Messages | str) -> Messages:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
