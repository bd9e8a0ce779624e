"""PoFT: per-record scores from logits, losses, coefficients, gradients by scores and logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from coalign.preference.poft import poft_coefficients, poft_loss
from tests.vectors.autograd import gradients_of, tensors
from tests.vectors.logits import response_logps


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    given = tensors(inputs, "logits", "llm_mean_logps", gradients=["logits"])
    scores = response_logps(given["logits"], torch.tensor(inputs["labels"])).means()
    aligned = given["llm_mean_logps"].mean(1)
    constants = {"beta": params["beta"], "gamma": params["gamma"]}
    losses = poft_loss(scores, aligned, **constants)
    (by_scores,) = torch.autograd.grad(losses.mean(), [scores], retain_graph=True)
    return {
        "policy_mean_logps": scores,
        "losses": losses,
        "loss": losses.mean(),
        "coefficients": poft_coefficients(scores, aligned, **constants),
        "grad_policy_mean_logps": by_scores,
        **gradients_of(losses.mean(), given, [name for name in expected if name == "grad_logits"]),
    }
