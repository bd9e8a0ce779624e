"""Domains of token sequences with transition matrices of their own and a part in common, and a bigram model that learns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from coalign.checks.tiny_models import seeded

VOCABULARY, DOMAINS = 24, 8
SHARED = 0.35
"""Weight of the common transition matrix in each domain's."""
WANTED = (0.6, 0.3, 0.1)
"""Shares of the first domains in the specific distribution."""


@dataclass(frozen=True)
class MarkovDomains:
    """Pairs of neighbouring tokens [N, 2] of every domain and of the specific distribution.

    Attributes:
        tokens: of each domain to train on.
        specific: tokens of the specific distribution to take gradients of.
        test: fresh tokens of it.
    """

    seed: int
    tokens: int = 200
    specific: int = 300
    test: int = 6000

    @cached_property
    def matrices(self) -> np.ndarray:
        """[DOMAINS, V, V] transition probabilities."""
        draw = np.random.default_rng([self.seed, 0])
        shared = draw.dirichlet(np.full(VOCABULARY, 0.15), VOCABULARY)
        own = draw.dirichlet(np.full(VOCABULARY, 0.12), (DOMAINS, VOCABULARY))
        return SHARED * shared + (1 - SHARED) * own

    @cached_property
    def domains(self) -> list[Tensor]:
        """By domain the pairs to train on."""
        return [self._pairs(place, self.tokens, 1) for place in range(DOMAINS)]

    @cached_property
    def wanted(self) -> Tensor:
        """Pairs of the specific distribution, for gradients."""
        return self._mixed(self.specific, 2)

    @cached_property
    def tested(self) -> Tensor:
        """Fresh pairs of the specific distribution."""
        return self._mixed(self.test, 3)

    def _mixed(self, count: int, purpose: int) -> Tensor:
        return torch.cat(
            [self._pairs(place, round(share * count), purpose) for place, share in enumerate(WANTED)]
        )

    def _pairs(self, domain: int, count: int, purpose: int) -> Tensor:
        """[count, 2] neighbours along one sequence of a domain."""
        draw = np.random.default_rng([self.seed, purpose, domain])
        ends = self.matrices[domain].cumsum(axis=1)
        tokens = [int(draw.integers(VOCABULARY))]
        for chance in draw.random(count):
            row = ends[tokens[-1]]
            tokens.append(min(int(np.searchsorted(row, chance * row[-1], side="right")), VOCABULARY - 1))
        return torch.tensor([tokens[:-1], tokens[1:]]).T.contiguous()


def bigram_model(seed: int) -> nn.Module:
    """Embedding 32, a layer of 64 with tanh, logits of the next token."""
    return seeded(
        lambda: nn.Sequential(
            nn.Embedding(VOCABULARY, 32), nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, VOCABULARY)
        ),
        seed,
    )


def pair_loss(model: nn.Module, pairs: Tensor) -> Tensor:
    """[] mean cross-entropy of the second tokens, nats."""
    return nn.functional.cross_entropy(model(pairs[:, 0]), pairs[:, 1])


def pair_gradient(model: nn.Module, pairs: Tensor) -> Sequence[Tensor]:
    """The gradient of `pair_loss` by all parameters."""
    return torch.autograd.grad(pair_loss(model, pairs), list(model.parameters()))
