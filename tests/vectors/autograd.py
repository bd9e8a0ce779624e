"""What adapters share: float64 tensors and gradients by input name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def tensors(inputs: Mapping[str, Any], *names: str, gradients: Iterable[str] = ()) -> dict[str, Tensor]:
    """The named inputs as float64 tensors (all inputs when none is named); `gradients` names those to differentiate by."""
    wanted = set(gradients)
    return {
        name: torch.tensor(inputs[name], dtype=torch.float64, requires_grad=name in wanted)
        for name in names or inputs
    }


def gradients_of(loss: Tensor, by: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """`grad_<name>` of every expected gradient; an input that the loss does not depend on has gradient 0."""
    names = [name for name in by if f"grad_{name}" in set(expected)]
    if not names:
        return {}
    if not loss.requires_grad:
        return {f"grad_{name}": torch.zeros_like(by[name]) for name in names}
    found = torch.autograd.grad(loss, [by[name] for name in names], allow_unused=True, materialize_grads=True)
    return {f"grad_{name}": gradient for name, gradient in zip(names, found, strict=True)}
