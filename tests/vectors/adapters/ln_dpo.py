"""LN-DPO and the objectives it is compared with. Losses are means over the pairs, RRHF's terms as the case says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from coalign.preference.ln_dpo import ln_dpo_loss
from coalign.training.losses.listwise import best_responses, ranking_hinge_loss
from coalign.training.losses.numerics import mean_logps
from coalign.training.losses.pairwise import (
    dpo_loss,
    hinge_ref_loss,
    log_odds_ratio,
    logistic_loss,
    orpo_loss,
    simpo_loss,
    slic_hf_loss,
)
from coalign.training.losses.supervised import nll_loss
from tests.vectors.autograd import gradients_of, tensors

POLICY = ("policy_chosen_logps", "policy_rejected_logps")


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    if params["objective"] == "rrhf":
        return _rrhf(inputs, params, expected)
    given = tensors(inputs, gradients=POLICY)
    policy = [given[name] for name in POLICY]
    reference = [given["ref_chosen_logps"], given["ref_rejected_logps"]]
    lengths = [given["chosen_lengths"], given["rejected_lengths"]]
    outputs: dict[str, Any] = {}
    match params["objective"]:
        case "ln_dpo":
            beta = params["beta"]
            losses = ln_dpo_loss(*policy, *reference, *lengths, beta=beta)
            for name, one, other, size in zip(
                ("chosen", "rejected"), policy, reference, lengths, strict=True
            ):
                outputs[f"rewards_{name}"] = beta * mean_logps(one - other, size)
        case "dpo":
            losses = dpo_loss(*policy, *reference, beta=params["beta"])
        case "hinge_ref":
            losses = hinge_ref_loss(*policy, *reference, beta=params["beta"])
        case "simpo":
            losses = simpo_loss(*policy, *lengths, beta=params["beta"], gamma=params["gamma"])
        case "orpo":
            assert params["nll_reduction"] == "sequence_mean"
            losses = orpo_loss(*policy, *lengths, odds_weight=params["lambda_"])
            outputs["log_odds_ratio"] = log_odds_ratio(*policy, *lengths)
            outputs["odds_ratio_losses"] = logistic_loss(outputs["log_odds_ratio"])
            outputs["sft_losses"] = nll_loss(policy[0], lengths[0], reduction="mean")
        case "slic_hf":
            losses = slic_hf_loss(*policy, delta=params["delta"], sft_weight=params["lambda_"])
            outputs["calibration_losses"] = slic_hf_loss(*policy, delta=params["delta"], sft_weight=0)
        case other:
            raise ValueError(f"objective {other!r}")
    return {
        **outputs,
        "losses": losses,
        "loss": losses.mean(),
        **gradients_of(losses.mean(), given, expected),
    }


def _rrhf(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    given = tensors(inputs, gradients=("group_sum_logps",))
    shape = given["group_sum_logps"].shape
    logps, lengths, rewards = (
        given[name].flatten() for name in ("group_sum_logps", "group_lengths", "rewards")
    )
    record_index = torch.arange(shape[0]).repeat_interleave(shape[1])
    scores = mean_logps(logps, lengths, params["length_penalty"])
    # The ranking term is summed over the batch; the likelihood term of the best is its mean, or the token mean.
    rank_loss = ranking_hinge_loss(scores, rewards, record_index).sum()
    best = best_responses(rewards, record_index)
    sft_loss = nll_loss(logps[best], lengths[best], reduction=params["sft_reduction"]).mean()
    loss = params["rank_weight"] * rank_loss + sft_loss
    return {
        "scores": scores.view(shape),
        "rank_loss": rank_loss,
        "sft_loss": sft_loss,
        "loss": loss,
        **gradients_of(loss, given, expected),
    }
