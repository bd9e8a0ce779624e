"""Sampling from a consistency model: in one step, or in several with noise between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from coalign.vision.consistency.losses import Network, Preconditioning

if TYPE_CHECKING:
    from torch import Tensor


def consistency_samples(
    model: Preconditioning, network: Network, sigmas: Sequence[float], noises: Sequence[Tensor]
) -> Tensor:
    """[B, ...] samples: `f(s_0 z_0, s_0)`, then for every further level s `f(x + sqrt(s^2 - s_min^2) z, s)` (consistency
    models, algorithm 1). No gradient.

    Args:
        sigmas: levels in descending order; the first is the largest of the training.
        noises: for each level z [B, ...], standard normal.

    Raises:
        ValueError: a level is not below the one before it, or below the smallest of the training.
    """
    if any(later >= earlier for earlier, later in itertools.pairwise(sigmas)):
        raise ValueError(
            f"the noise levels {', '.join(f'{one:g}' for one in sigmas)} are not in descending order"
        )
    if sigmas[-1] <= model.sigma_min:
        raise ValueError(f"the noise level {sigmas[-1]:g} is not above the smallest, {model.sigma_min:g}")
    found = torch.zeros_like(noises[0])
    with torch.no_grad():
        for number, (sigma, noise) in enumerate(zip(sigmas, noises, strict=True)):
            spread = sigma if number == 0 else (sigma**2 - model.sigma_min**2) ** 0.5
            levels = torch.full((len(noise),), sigma, dtype=noise.dtype, device=noise.device)
            found = model.denoise(network, found + spread * noise, levels)
    return found


def noise_batches(
    shape: Sequence[int], count: int, levels: int, seed: int, batch_size: int
) -> Iterator[tuple[range, list[Tensor]]]:
    """The numbers of samples in batches, and for each level their noise; sample k draws from a stream of its own, so that
    it does not depend on the batches.
    """
    for first in range(0, count, batch_size):
        numbers = range(first, min(first + batch_size, count))
        streams = [torch.Generator().manual_seed(seed * 1_000_003 + number) for number in numbers]
        yield (
            numbers,
            [torch.stack([torch.randn(*shape, generator=one) for one in streams]) for _ in range(levels)],
        )


def sampled(
    model: Preconditioning,
    network_of: Callable[[range], Network],
    sigmas: Sequence[float],
    shape: Sequence[int],
    count: int,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """[count, *shape] samples on the CPU.

    Args:
        network_of: the network for samples of these numbers (their classes).
    """
    parts = [
        consistency_samples(model, network_of(numbers), sigmas, [one.to(device) for one in noises]).cpu()
        for numbers, noises in noise_batches(shape, count, len(sigmas), seed, batch_size)
    ]
    return torch.cat(parts)
