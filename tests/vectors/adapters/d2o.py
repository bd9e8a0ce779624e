"""D2O: dense [R, K] self-samples beside [R] negatives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coalign.preference.d2o import d2o_loss, d2o_margins
from tests.vectors.autograd import gradients_of, tensors

POLICY = ("policy_sample_logps", "policy_negative_logps")


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    given = tensors(inputs, gradients=POLICY)
    anchors = (given["policy_sample_logps"] - given["ref_sample_logps"]).mean(1)
    negatives = given["policy_negative_logps"] - given["ref_negative_logps"]
    constants = {"alpha": params["alpha"], "beta": params["beta"]}
    losses = d2o_loss(anchors, negatives, **constants)
    return {
        "losses": losses,
        "loss": losses.mean(),
        "margin": d2o_margins(anchors, negatives, **constants),
        **gradients_of(losses.mean(), given, expected),
    }
