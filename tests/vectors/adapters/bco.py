"""BCO: losses in input order, their mean, rewards, the shift before or after a running update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coalign.preference.bco import bco_loss
from coalign.training.losses.density_ratio import density_ratios
from coalign.training.losses.reward_shift import implicit_rewards
from coalign.training.losses.running_moments import RunningMoments
from tests.vectors.autograd import gradients_of, tensors


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    given = tensors(inputs, gradients=["policy_logps"])
    rewards = implicit_rewards(given["policy_logps"], given["ref_logps"], beta=params["beta"])
    weights = None
    if "prob_desirable" in given:
        weights = density_ratios(
            given["prob_desirable"], minimum=params["min_density_ratio"], maximum=params["max_density_ratio"]
        )
    outputs: dict[str, Any] = {}
    delta = params.get("delta")
    if delta is None:
        before = RunningMoments.from_state_dict(params["running_before"])
        after = before.merge(RunningMoments.of(rewards))
        delta, outputs["running_after"] = after.mean, after.state_dict()
    losses = bco_loss(rewards, given["labels"], delta, weights)
    return {
        **outputs,
        "losses": losses,
        "loss": losses.mean(),
        "rewards": rewards,
        "delta": delta,
        **gradients_of(losses.mean(), given, expected),
    }
