"""ASFT: fine-tuning and preference alignment in one run, pointwise, without a reference model.

ASFT: Aligned Supervised Fine-Tuning through Absolute Likelihood (arXiv 2409.10571).

    coalign run asft --data pairs.jsonl --model default

The chosen response is pulled up by its likelihood, the rejected one pushed down by `-log(1 - p)`, p the
geometric-mean token probability; no difference of the two appears. The push dies out as the rejected response
becomes unlikely, the pull does not, so chosen likelihoods do not sink as they can under DPO. It is an upper bound
of ORPO's loss with the same weight.

Reconstruction: the paper has no public code, and its weight of the alignment term could not be confirmed (1 is our
choice). The temperature `beta` is not in the paper (arXiv 2502.01237); 1 is the paper's loss. Two other papers share
the acronym; this is not "Anchored SFT".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.core.options import NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.training.learning import learn
from coalign.training.losses.numerics import LARGEST_MEAN_LOGP, log_odds, mean_logps
from coalign.training.losses.pairs import mean_rewards, pair_lengths, pair_metrics, policy_pairs
from coalign.training.material import ObjectiveOptions
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective

if TYPE_CHECKING:
    from torch import Tensor


def asft_align_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float = 1.0,
) -> Tensor:
    """[R] `-log sig(beta o_w) - log sig(-beta o_l)`, o the log-odds; for beta 1 equal to `-a_w - log(1 - p_l)`.

    Arguments as in `asft_loss`.
    """
    chosen = log_odds(mean_logps(policy_chosen_logps, chosen_lengths))
    rejected = log_odds(mean_logps(policy_rejected_logps, rejected_lengths))
    return torch.nn.functional.softplus(-beta * chosen) + torch.nn.functional.softplus(beta * rejected)


def asft_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    align_weight: float = 1.0,
    beta: float = 1.0,
) -> Tensor:
    """`-a_w + lambda (-log sig(beta o_w) - log sig(-beta o_l))`, `a = S / |y|`, `o = a - log(1 - exp(a))`.

    Args:
        policy_chosen_logps, policy_rejected_logps: [R] log-probabilities S summed over response tokens, in nats.
        chosen_lengths, rejected_lengths: [R] counted response tokens; 0 counts as 1.
        align_weight: lambda.
        beta: temperature of the log-odds.

    Returns:
        [R] losses, not reduced. a is clamped below -1e-7: a response that the model knows by heart has a finite
        loss and no gradient.
    """
    align = asft_align_loss(
        policy_chosen_logps, policy_rejected_logps, chosen_lengths, rejected_lengths, beta=beta
    )
    chosen = mean_logps(policy_chosen_logps, chosen_lengths).clamp(max=LARGEST_MEAN_LOGP)
    return -chosen + align_weight * align


@dataclass(kw_only=True)
class Constants:
    """Constants of ASFT."""

    __group__ = "Objective"

    align_weight: NonNegative = option(1.0, "lambda, weight of the alignment term")
    beta: Positive = option(1.0, "temperature of the log-odds; 1 is the paper's loss", source="paper")


@objective(
    "asft",
    data="preference",
    reference=False,
    constants=Constants,
    equation=r"-(1+\lambda)\, a_w - \lambda \log(1 - e^{a_l}), \quad a = \tfrac{1}{|y|} \log \pi_\theta(y|x)",
    when="One run from a base model on pairs, and chosen likelihoods must not fall.",
)
def asft(batch: ScoredBatch, constants: Constants) -> Losses:
    """ASFT (arXiv 2409.10571); rewards are the length-averaged log-probabilities."""
    pairs = (*policy_pairs(batch), *pair_lengths(batch))
    losses = asft_loss(*pairs, align_weight=constants.align_weight, beta=constants.beta)
    return Losses(losses, pair_metrics(batch, *mean_rewards(batch)))


@dataclass(kw_only=True)
class Config(Constants, ObjectiveOptions):
    """Options of `coalign run asft`."""


def run(config: Config, run: Run) -> None:
    """Train ASFT on pairs."""
    learn(config, get_objective("asft"), run)
