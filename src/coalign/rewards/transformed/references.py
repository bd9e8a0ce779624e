"""What a reward is held against at each prompt: set before anything is learnt, and frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from coalign.core.errors import ConfigError
from coalign.core.options import Fraction, option
from coalign.judging.rewards.mix import Draft, RewardMix
from coalign.loops.online_run import Task
from coalign.measures.reward_transforms import Deviation, QuantileMethod, reference_quantile
from coalign.rewards.transformed.base_rewards import BaseOptions

References = Mapping[str, Mapping[str, float]]
"""Id of a prompt to the reference of each reward, by the reward as it is written."""


@dataclass(kw_only=True)
class ReferenceOptions(BaseOptions):
    """How references are set."""

    __group__ = "Reference"

    reference: Literal["quantile", "canned_response", "constant"] = option(
        "quantile",
        "what a reward is held against: a quantile of the base's own rewards, the reward of a canned response, or numbers",
        source="paper; canned_response from memory",
    )
    quantile: Fraction = option(
        0.85,
        "share of the base's responses below the reference",
        source="from memory",
        only_with={"reference": "quantile"},
    )
    quantile_method: QuantileMethod = option(
        "gaussian",
        "mean and deviations, or linear between order statistics",
        source="independent implementation",
        only_with={"reference": "quantile"},
    )
    quantile_deviation: Deviation = option(
        "population",
        "divisor of the deviation: all samples, or one less",
        only_with={"quantile_method": "gaussian"},
    )
    canned_response: str = option(
        "I'm sorry, but I can't help with that.",
        "the response that is good enough",
        only_with={"reference": "canned_response"},
    )
    constants: list[float] = option(
        [], "references, one for each reward in their order", only_with={"reference": "constant"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.quantile < 1:
            raise ConfigError(f"quantile: {self.quantile} is not usable, expected a number between 0 and 1")
        if self.reference == "constant" and len(self.constants) != len(self.reward):
            raise ConfigError(
                f"constants: {len(self.constants)} for {len(self.reward)} rewards, expected one each"
            )


def references_of(
    config: ReferenceOptions,
    tasks: Sequence[Task],
    mix: RewardMix,
    rewards: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, dict[str, float]]:
    """The reference of every prompt and reward.

    Raises:
        ConfigError: the canned response has no reward.
    """
    names = list(next(iter(rewards.values())))
    if config.reference == "constant":
        return {one.id: dict(zip(names, config.constants, strict=True)) for one in tasks}
    if config.reference == "canned_response":
        drafts = [Draft.of(one.number, one.prompt, config.canned_response, True) for one in tasks]
        values = mix.values(drafts)
        mix.forget()
        if not np.isfinite(values).all():
            raise ConfigError("canned_response: a reward is not a number for it; it cannot be the reference.")
        return {one.id: dict(zip(names, row, strict=True)) for one, row in zip(tasks, values, strict=True)}
    how: Any = {"method": config.quantile_method, "deviation": config.quantile_deviation}
    return {
        one.id: {
            name: float(reference_quantile(values, config.quantile, **how))
            for name, values in rewards[one.id].items()
        }
        for one in tasks
    }
