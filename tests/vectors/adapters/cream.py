"""CREAM: agreement of two rankings of the same responses, and the softened DPO loss."""

from __future__ import annotations

import statistics
from typing import Any

from coalign.measures.agreement import kendall_tau
from coalign.selfalign.cream import best_and_worst, consistency
from coalign.training.losses.pairwise import dpo_loss
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "reward_current" in inputs:
        both = [*zip(inputs["reward_current"], inputs["reward_previous"], strict=True)]
        rates = [consistency(*one) for one in both]
        extremes = [best_and_worst(current) or (None, None) for current, _ in both]
        return {
            "consistency": rates,
            "consistency_mean": statistics.fmean(rates),
            "selected_index": [best for best, _ in extremes],
            "rejected_index": [worst for _, worst in extremes],
            "tau_strict_ties_zero": [kendall_tau(*one, ties="zero") for one in both],
        }
    policy = inputs.tensors("policy_chosen_logps", "policy_rejected_logps")
    reference = inputs.tensors("ref_chosen_logps", "ref_rejected_logps")
    beta, confidence = params["beta"], inputs.tensor("consistency")
    return {
        "losses": dpo_loss(*policy, *reference, beta=beta, label_smoothing=1 - confidence),
        "chosen_rewards": beta * (policy[0] - reference[0]),
        "rejected_rewards": beta * (policy[1] - reference[1]),
    }
