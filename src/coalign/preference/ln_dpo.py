"""LN-DPO: DPO on length-normalised log-ratios, so that long responses do not dominate and answers do not grow.

The Hitchhiker's Guide to Human Alignment with *PO (arXiv 2407.15229).

    coalign run ln-dpo --data pairs.jsonl --model default

Each log-ratio to the reference is divided by the length of its own response; nothing else differs from DPO. Averages
are tens to hundreds of times smaller than sums, so beta is larger than DPO's, and losses of the two at equal beta do
not compare. The length is that of the response after truncation, end-of-turn token included.

Reconstruction: the paper has no public code, and its grid of betas could not be confirmed; the default is ours.
Where the labels themselves reward length, averaging magnifies the early end of short rejected answers, and responses
can grow instead of shrink.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from coalign.core.options import Positive, option
from coalign.preference.numerics import mean_logps
from coalign.preference.pairs import (
    implicit_rewards,
    pair_lengths,
    pair_metrics,
    policy_pairs,
    reference_pairs,
)
from coalign.preference.pairwise import logistic_loss
from coalign.training.objective import Losses, ScoredBatch, objective


def ln_dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
) -> Tensor:
    """`-log sig( beta / |y_w| (S(y_w) - S_ref(y_w)) - beta / |y_l| (S(y_l) - S_ref(y_l)) )`.

    Args:
        policy_chosen_logps, policy_rejected_logps: [R] log-probabilities S summed over response tokens, in nats.
        reference_chosen_logps, reference_rejected_logps: [R] the same under the reference; constants.
        chosen_lengths, rejected_lengths: [R] counted response tokens; 0 counts as 1.
        beta: inverse temperature of the reward per token.

    Returns:
        [R] losses, not reduced; log 2 where policy and reference agree. The gradient by a token of a response of
        length |y| is `beta sig(-z) / |y|`.
    """
    chosen = mean_logps(policy_chosen_logps - reference_chosen_logps, chosen_lengths)
    rejected = mean_logps(policy_rejected_logps - reference_rejected_logps, rejected_lengths)
    return logistic_loss(beta * (chosen - rejected))


@dataclass(kw_only=True)
class Constants:
    """Constants of LN-DPO."""

    __group__ = "Objective"

    beta: Positive = option(1.0, "inverse temperature of the reward per token; try 0.5 to 2.5")


@objective(
    "ln_dpo",
    data="preference",
    reference=True,
    constants=Constants,
    equation=r"-\log \sigma\left(\frac{\beta}{|y_w|} \log\frac{\pi_\theta(y_w|x)}{\pi_{ref}(y_w|x)} - \frac{\beta}{|y_l|} \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}\right)",
    when="DPO makes answers longer, or its beta is hard to choose.",
)
def ln_dpo(batch: ScoredBatch, constants: Constants) -> Losses:
    """LN-DPO (arXiv 2407.15229); `sigmoid_norm` in TRL."""
    losses = ln_dpo_loss(
        *policy_pairs(batch), *reference_pairs(batch), *pair_lengths(batch), beta=constants.beta
    )
    return Losses(
        losses, pair_metrics(batch, *implicit_rewards(batch, constants.beta, length_normalised=True))
    )
