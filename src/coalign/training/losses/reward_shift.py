"""Implicit rewards of single responses, and their running mean: the shift of a binary classifier's logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.training.losses.running_moments import RunningMoments
from coalign.training.objective import ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor

Shift = Literal["pooled", "midpoint", "none"]


def implicit_rewards(policy_logps: Tensor, reference_logps: Tensor, *, beta: float) -> Tensor:
    """[R] implicit rewards `r = beta (S_policy - S_reference)`; no gradient through the reference.

    Args:
        policy_logps, reference_logps: [R] log-probabilities summed over response tokens.
    """
    return beta * (policy_logps - reference_logps.detach())


def single_rewards(batch: ScoredBatch, beta: float) -> Tensor:
    """[R] implicit rewards of records with one response each.

    Raises:
        ValueError: a record has several responses, or there is no reference.
    """
    if batch.reference is None or len(batch.record_index) != batch.n_records:
        raise ValueError(
            "a binary objective needs records with one response each, scored under policy and reference"
        )
    return implicit_rewards(batch.policy.sums(), batch.reference.sums(), beta=beta)


def labelled_metrics(labels: Tensor, rewards: Tensor, logps: Tensor) -> dict[str, Tensor]:
    """Rewards and summed log-probabilities of thumbs-up records as chosen and of the others as rejected; NaN elsewhere.

    Args:
        labels: [R] true for thumbs up.
        rewards, logps: [R] without gradient.
    """
    return {
        f"{name}/{side}": torch.where(of_side, values, torch.nan)
        for side, of_side in (("chosen", labels), ("rejected", ~labels))
        for name, values in (("rewards", rewards), ("logps", logps))
    }


class RewardShift:
    """The running reward shift: moments of the rewards of both classes over all training batches so far.

    An `ObjectiveState`. A step's own rewards are in its shift. Nothing is forgotten: every record seen counts alike.
    """

    def __init__(self) -> None:
        self.desirable = RunningMoments()
        self.undesirable = RunningMoments()

    def update(self, batch: ScoredBatch, constants: Any) -> None:
        labels = batch.values.bool()
        rewards = single_rewards(batch, constants.beta).detach()
        self.desirable = self.desirable.merge(RunningMoments.of(rewards[labels]))
        self.undesirable = self.undesirable.merge(RunningMoments.of(rewards[~labels]))

    def delta(self, shift: Shift) -> float:
        """The shift: mean over all records, midpoint of the class means (the one mean while a class is missing), or 0."""
        if shift == "none":
            return 0.0
        if shift == "midpoint" and self.desirable.count and self.undesirable.count:
            return (self.desirable.mean + self.undesirable.mean) / 2
        return self.desirable.merge(self.undesirable).mean

    def state_dict(self) -> dict[str, float]:
        return self.desirable.state_dict("desirable_") | self.undesirable.state_dict("undesirable_")

    def load_state_dict(self, values: Mapping[str, float]) -> None:
        self.desirable = RunningMoments.from_state_dict(values, "desirable_")
        self.undesirable = RunningMoments.from_state_dict(values, "undesirable_")
