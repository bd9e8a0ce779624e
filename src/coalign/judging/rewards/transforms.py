"""Rewards on a scale that means the same for every prompt, out of other rewards and of what the base model reaches.

What a transform compares with is a number, or stands in a file with a row a prompt (`reward-transform` and `infalign` write them):
`prompt` (messages), `reward` (name of the reward), `rewards` (of the base's responses) and `reference` (one number out of them).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import read_rows
from coalign.measures.reward_transforms import calibrated, exponential, log_sigmoid_centred

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.judging.rewards.mix import Draft, Reward

TRANSFORMS = {
    "log_sigmoid": "log-probability of being better than a reference: a number, or a file of them",
    "calibrated": "share of the base's responses that are worse, from a file of their rewards",
    "exponential": "sign(t) exp(t r), over its largest value on [0, 1]; the number is t",
}
"""Name to what it does; what it is given stands before the reward: `log_sigmoid:0.5:model:PATH`."""


def prompt_key(prompt: Messages | str) -> str:
    """What a prompt is found by, as text or as one user turn."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    plain = [[one["role"], one["content"]] for one in messages]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class BaseRewards:
    """What a file says of the base's responses.

    Attributes:
        references: prompt key to the reference.
        rewards: prompt key to the rewards of the base's responses.
    """

    path: Path
    references: dict[str, float] = field(default_factory=dict)
    rewards: dict[str, list[float]] = field(default_factory=dict)

    def reference(self, prompt: Messages | str) -> float:
        return self._found(self.references, prompt, "reference")

    def samples(self, prompt: Messages | str) -> list[float]:
        return self._found(self.rewards, prompt, "rewards")

    def _found(self, known: dict[str, Any], prompt: Messages | str, column: str) -> Any:
        key = prompt_key(prompt)
        if key not in known:
            shown = prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt else ""
            raise DataError(
                f"{self.path}: has no {column} of the prompt {shown[:80]!r}.",
                hint="Make the file from the same prompts: `coalign run reward-transform` (references), `coalign run infalign` (rewards).",
            )
        return known[key]


def read_base_rewards(path: Path, reward: str) -> BaseRewards:
    """The rows of a file that are about this reward; all of them where none says which reward it is about.

    Raises:
        ConfigError: it cannot be read, has no such row, or one that is not usable.
    """
    try:
        rows = list(read_rows(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from error
    if not path.is_file() or not rows:
        raise ConfigError(f"{path}: there are no rewards of the base model in it, or no such file.")
    named = {row.get("reward") for row in rows}
    if named != {None} and reward not in named:
        raise ConfigError(f"{path}: is about {', '.join(sorted(map(str, named)))}, and not about {reward}.")
    found = BaseRewards(path)
    for line, row in enumerate(rows, start=1):
        if row.get("reward") not in (None, reward):
            continue
        key = prompt_key(row["prompt"]) if "prompt" in row else None
        values = [*row.get("rewards", ()), *([row["reference"]] if "reference" in row else [])]
        if (
            key is None
            or not values
            or not all(isinstance(one, int | float) and math.isfinite(one) for one in values)
        ):
            raise ConfigError(
                f"{path}:{line}: rewards: not usable, expected a prompt with finite numbers in `rewards` or `reference`"
            )
        if "reference" in row:
            found.references[key] = float(row["reference"])
        if row.get("rewards"):
            found.rewards[key] = [float(one) for one in row["rewards"]]
    return found


@dataclass(frozen=True)
class LogSigmoidReward:
    """`log sigmoid(r - r_ref)` of another reward; NaN stays NaN.

    Args:
        reference: one number, or a file's.
    """

    inner: Reward
    reference: float | BaseRewards
    name: str

    @property
    def lowest(self) -> float:
        references = self.reference
        highest = references if isinstance(references, float | int) else max(references.references.values())
        return float(log_sigmoid_centred(_lowest(self.inner), highest))

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        held_against = [
            self.reference
            if isinstance(self.reference, float | int)
            else self.reference.reference(one.prompt)
            for one in drafts
        ]
        return log_sigmoid_centred(list(self.inner.score(drafts)), held_against).tolist()


@dataclass(frozen=True)
class CalibratedReward:
    """The share of the base's responses to the prompt that another reward beats, in [0, 1]."""

    inner: Reward
    base: BaseRewards
    name: str
    lowest = 0.0

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        samples = [self.base.samples(one.prompt) for one in drafts]
        values = self.inner.score(drafts)
        return [float(calibrated(value, one)) for value, one in zip(values, samples, strict=True)]


@dataclass(frozen=True)
class ExponentialReward:
    """`sign(t) exp(t r)` of another reward, over its largest size on [0, 1]."""

    inner: Reward
    t: float
    name: str

    @property
    def lowest(self) -> float:
        return float(exponential(_lowest(self.inner), self.t, normalise=True))

    def score(self, drafts: Sequence[Draft]) -> list[float]:
        return exponential(np.asarray(self.inner.score(drafts), np.float64), self.t, normalise=True).tolist()


def transformed(kind: str, given: str, inner: Reward, name: str, *, about: str) -> Reward:
    """The reward `kind:given:inner`.

    Args:
        name: of the whole.
        about: what a file calls the inner reward: as it is written.

    Raises:
        ConfigError: a file that cannot be used.
    """
    number = as_number(given)
    if kind == "exponential":
        assert number is not None
        return ExponentialReward(inner, number, name)
    if kind == "log_sigmoid" and number is not None:
        return LogSigmoidReward(inner, number, name)
    base = read_base_rewards(Path(given).expanduser(), about)
    return (
        LogSigmoidReward(inner, base, name) if kind == "log_sigmoid" else CalibratedReward(inner, base, name)
    )


def _lowest(reward: Reward) -> float:
    """Of a reward that has one; `RewardMix` asks by `getattr`."""
    found: Any = getattr(reward, "lowest", None)
    if found is None:
        raise AttributeError("lowest")
    return found


def as_number(text: str) -> float | None:
    """The finite number that a text is, else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
