"""The inputs of a case, raw and as float64 tensors, and the gradients that it expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class Given(dict[str, Any]):
    """Inputs by name.

    Args:
        inputs: as the file has them.
        expected: names of outputs; the loss is differentiated by the tensor `x` where `grad_x` is among them.
    """

    def __init__(self, inputs: Mapping[str, Any], expected: Iterable[str]) -> None:
        super().__init__(inputs)
        self._expected = set(expected)
        self._made: dict[str, Tensor] = {}

    def tensor(self, name: str) -> Tensor:
        """An input as a float64 tensor, the same one every time."""
        if name not in self._made:
            wanted = f"grad_{name}" in self._expected
            self._made[name] = torch.tensor(self[name], dtype=torch.float64, requires_grad=wanted)
        return self._made[name]

    def tensors(self, *names: str) -> list[Tensor]:
        return [self.tensor(name) for name in names]

    def completed(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """`outputs` with `loss`, the mean of `losses` if it is not there, and its gradients by the inputs.

        An input that the loss does not depend on has gradient 0.
        """
        if "losses" in outputs:
            outputs = {"loss": outputs["losses"].mean(), **outputs}
        names = [name for name in self if f"grad_{name}" in self._expected - outputs.keys()]
        by = self.tensors(*names)
        if by and outputs["loss"].requires_grad:
            by = torch.autograd.grad(outputs["loss"], by, allow_unused=True, materialize_grads=True)
        else:
            by = [torch.zeros_like(one) for one in by]
        return {**outputs, **{f"grad_{name}": one for name, one in zip(names, by, strict=True)}}
