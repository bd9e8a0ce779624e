"""ASFT: per-record losses, both terms, log-odds, gradients by the sums."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coalign.preference.asft import asft_align_loss, asft_loss
from coalign.training.losses.numerics import log_odds, mean_logps
from coalign.training.losses.supervised import nll_loss
from tests.vectors.autograd import gradients_of, tensors

POLICY = ("policy_chosen_logps", "policy_rejected_logps")


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    given = tensors(inputs, gradients=POLICY)
    policy = [given[name] for name in POLICY]
    lengths = [given["chosen_lengths"], given["rejected_lengths"]]
    losses = asft_loss(*policy, *lengths, align_weight=params["lambda_"], beta=params["beta"])
    return {
        "losses": losses,
        "loss": losses.mean(),
        "sft_losses": nll_loss(policy[0], lengths[0], reduction="mean"),
        "align_losses": asft_align_loss(*policy, *lengths, beta=params["beta"]),
        "log_odds_chosen": log_odds(mean_logps(policy[0], lengths[0])),
        "log_odds_rejected": log_odds(mean_logps(policy[1], lengths[1])),
        **gradients_of(losses.mean(), given, expected),
    }
