"""What prompts begin with, as far as it is known or shared, and the order in which the rest is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.generation.prefix_cache.store import Mark, PrefixCache, States

SIMILAR = 0.8
"""Prompts at least so long as the longest share its pass."""


@dataclass(frozen=True)
class Beginning:
    """The first tokens of a prompt: how many, and their states, layer by layer."""

    length: int = 0
    states: States = field(default_factory=list)

    def of(self, layer: int) -> tuple[Tensor, ...]:
        """Keys and values [H, N, D] of a layer; nothing where there are none."""
        return (self.states[layer] if self.states else None) or ()

    def cut(self, most: int) -> Beginning:
        """The first `most` tokens of them."""
        if self.length <= most:
            return self
        return Beginning(
            most, [one and (one[0][:, :most], one[1][:, :most]) for one in self.states] if most else []
        )


def found_beginnings(
    kept: tuple[PrefixCache, Mark] | None, prompts: Sequence[Sequence[int]]
) -> list[Beginning]:
    """Of each prompt the longest beginning that is kept."""
    if kept is None:
        return [Beginning()] * len(prompts)
    cache, mark = kept
    return [Beginning(*cache.find(mark, ids)) for ids in prompts]


def prefill_order(own: Sequence[int], found: Sequence[int]) -> list[int]:
    """Prompts by how many tokens are to be computed, the most first; as they come where nothing was found, since they then
    come by length.
    """
    places = range(len(own))
    return sorted(places, key=lambda one: -own[one]) if any(found) else [*places]


def shared_beginning(input_ids: Tensor, lengths: list[int], least: int, *, known: int = 0) -> int:
    """Tokens that all prompts [R, T], padded on the left, begin with; each keeps one of its own.

    Args:
        lengths: of the prompts.
        least: 0 where computing the beginning once spares fewer tokens.
        known: tokens of every prompt that need not be computed anyway.
    """
    if len(lengths) < 2:
        return 0
    width, most = input_ids.shape[1], min(lengths) - 1
    begun = torch.stack(
        [row[width - n : width - n + most] for row, n in zip(input_ids, lengths, strict=True)]
    )
    shared = int((begun == begun[0]).all(0).long().cumprod(0).sum())
    return shared if (shared - known) * (len(lengths) - 1) >= max(least, 1) else 0


def prefill_passes(lengths: list[int], tokens: int) -> list[tuple[int, int]]:
    """Runs [first, last) of neighbouring prompts to compute together, so that little of a pass is padding.

    Args:
        lengths: of the prompts, sorted or nearly so.
        tokens: a pass with fewer takes the next prompt whatever its length.
    """
    starts = [0]
    longest = shortest = lengths[0]
    for row, length in enumerate(lengths):
        low, high = min(shortest, length), max(longest, length)
        if low < SIMILAR * high and (row - starts[-1]) * longest >= tokens and row:
            starts.append(row)
            low = high = length
        longest, shortest = high, low
    return list(zip(starts, [*starts[1:], len(lengths)], strict=True))
