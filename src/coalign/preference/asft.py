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

import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.rules import decide, mean_of, paired_gaps, values_of
from coalign.checks.worlds.preference_world import (
    PreferenceWorld,
    Start,
    best_only,
    pair_changes,
    start_with,
    training_arm,
    untrained_arm,
)
from coalign.core.catalogue import get
from coalign.core.options import NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.training.learning import LearningOptions, learn
from coalign.training.losses.numerics import LARGEST_MEAN_LOGP, log_odds, mean_logps
from coalign.training.losses.pairs import pair_lengths, pair_metrics, policy_pairs
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.losses.supervised import sft as sft  # registers what the check compares with
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective


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
    return F.softplus(-beta * chosen) + F.softplus(beta * rejected)


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
    losses = asft_loss(
        *policy_pairs(batch), *pair_lengths(batch), align_weight=constants.align_weight, beta=constants.beta
    )
    chosen, rejected = batch.pairs()
    means = batch.policy.means()
    return Losses(losses, pair_metrics(batch, means[chosen], means[rejected]))


@dataclass(kw_only=True)
class Config(Constants, LearningOptions):
    """Options of `coalign run asft`."""


def run(config: Config, run: Run) -> None:
    """Train ASFT on pairs."""
    learn(config, get_objective("asft"), run)


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Under ASFT the chosen responses rise while they fall under DPO, and the rejected ones fall, in a world of copying.

    Whether samples are better than DPO's is reported and has no part in the rule.
    """
    arms = {
        "SFT": lambda material: {**untrained_arm(material), **pair_changes(material, material.base, "pairs")},
        "ASFT": training_arm(get_objective("asft"), Constants(), "pairs", measure=_measured),
        "DPO": training_arm(get_objective("dpo"), DPOConstants(beta=0.1), "pairs", measure=_measured),
        "SFT on chosen": training_arm(get_objective("sft"), None, "chosen", measure=_measured),
        "ORPO": training_arm(get_objective("orpo"), None, "pairs", measure=_measured),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_start, arms=arms)
    chosen = values_of(rows, "chosen, change", "ASFT")
    over_dpo = paired_gaps(rows, "chosen, change", "ASFT", "DPO")
    rejected = mean_of(values_of(rows, "rejected, change", "ASFT"))
    rejected_sft = mean_of(values_of(rows, "rejected, change", "SFT on chosen"))
    kept = min(chosen.values()) > 0 and min(over_dpo.values()) > 0
    return Verdict(
        slug="asft",
        outcome=decide(seen=kept and rejected < 0 and rejected < rejected_sft, not_seen=not kept),
        claim=get("asft").claim,
        rule="Seen: the summed log-probability of the chosen training responses rises from the starting model in every "
        "seed, and by more than under DPO in every seed; that of the rejected ones falls in the mean, by more than under "
        "fine-tuning on the chosen ones. Not seen: the chosen ones fall, or rise no more than under DPO, in a seed. "
        "Mixed: the chosen ones do as claimed, the rejected ones do not.",
        setting="Copying letters: transformer of 2 layers and width 48, 1200 pairs of its own samples labelled by gold "
        "with noise; 300 steps of 32 pairs, Adam 3e-4; ASFT lambda 1, DPO beta 0.1. 400 fresh prompts, 4 samples each.",
        measures=rows,
        summary={
            "chosen, smallest change over seeds": min(chosen.values()),
            "chosen, ASFT - DPO, smallest over seeds": min(over_dpo.values()),
            "rejected, change": rejected,
            "rejected, change under SFT on chosen": rejected_sft,
            "gold, ASFT - DPO": mean_of(paired_gaps(rows, "gold", "ASFT", "DPO")),
            "gold, ASFT - ORPO": mean_of(paired_gaps(rows, "gold", "ASFT", "ORPO")),
            "gold, ASFT - SFT on chosen": mean_of(paired_gaps(rows, "gold", "ASFT", "SFT on chosen")),
        },
        seconds=seconds_spent(run),
    )


def _start(seed: int) -> Start:
    world = PreferenceWorld(seed)
    base = world.base_model()
    pairs = world.pairs(base)
    return start_with(world, base, {"pairs": pairs, "chosen": best_only(pairs)}, compared=["pairs"])


def _measured(material: Start, policy: nn.Module) -> Measures:
    return {
        **material.world.measure(policy, material.base),
        **pair_changes(material, policy, "pairs"),
    }
