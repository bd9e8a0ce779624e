"""AFT on one binary group a case."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from coalign.preference.aft import Constraint, aft_loss
from tests.vectors.autograd import gradients_of, tensors

CONSTRAINTS: dict[str, Constraint] = {"align": "none", "dc": "detached", "bc": "boundary"}


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    given = tensors(inputs, gradients=("positive_scores", "negative_scores"))
    positive, negative = given["positive_scores"], given["negative_scores"]
    values = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]).detach()
    loss = aft_loss(
        torch.cat([positive, negative]),
        values,
        torch.zeros(len(values), dtype=torch.long),
        constraint=CONSTRAINTS[params["variant"]],
        beta=params["beta"],
    ).squeeze(0)
    return {"loss": loss, **gradients_of(loss, given, expected)}
