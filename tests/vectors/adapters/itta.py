"""Agreement of gradients, consistency through elementwise layers, adaptive maps, views in another style."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coalign.vision.domains.styles import (
    alignment_penalty,
    consistency_losses,
    elementwise,
    mix_styles,
    style_of,
)
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match inputs["kind"]:
        case "alignment_penalty":
            regularised, main = (_tensors(inputs[name]) for name in ("grad_reg", "grad_main"))
            penalty = alignment_penalty(
                list(regularised.values()), list(main.values()), weight=params["weight"]
            )
            slopes = torch.autograd.grad(penalty, list(regularised.values()))
            return {
                "penalty": penalty,
                "d_penalty_d_grad_reg": dict(zip(regularised, slopes, strict=True)),
            }
        case "consistency":
            mixed, plain, weights, biases = inputs.tensors("z_aug", "z_ori", "weight", "bias")
            weights = weights.clone().requires_grad_()
            losses = consistency_losses(plain, mixed, weights, biases)
            (by_weight,) = torch.autograd.grad(losses.mean(), weights, retain_graph=True)
            return inputs.completed(
                {
                    "losses": losses,
                    "fw": elementwise(mixed - plain, weights, biases),
                    "grad_weight_0": by_weight[0],
                }
            )
        case "mapping":
            return {"y": elementwise(*inputs.tensors("x", "weight", "bias"))}
        case kind:
            assert kind == "mixstyle"
            maps, shares = inputs.tensors("x", "lam")
            return {
                "y": mix_styles(
                    maps, style_of(maps, eps=params["eps"]).take(inputs["perm"]), shares, eps=params["eps"]
                )
            }


def _tensors(values: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()
    }
