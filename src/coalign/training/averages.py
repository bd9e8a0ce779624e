"""Moving averages of weights: what is sampled from and evaluated, beside the weights that are trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from coalign.core.files import atomic_path
from coalign.models.modules import unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of a module's weights, in float32, on their device: `a <- d a + (1 - d) w`.

    It begins at the weights that the module has now. Whole numbers among the buffers are copied as they are.

    Args:
        decay: d, in [0, 1); with 0 the average is the weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: _wide(one.detach().clone()) for name, one in _state(module).items()}

    def update(self, module: nn.Module, decay: float | None = None) -> None:
        """Take in the weights after an optimizer step, under another decay where one is given."""
        decay = self.decay if decay is None else decay
        for name, one in _state(module).items():
            kept = self.weights[name]
            if kept.device != one.device:  # the module was moved since
                kept = self.weights[name] = kept.to(one.device)
            if one.is_floating_point():
                kept.lerp_(one.detach().to(kept.dtype), 1 - decay)
            else:
                kept.copy_(one)

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Inside the block the module has the averaged weights."""
        before = {name: one.detach().clone() for name, one in _state(module).items()}
        self.copy_to(module)
        try:
            yield
        finally:
            _load(module, before)

    def copy_to(self, module: nn.Module) -> None:
        """Give the module the averaged weights."""
        _load(module, self.weights)

    def save(self, path: Path) -> None:
        """Write the average as safetensors."""
        from safetensors.torch import save_file

        with atomic_path(path) as temporary:
            save_file({name: one.contiguous() for name, one in self.weights.items()}, temporary)

    def load(self, path: Path) -> None:
        """Take over what `save` wrote, for a training that is continued."""
        from safetensors.torch import load_file

        for name, one in load_file(path).items():
            self.weights[name] = one.to(self.weights[name].device)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return unwrap(module).state_dict()


def _wide(weights: Tensor) -> Tensor:
    narrow = weights.is_floating_point() and weights.dtype.itemsize < 4
    return weights.float() if narrow else weights


def _load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, one in _state(module).items():
            one.copy_(weights[name])
