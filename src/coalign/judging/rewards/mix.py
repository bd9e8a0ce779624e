"""Rewards of responses, finished or not, and their combination into one number to search or choose by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from coalign.core.errors import ConfigError, ModelError
from coalign.data.records import Messages
from coalign.judging.verifiers.constraints import Constraint
from coalign.judging.verifiers.isolation import Verify, verify_here
from coalign.models.types import is_prefilled

if TYPE_CHECKING:
    from coalign.judging.protocol import Judge
    from coalign.models.reward_model import RewardModel

Unscorable = Literal["lowest", "leave out"]
Combine = Literal["sum", "total", "min", "max"]
"""Weighted mean; weighted sum, for log-probabilities, which add; the worst (all of them must hold); the best (one of them is
enough)."""


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
    def messages(self) -> Messages:
        """The prompt as a conversation."""
        return [{"role": "user", "content": self.prompt}] if isinstance(self.prompt, str) else self.prompt

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
        """One number a draft, which depends on that draft alone; NaN where the draft cannot be scored: its judge's reply was
        not understood, its verifier failed or took too long. A reward whose values have a `lowest` says so.
        """
        ...


@dataclass(frozen=True)
class ConstraintReward:
    """The value of a verifier in [0, 1]; NaN where it fails."""

    constraint: Constraint
    verify: Verify = verify_here
    lowest = 0.0

    def __post_init__(self) -> None:
        _refuse_groups([self.constraint])

    @property
    def name(self) -> str:
        return self.constraint.describe()

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        return self.verify([(self.constraint, one.question, one.text) for one in drafts])


@dataclass(frozen=True)
class OwnConstraintsReward:
    """Each prompt's own constraints: the share that is satisfied, in [0, 1]; 0 for a prompt without any, NaN where one fails.

    Args:
        constraints: by number of the prompt.
        verify: works out the values, in this process by default.
    """

    constraints: Mapping[int, Sequence[Constraint]]
    name: str = "constraints"
    verify: Verify = verify_here
    lowest = 0.0

    def __post_init__(self) -> None:
        _refuse_groups([one for each in self.constraints.values() for one in each])

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        own = [self.constraints.get(one.index, ()) for one in drafts]
        values = iter(
            self.verify(
                [
                    (each, one.question, one.text)
                    for one, mine in zip(drafts, own, strict=True)
                    for each in mine
                ]
            )
        )
        return [math.fsum(next(values) for _ in mine) / len(mine) if mine else 0.0 for mine in own]


@dataclass(frozen=True)
class ModelReward:
    """A reward model's output; NaN for a draft of which it gives no number."""

    model: RewardModel
    name: str

    def fits(self, prompt: Messages | str, response: str) -> bool:
        """Whether the model reads all of it."""
        inputs = getattr(self.model, "inputs", None)  # a mixture of models has none in common
        return inputs is None or not inputs.text(prompt, response).cut

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        try:
            return self.model.score([one.prompt for one in drafts], [one.text for one in drafts])
        except ModelError:
            if len(drafts) == 1:
                return [math.nan]
            return [value for one in drafts for value in self.score([one])]


@dataclass
class JudgeReward:
    """A judge's rating, put on [0, 1] from its scale.

    A draft for which there is no verdict has the value NaN; `failures` counts them.
    """

    judge: Judge
    name: str
    criteria: str | None = None
    bounds: tuple[float, float] = (1.0, 10.0)
    failures: int = 0
    asked: int = 0
    lowest = 0.0

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        from coalign.judging.protocol import JudgeItem, Rubric, Scale

        items = [
            JudgeItem(id=str(place), prompt=one.messages, responses=(one.text,))
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
        return [math.nan if one.score is None else (one.score - low) / (high - low) for one in ratings]


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
        unscorable: what becomes of a draft that a reward cannot score. `lowest`: it has the lowest value that the reward knows,
            for a search that must go on. `leave out`: it is NaN, and so is its mixture.

    Raises:
        ConfigError: no reward, weights that are all 0, or weights with `min` or `max`, which have no use for them.
    """

    rewards: Sequence[Weighted]
    combine: Combine = "sum"
    normalise: bool = False
    unscorable: Unscorable = "lowest"
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
        if self.combine in ("min", "max") and set(weights) != {1.0}:
            raise ConfigError(
                f"combine: {self.combine} takes the rewards as they are; leave their weights out."
            )

    @property
    def names(self) -> list[str]:
        return [one.reward.name for one in self.rewards]

    def values(self, drafts: Sequence[Draft]) -> list[list[float]]:
        """`[drafts][rewards]`, as the rewards give them. A text is asked for once until `forget`.

        Raises:
            ModelError: with `unscorable: lowest` a draft that cannot be scored by a reward without a lowest value.
        """
        table = [[0.0] * len(self.rewards) for _ in drafts]
        for column, one in enumerate(self.rewards):
            keys = [(column, draft.index, draft.text, draft.finished) for draft in drafts]
            new = {key: place for place, key in enumerate(keys) if key not in self._known}
            if new:
                scores = one.reward.score([drafts[place] for place in new.values()])
                values = [self._scored(one.reward, float(score)) for score in scores]
                self._known.update(zip(new, values, strict=True))
            for row, key in zip(table, keys, strict=True):
                row[column] = self._known[key]
        return table

    def _scored(self, reward: Reward, value: float) -> float:
        if self.unscorable == "leave out" or not math.isnan(value):
            return value
        lowest = getattr(reward, "lowest", None)
        if lowest is None:
            raise ModelError(
                f"The reward {reward.name} is not a number for a response, and has no lowest value."
            )
        return lowest

    def combined(self, drafts: Sequence[Draft], values: Sequence[Sequence[float]]) -> list[float]:
        """One number a draft out of its `values`; NaN where one of these is."""
        rows = [list(one) for one in values]
        if self.normalise:
            rows = standardised(rows, [one.index for one in drafts])
        if self.combine in ("min", "max"):
            pick = min if self.combine == "min" else max
            return [math.nan if any(map(math.isnan, row)) else pick(row) for row in rows]
        return combine_rewards(rows, [one.weight for one in self.rewards], total=self.combine == "total")

    def __call__(self, drafts: Sequence[Draft]) -> list[float]:
        return self.combined(drafts, self.values(drafts))

    def forget(self) -> None:
        """Drop the remembered texts, when other prompts follow."""
        self._known.clear()


def combine_rewards(
    values: Sequence[Sequence[float]], weights: Sequence[float], *, total: bool = False
) -> list[float]:
    """`sum_j w_j r_j / sum_j |w_j|` of each row; with `total` not divided.

    Args:
        values: `[drafts][rewards]`.
        weights: [rewards], not all 0.
    """
    divisor = 1.0 if total else math.fsum(map(abs, weights))
    return [
        math.fsum(weight * value for weight, value in zip(weights, row, strict=True)) / divisor
        for row in values
    ]


def standardised(values: Sequence[Sequence[float]], groups: Sequence[int]) -> list[list[float]]:
    """Every column less its mean, over its standard deviation, within each group; a constant column is 0. NaN stays, and is
    in neither.
    """
    found = [list(row) for row in values]
    for group in set(groups):
        rows = [place for place, one in enumerate(groups) if one == group]
        for column in range(len(values[rows[0]])):
            scored = [row for row in rows if not math.isnan(values[row][column])]
            if not scored:
                continue
            numbers = [values[row][column] for row in scored]
            mean, deviation = statistics.fmean(numbers), statistics.pstdev(numbers)
            for row, number in zip(scored, numbers, strict=True):
                found[row][column] = (number - mean) / deviation if deviation > 1e-12 else 0.0
    return found


def _refuse_groups(constraints: Sequence[Constraint]) -> None:
    for one in constraints:
        if one.needs_group:
            raise ConfigError(
                f"{one.verifier} compares with the responses to other prompts: it cannot guide a search."
            )
