"""Options of the divergence from the start model, which every online method but DPO has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coalign.core.options import NonNegative, OptionGroup, option
from coalign.training.losses import policy_gradient as pg


@dataclass(kw_only=True)
class KlOptions(OptionGroup):
    """How far the policy may go from the reference."""

    __group__ = "Objective"

    beta: NonNegative = option(
        0.0, "weight of the KL divergence to the reference; 0: no reference", source="TRL"
    )
    kl_in: Literal["reward", "loss"] = option(
        "loss", "take the divergence off the reward of a response, or add it to the loss of each token"
    )
    kl_estimator: pg.KlEstimator = option(
        "k3",
        "k1: log-ratio, k2: half its square, k3: never negative; the page on reinforcement learning says what gradient each has",
        source="arXiv 2402.03300, equation 4",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta:
            self.refuse(["kl_in", "kl_estimator"], "without beta")
