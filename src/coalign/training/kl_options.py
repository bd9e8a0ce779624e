"""Options of the divergence from the start model, which every online method but DPO has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coalign.core.options import Count, NonNegative, OptionGroup, option
from coalign.training.losses import policy_gradient as pg


@dataclass(kw_only=True)
class KlOptions(OptionGroup):
    """How far the policy may go from the reference."""

    __group__ = "Objective"

    beta: NonNegative = option(
        0.0, "weight of the KL divergence to the reference; 0: no reference", source="TRL"
    )
    kl_in: Literal["reward", "advantage", "loss"] = option(
        "loss",
        "take the divergence off the reward of a response, off the advantage of each token, or add it to the loss of each "
        "token",
    )
    kl_estimator: pg.KlEstimator = option(
        "k3",
        "k1: log-ratio, k2: half its square, k3: never negative; the page on reinforcement learning says what gradient each has",
        source="arXiv 2402.03300, equation 4",
    )
    kl_top_k: Count | None = option(
        None,
        "the divergence over so many of the reference's likeliest tokens in place of an estimate from the sampled one; 500 is "
        "usual",
        source="Baichuan Alignment, arXiv 2410.14940, section 2.1",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta:
            self.refuse(["kl_in", "kl_estimator", "kl_top_k"], "without beta")
        if self.kl_top_k is not None:
            self.refuse(["kl_estimator"], "with kl_top_k: nothing is estimated")
