"""Points of eight Gaussians on a circle, and a small network of points and noise levels that is trained on them."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coalign.measures.media.distributions import sliced_wasserstein
from coalign.training.averages import WeightAverage
from coalign.vision.consistency.objective import ConsistencyObjective
from coalign.vision.consistency.sampling import consistency_samples

MODES, RADIUS, SPREAD = 8, 0.66, 0.05
WIDTH, LAYERS, FREQUENCIES = 128, 3, 4
TESTED = 4000


class PointNetwork(nn.Module):
    """A multi-layer perceptron over a point and the sines and cosines of `ln(sigma) / 4` at four frequencies."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [2 + 2 * FREQUENCIES, *[WIDTH] * LAYERS]
        hidden = [
            [nn.Linear(one, other), nn.ReLU(), *[nn.Dropout(dropout)] * (dropout > 0)]
            for one, other in itertools.pairwise(widths)
        ]
        self.layers = nn.Sequential(*[part for parts in hidden for part in parts], nn.Linear(WIDTH, 2))

    def forward(self, points: Tensor, level: Tensor) -> Tensor:
        """[B, 2] from points [B, 2] and levels [B]."""
        angles = level[:, None] * 2.0 ** torch.arange(FREQUENCIES)
        return self.layers(torch.cat([points, angles.sin(), angles.cos()], 1))


@dataclass(frozen=True)
class Ring:
    """What the arms of a seed share: the network's first weights, and the points that samples are held against."""

    seed: int
    network: PointNetwork
    test: Tensor


def ring(seed: int) -> Ring:
    """The material of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PointNetwork()
    return Ring(seed, network, ring_points(TESTED, torch.Generator().manual_seed(seed + 1_000_000)))


def ring_points(count: int, generator: torch.Generator) -> Tensor:
    """[count, 2] points of the mixture."""
    angles = torch.randint(MODES, (count,), generator=generator) * (2 * math.pi / MODES)
    centres = RADIUS * torch.stack([angles.cos(), angles.sin()], 1)
    return centres + SPREAD * torch.randn(count, 2, generator=generator)


def trained_on_ring(
    start: Ring,
    objective: ConsistencyObjective,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float = 1e-3,
    average: float = 0.999,
) -> PointNetwork:
    """The network with averaged weights after consistency training; every arm sees the same data and noise."""
    network = copy.deepcopy(start.network).train()
    optimizer = torch.optim.RAdam(network.parameters(), lr=learning_rate, foreach=True)
    averaged, teacher = WeightAverage(network, average), copy.deepcopy(network).requires_grad_(False)
    trailing = WeightAverage(teacher, objective.teacher)
    generator = torch.Generator().manual_seed(start.seed + 2_000_000)
    for step in range(steps):
        data = ring_points(batch_size, generator)
        noise = torch.randn(batch_size, 2, generator=generator)
        uniform = torch.rand(batch_size, generator=generator)
        target = teacher if objective.teacher else network
        losses = objective.losses(network, target, data, noise, uniform, step=step, steps=steps)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        averaged.update(network)
        if objective.teacher:
            trailing.update(network, objective.decay(step, steps))
            trailing.copy_to(teacher)
    averaged.copy_to(network)
    return network.eval()


def distances(
    start: Ring, objective: ConsistencyObjective, network: PointNetwork, second: float
) -> dict[str, float]:
    """Sliced Wasserstein-1 distance between samples and test points, of one step and of two (through level `second`)."""
    generator = torch.Generator().manual_seed(start.seed + 3_000_000)
    noises = [torch.randn(TESTED, 2, generator=generator) for _ in range(2)]
    largest = objective.noise.sigma_max
    found = {}
    for name, sigmas in (("one step", [largest]), ("two steps", [largest, second])):
        samples = consistency_samples(objective.model, network, sigmas, noises[: len(sigmas)])
        found[f"W1, {name}"] = sliced_wasserstein(samples.numpy(), start.test.numpy())
    return found
