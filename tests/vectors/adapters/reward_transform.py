"""The log-sigmoid transform, its reference, its sum over properties, and the policy that a utility leads to."""

from __future__ import annotations

from typing import Any

import numpy as np

from coalign.measures.reward_transforms import (
    joint_log_sigmoid,
    log_sigmoid_centred,
    log_sigmoid_slope,
    reference_quantile,
)
from coalign.measures.win_rates import tilted
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "lsc":
            given = inputs["reward"], inputs["reference"]
            return {"utility": log_sigmoid_centred(*given), "grad_reward": log_sigmoid_slope(*given)}
        case "reference_quantile":
            base, q = inputs["base_rewards"], params["q"]
            return {
                "empirical": reference_quantile(base, q, method="empirical"),
                "gaussian": reference_quantile(base, q, method="gaussian"),
            }
        case "aggregate":
            rewards, references = np.array(inputs["rewards"]), np.array(inputs["references"])
            weights = np.array(inputs["weights"])
            return {
                "sum_of_utilities": joint_log_sigmoid(rewards, references, weights),
                "prob_all_good": np.exp(joint_log_sigmoid(rewards, references)),
                "baseline_weighted_sum": rewards @ weights,
                "grad_rewards": weights * log_sigmoid_slope(rewards, references),
            }
        case "optimal_policy":
            policy, kl = tilted(inputs["base_probs"], inputs["utility"], params["gamma"])
            return {"policy_probs": policy, "kl": kl, "expected_utility": policy @ inputs["utility"]}
        case other:
            raise ValueError(f"op {other!r}")
