"""iCT: curricula, grids of noise levels, scalings, pseudo-Huber distances and one whole loss with its gradient."""

from __future__ import annotations

from typing import Any

import torch

from coalign.vision.consistency.losses import Preconditioning, consistency_losses, pseudo_huber
from coalign.vision.consistency.schedules import (
    Noise,
    doubling_levels,
    square_root_levels,
    stage_length,
    teacher_decay,
)
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "K" in params:
        return _curriculum(inputs["k"], params)
    if "N" in inputs:
        return _grid(inputs, params)
    if "W" in inputs:
        return _loss(inputs, params)
    if "sigma" in inputs:
        model = Preconditioning(sigma_min=params["sigma_min"], sigma_data=params["sigma_data"])
        return dict(zip(("c_skip", "c_out", "c_in"), model.scalings(inputs.tensor("sigma")), strict=True))
    outputs = inputs.tensor("x").requires_grad_()
    constant = params["c"] if params["c_rule"] == "given" else None
    losses = pseudo_huber(outputs, inputs.tensor("y"), constant)
    (gradient,) = torch.autograd.grad(losses.sum(), [outputs])
    return {"per_sample": losses, "grad_x_of_sum": gradient}


def _curriculum(steps: list[int], params: dict[str, Any]) -> dict[str, Any]:
    given = params["K"], params["s0"], params["s1"]
    if "mu0" not in params:
        levels = [doubling_levels(step, *given) for step in steps]
        return {"K_prime": stage_length(*given), "N": levels}
    levels = [square_root_levels(step, *given) for step in steps]
    return {"N": levels, "mu": [teacher_decay(one, params["s0"], params["mu0"]) for one in levels]}


def _noise(params: dict[str, Any]) -> Noise:
    named = {"mean": params.get("P_mean", -1.1), "deviation": params.get("P_std", 2.0)}
    return Noise(sigma_min=params["sigma_min"], sigma_max=params["sigma_max"], rho=params["rho"], **named)


def _grid(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    noise = _noise(params)
    levels = noise.levels(inputs["N"])
    sigmas, chosen = levels.sigmas, inputs["index"]
    whole = len(chosen) == inputs["N"] - 1
    return {
        "sigma": sigmas if whole else sigmas[chosen],
        "sigma_next": sigmas[1:][chosen],
        "p": levels.probabilities[chosen],
        "weight": levels.weights[chosen],
        "p_sum": levels.probabilities.sum(),
        "E_log_sigma": (levels.probabilities * torch.tensor(sigmas).log().numpy()[:-1]).sum(),
    }


def _loss(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    levels = _noise(params).levels(params["N"])
    model = Preconditioning(sigma_min=params["sigma_min"], sigma_data=params["sigma_data"])
    weight, data, noise = (inputs.tensor(name) for name in ("W", "x", "z"))
    weight.requires_grad_()

    def network(scaled: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.cat([scaled, level[:, None]], 1) @ weight.T)

    chosen = inputs["index"]
    lower, upper, weights = (
        torch.tensor(one[chosen]) for one in (levels.sigmas[:-1], levels.sigmas[1:], levels.weights)
    )
    losses = consistency_losses(model, network, network, data, noise, lower, upper, weights)
    (gradient,) = torch.autograd.grad(losses.mean(), [weight])
    sides = [model.denoise(network, data + one[:, None] * noise, one).detach() for one in (upper, lower)]
    return {
        "student": sides[0],
        "teacher": sides[1],
        "weight": weights,
        "pseudo_huber": losses / weights,
        "loss": losses.mean(),
        "grad_W": gradient,
    }
