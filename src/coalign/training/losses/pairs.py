"""Chosen and rejected responses of a scored batch, and the metrics that every pairwise objective logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coalign.training.losses.numerics import mean_logps
from coalign.training.objective import ScoredBatch

if TYPE_CHECKING:
    from torch import Tensor


def policy_pairs(batch: ScoredBatch) -> tuple[Tensor, Tensor]:
    """([R], [R]) summed log-probabilities of chosen and rejected responses under the policy."""
    chosen, rejected = batch.pairs()
    logps = batch.policy.sums()
    return logps[chosen], logps[rejected]


def reference_pairs(batch: ScoredBatch) -> tuple[Tensor, Tensor]:
    """([R], [R]) the same under the reference, without gradient.

    Raises:
        ValueError: the batch was scored without a reference.
    """
    chosen, rejected = batch.pairs()
    logps = batch.reference_sums()
    return logps[chosen], logps[rejected]


def pair_lengths(batch: ScoredBatch) -> tuple[Tensor, Tensor]:
    """([R], [R]) counted tokens of chosen and rejected responses."""
    chosen, rejected = batch.pairs()
    return batch.policy.lengths[chosen], batch.policy.lengths[rejected]


def implicit_rewards(
    batch: ScoredBatch, scale: float, *, length_normalised: bool = False
) -> tuple[Tensor, Tensor]:
    """([R], [R]) `scale * h` of chosen and rejected responses, h their log-ratio to the reference.

    Args:
        length_normalised: divide each h by the length of its response.
    """
    policy, reference = policy_pairs(batch), reference_pairs(batch)
    chosen, rejected = policy[0] - reference[0], policy[1] - reference[1]
    if length_normalised:
        chosen_lengths, rejected_lengths = pair_lengths(batch)
        chosen, rejected = mean_logps(chosen, chosen_lengths), mean_logps(rejected, rejected_lengths)
    return scale * chosen, scale * rejected


def mean_rewards(batch: ScoredBatch, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """([R], [R]) `scale * a` of chosen and rejected responses, a their log-probability averaged over tokens."""
    chosen, rejected = batch.pairs()
    rewards = scale * batch.policy.means()
    return rewards[chosen], rewards[rejected]


def reward_metrics(chosen_rewards: Tensor, rejected_rewards: Tensor) -> dict[str, Tensor]:
    """Rewards, margin and accuracy (share of records with chosen above rejected; a tie is no hit), without gradient.

    Args:
        chosen_rewards, rejected_rewards: [R] the scores that the objective compares.
    """
    chosen, rejected = chosen_rewards.detach(), rejected_rewards.detach()
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
    }


def pair_metrics(batch: ScoredBatch, chosen_rewards: Tensor, rejected_rewards: Tensor) -> dict[str, Tensor]:
    """`reward_metrics` and the summed log-probabilities of chosen and rejected responses."""
    chosen, rejected = policy_pairs(batch)
    return {
        **reward_metrics(chosen_rewards, rejected_rewards),
        "logps/chosen": chosen.detach(),
        "logps/rejected": rejected.detach(),
    }
