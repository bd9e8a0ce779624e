"""Records by domain, and which of them come next: domains are drawn by their weights, rows without repeats in a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.training.batches import Example

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Pool:
    """Training examples of K domains; an example's tag is its domain.

    Attributes:
        names: of the domains, in the order of their weights.
    """

    names: Sequence[str]
    examples: Sequence[Example]

    @cached_property
    def rows(self) -> list[NDArray[np.intp]]:
        """By domain the places of its examples."""
        place = {name: number for number, name in enumerate(self.names)}
        owners = np.array([place[one.tag] for one in self.examples], dtype=np.intp)
        order = np.argsort(owners, kind="stable")
        return np.split(order, np.searchsorted(owners[order], np.arange(1, len(self.names))))

    @property
    def sizes(self) -> list[int]:
        """Examples of each domain."""
        return [len(one) for one in self.rows]

    def sample(self, weights: NDArray[np.float64], count: int, draw: np.random.Generator) -> list[Example]:
        """Examples for a gradient: for each a domain by its weight, then one of its rows; no row twice before all were
        drawn. Of a single domain with fewer rows than asked for, each once.
        """
        domains, counts = np.unique(_drawn(weights, count, draw), return_counts=True)
        if len(domains) == 1:
            counts = np.minimum(counts, len(self.rows[domains[0]]))
        found: list[int] = []
        for domain, wanted in zip(domains, counts, strict=True):
            passes = -(-wanted // len(self.rows[domain]))
            order = [draw.permutation(self.rows[domain]) for _ in range(passes)]
            found += np.concatenate(order)[:wanted].tolist()
        return [self.examples[row] for row in found]


class Drawing:
    """Which examples the training takes next, by weights that change from step to step.

    What step t takes depends on the seed, t, the weights at its beginning and on how often each domain was drawn before, so
    that a training goes on from `counts` as if it had not stopped.

    Attributes:
        counts: [K] examples drawn of each domain so far.
    """

    def __init__(self, pool: Pool, seed: int, per_step: int) -> None:
        self.pool, self.seed, self.per_step = pool, seed, per_step
        self.counts = np.zeros(len(pool.names), dtype=np.int64)
        self._step: tuple[int, list[int]] = (-1, [])
        self._orders: dict[int, tuple[int, NDArray[np.intp]]] = {}

    def rows(self, slots: Sequence[int], weights: NDArray[np.float64]) -> list[int]:
        """The examples at places of the whole order, all of one step, `per_step` places a step.

        Args:
            weights: [K] of the domains, as they are when the step begins.
        """
        step = slots[0] // self.per_step
        if self._step[0] != step:
            draw = np.random.default_rng([self.seed, step])
            self._step = (step, [self._next(domain) for domain in _drawn(weights, self.per_step, draw)])
        return [self._step[1][slot % self.per_step] for slot in slots]

    def _next(self, domain: int) -> int:
        """The next row of a domain: each once in a pass, in an order of the pass's own."""
        rows = self.pool.rows[domain]
        done, place = divmod(int(self.counts[domain]), len(rows))
        if domain not in self._orders or self._orders[domain][0] != done:
            draw = np.random.default_rng([self.seed, domain, done, 1])
            self._orders[domain] = (done, draw.permutation(rows))
        self.counts[domain] += 1
        return int(self._orders[domain][1][place])


def _drawn(weights: NDArray[np.float64], count: int, draw: np.random.Generator) -> list[Any]:
    """Domains, each by its weight; one of weight 0 never."""
    possible = np.flatnonzero(weights > 0)
    ends = np.cumsum(weights[possible])
    places = np.searchsorted(ends, draw.random(count) * ends[-1], side="right")
    return possible[places.clip(max=len(possible) - 1)].tolist()
