"""The consistency model around a network, and the loss of consistency training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from coalign.core.errors import ConfigError
from coalign.core.own_code import load_code, names_code

if TYPE_CHECKING:
    from torch import Tensor

Network: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""From scaled noisy data [B, ...] and `ln(sigma) / 4` [B] to an output of the data's shape."""
Distance: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""From student and teacher outputs [B, ...] to one number a sample [B]."""
Reduction = Literal["sample", "elementwise"]
HUBER_CONSTANT = 0.00054
"""The constant of the pseudo-Huber distance is this times the root of the elements of a sample. Source: iCT, section 3.3."""


@dataclass(frozen=True, kw_only=True)
class Preconditioning:
    """The consistency model `f(x, s) = c_skip(s) x + c_out(s) F(c_in(s) x, ln(s) / 4)` around a network F.

    `c_skip = d^2 / ((s - s_min)^2 + d^2)`, `c_out = d (s - s_min) / sqrt(d^2 + s^2)`, `c_in = 1 / sqrt(d^2 + s^2)`, so
    that f(x, s_min) = x (consistency models, appendix C).

    Attributes:
        sigma_min: s_min, the smallest noise level.
        sigma_data: d, the standard deviation of the data.
    """

    sigma_min: float = 0.002
    sigma_data: float = 0.5

    def scalings(self, sigmas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in, each in the shape of `sigmas`."""
        spread = (sigmas.square() + self.sigma_data**2).sqrt()
        gap = sigmas - self.sigma_min
        skip = self.sigma_data**2 / (gap.square() + self.sigma_data**2)
        return skip, self.sigma_data * gap / spread, 1 / spread

    def denoise(self, network: Network, noisy: Tensor, sigmas: Tensor) -> Tensor:
        """f(noisy, sigmas), in float32 at least.

        Args:
            noisy: [B, ...] data with noise of the deviations `sigmas` [B].
        """
        skip, out, scale = (one.reshape(-1, *[1] * (noisy.ndim - 1)) for one in self.scalings(sigmas))
        found = network(scale * noisy, sigmas.log() / 4)
        return skip * noisy + out * (found.float() if found.dtype.itemsize < 4 else found)


def pseudo_huber(outputs: Tensor, targets: Tensor, constant: float | None = None) -> Tensor:
    """[B] `sqrt(||a - b||^2 + c^2) - c`, the norm over all elements of a sample (iCT, section 3.3).

    The gradient `(a - b) / sqrt(||a - b||^2 + c^2)` is no longer than 1.

    Args:
        outputs, targets: [B, ...], of the same shape.
        constant: c; by default 0.00054 times the root of the elements of a sample.
    """
    c = HUBER_CONSTANT * outputs[0].numel() ** 0.5 if constant is None else constant
    squares = squared_distance(outputs, targets)
    root = (squares + c * c).sqrt()
    return squares / (root + c)  # sqrt(s + c^2) - c without cancellation


def elementwise_pseudo_huber(outputs: Tensor, targets: Tensor, constant: float | None = None) -> Tensor:
    """[B] mean over a sample's elements of `sqrt((a - b)^2 + c^2) - c`, c as in `pseudo_huber`: another loss, which a
    public re-implementation has (Kinyugo/consistency_models).
    """
    c = HUBER_CONSTANT * outputs[0].numel() ** 0.5 if constant is None else constant
    squares = (outputs - targets).square().flatten(1)
    return (squares / ((squares + c * c).sqrt() + c)).mean(1)


def squared_distance(outputs: Tensor, targets: Tensor) -> Tensor:
    """[B] `||a - b||^2`, summed over the elements of a sample."""
    return (outputs - targets).square().flatten(1).sum(1)


def get_distance(name: str, constant: float | None = None, reduction: Reduction = "sample") -> Distance:
    """A distance by name.

    Args:
        name: `pseudo-huber`, `squared`, or `file.py:function` of your own: from outputs and targets [B, ...] to [B].
        constant, reduction: of the pseudo-Huber distance.

    Raises:
        ConfigError: an unknown name, or code that cannot be loaded.
    """
    if name == "pseudo-huber":
        chosen = pseudo_huber if reduction == "sample" else elementwise_pseudo_huber
        return lambda outputs, targets: chosen(outputs, targets, constant)
    if name == "squared":
        return squared_distance
    if names_code(name):
        return load_code(name, "distance")
    raise ConfigError(
        f"distance: {name!r} is unknown, expected pseudo-huber, squared or the file.py:function of your own"
    )


def consistency_losses(
    model: Preconditioning,
    student: Network,
    teacher: Network,
    data: Tensor,
    noise: Tensor,
    sigmas: Tensor,
    next_sigmas: Tensor,
    weights: Tensor,
    distance: Distance = pseudo_huber,
) -> Tensor:
    """[B] `lambda d(f_student(x + s' z, s'), f_teacher(x + s z, s))`: outputs for the same data under the same noise, at
    two neighbouring levels s < s' (consistency models, equation 10; iCT, equation 4).

    No gradient reaches the teacher. Both sides see the same dropout mask: the state of the random numbers before the
    student's pass is put back for the teacher's.

    Args:
        student, teacher: networks F; the same one for a teacher without moving average.
        data, noise: [B, ...], float32 at least: the weights of small levels are large.
        sigmas, next_sigmas, weights: [B] s, s' and lambda.
    """
    spread = [1] * (data.ndim - 1)
    again = random_state(data.device)
    outputs = model.denoise(student, data + next_sigmas.reshape(-1, *spread) * noise, next_sigmas)
    with torch.no_grad(), again():
        targets = model.denoise(teacher, data + sigmas.reshape(-1, *spread) * noise, sigmas)
    return weights * distance(outputs, targets)


def random_state(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """The state of random numbers as it is now: inside the block that the result opens they are drawn from it again, and
    afterwards go on as if the block had not been.
    """
    kind = torch.get_device_module(device) if device.type in ("cuda", "mps") else None
    cpu, own = torch.get_rng_state(), kind.get_rng_state() if kind else None

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        before, own_before = torch.get_rng_state(), kind.get_rng_state() if kind else None
        torch.set_rng_state(cpu)
        if kind:
            kind.set_rng_state(own)
        try:
            yield
        finally:
            torch.set_rng_state(before)
            if kind:
                kind.set_rng_state(own_before)

    return again
