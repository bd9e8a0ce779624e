"""Running mean and variance of a scalar over training, over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and population variance of everything seen. All zero at the start.

    Python floats, so the sums do not lose digits as a float32 buffer would, and the values go into JSON as they are.
    """

    mean: float = 0.0
    var: float = 0.0
    count: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> RunningMoments:
        """Moments of the values of all processes together; no gradient.

        Every process must call this, also one without values, wherever `torch.distributed` is initialised.

        Args:
            values: any shape; may be empty.
        """
        values = values.detach().flatten()
        values = values if values.device.type == "mps" else values.double()
        total, count = _all_sum(torch.stack([values.sum(), values.new_tensor(float(values.numel()))]))
        if count == 0:
            return cls()
        mean = total / count
        (squares,) = _all_sum(((values - mean) ** 2).sum()[None])
        return cls(mean, squares / count, count)

    def merge(self, other: RunningMoments) -> RunningMoments:
        """Moments of both together (Chan, Golub and LeVeque 1979): exact in any order."""
        count = self.count + other.count
        if count == 0:
            return self
        difference = other.mean - self.mean
        mean = self.mean + difference * other.count / count
        squares = self.var * self.count + other.var * other.count
        return RunningMoments(
            mean, (squares + difference**2 * self.count * other.count / count) / count, count
        )

    def state_dict(self, prefix: str = "") -> dict[str, float]:
        return {prefix + name: value for name, value in asdict(self).items()}

    @classmethod
    def from_state_dict(cls, values: Mapping[str, float], prefix: str = "") -> RunningMoments:
        return cls(*(float(values[prefix + name]) for name in ("mean", "var", "count")))


def _all_sum(values: Tensor) -> list[float]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values.tolist()
