"""SPA: the refined loss, the threshold of doubt, logits that go on past the model, and the model's own labels."""

from __future__ import annotations

from typing import Any

import torch

from coalign.loops.scoring import best_and_worst
from coalign.models.scoring.extrapolation import extrapolated_logits
from coalign.models.types import ResponseLogps
from coalign.training.losses.self_refinement import (
    Constants,
    RecentMargins,
    doubt_threshold,
    self_refinement,
)
from coalign.training.objective import ScoredBatch
from tests.vectors.given import Given

SIDES = ("chosen", "rejected")


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "last_50_batch_margins" in inputs:
        return {"margin_threshold": doubt_threshold(inputs["last_50_batch_margins"], params["K_fraction"])}
    if "policy_logits" in inputs:
        mixed = extrapolated_logits(*inputs.tensors("policy_logits", "ref_logits"), params["lambda"])
        labels = inputs.tensor("labels").long()[..., None]
        tokens = mixed.log_softmax(-1).gather(-1, labels).squeeze(-1)
        return {"extrapolated_seq_logps": (tokens * inputs.tensor("mask")).sum(-1)}
    if "sft_seq_logps" in inputs:
        policy, first = inputs.tensors("policy_seq_logps", "sft_seq_logps")
        rewards = policy - first
        places = [best_and_worst(row) or (0, 0) for row in rewards.tolist()]
        return {
            "reward": rewards,
            "p_first_over_second": torch.sigmoid(params["beta"] * (rewards[:, 0] - rewards[:, 1])),
            "chosen_index": [one for one, _ in places],
            "rejected_index": [one for _, one in places],
        }
    return _loss(inputs, params)


def _loss(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    """The objective itself, on responses of one token each."""
    policy, reference, mixed = (
        torch.stack(inputs.tensors(*(f"{of}_{side}_logps" for side in SIDES)), dim=1).flatten()
        for of in ("policy", "ref", "mix")
    )
    ones = torch.ones(len(policy), dtype=torch.long)
    pairs = torch.arange(len(policy) // 2).repeat_interleave(2)
    state = RecentMargins()
    state.threshold = params["margin_threshold"]
    batch = ScoredBatch(
        policy=ResponseLogps(policy, ones, pairs),
        reference=ResponseLogps(reference, ones, pairs),
        record_index=pairs,
        values=1.0 - torch.arange(len(policy)) % 2,
        state=state,
        extrapolated=ResponseLogps(mixed, ones, pairs),
        progress=params["global_step"] / params["max_steps"],
    )
    found = self_refinement(batch, Constants(beta=params["beta"], label_smoothing=params["alpha"]))
    return {
        "losses": found.losses,
        "chosen_rewards": found.metrics["rewards/chosen"],
        "rejected_rewards": found.metrics["rewards/rejected"],
        "mix_margin": found.metrics["rewards/judged_margins"],
        "is_confident": (found.metrics["doubtful"] == 0).tolist(),
    }
