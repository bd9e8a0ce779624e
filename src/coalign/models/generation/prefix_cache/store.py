"""States of the tokens of earlier prompts, in blocks that prompts with the same beginning share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    States = list[tuple[Tensor, Tensor] | None]
    """Of each layer the keys and values [H, N, D] of N tokens; None of a layer that uses another one's."""

BLOCK = 16
"""Tokens of a block: what is found of a prompt ends with a whole one."""


@dataclass(frozen=True)
class Mark:
    """What computes states: those of one mark are no others'.

    Attributes:
        weights: changes with any weight of the model. Only one value is kept: what others computed is dropped.
        path: adapters that are switched on, how the products are made. States of several are kept beside each other.
    """

    weights: Hashable
    path: Hashable


@dataclass
class _Block:
    """States of `BLOCK` tokens, all layers side by side [BLOCK, F]; `serial` is what blocks that follow it name it by."""

    serial: int
    states: Tensor

    @property
    def bytes(self) -> int:
        return self.states.numel() * self.states.element_size()


class PrefixCache:
    """States by mark and tokens. What was used longest ago is dropped first, the end of a prompt before its beginning.

    Args:
        most_bytes: that the states may take.

    Attributes:
        bytes: that they take.
        lookups, hits: prompts that were looked up, and those of which a beginning was found.
        tokens: that were found.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = self.lookups = self.hits = self.tokens = 0
        self._blocks: OrderedDict[Hashable, _Block] = OrderedDict()
        self._layouts: dict[Hashable, list[tuple[int, int] | None]] = {}
        self._weights: Hashable = None
        self._serials = count()

    def find(self, mark: Mark, ids: Sequence[int]) -> tuple[int, States]:
        """The longest beginning of a prompt whose states are kept: how many tokens, one at least fewer than the prompt has,
        and their states, which are copies.
        """
        self._drop_others(mark)
        found = self._chain(mark, ids[:-1])
        self.lookups += 1
        if not found:
            return 0, []
        self.hits += 1
        self.tokens += len(found) * BLOCK
        return len(found) * BLOCK, self._unpacked(mark.path, torch.cat([one.states for one in found]))

    def keep(self, mark: Mark, ids: Sequence[int], states: Callable[[int, int], States]) -> None:
        """Keep the states of a prompt, as far as they fit and are not there.

        Args:
            states: those of the tokens from a place up to another one.
        """
        self._drop_others(mark)
        known, whole = len(self._chain(mark, ids)), len(ids) // BLOCK
        if known == whole:
            return
        packed = self._packed(mark.path, states(known * BLOCK, whole * BLOCK))
        fits = self.most_bytes // (packed[:BLOCK].numel() * packed.element_size())
        place: Hashable = mark.path
        for number, key in enumerate(_keys(ids)[:fits]):
            if number >= known:
                start = (number - known) * BLOCK
                block = _Block(next(self._serials), packed[start : start + BLOCK].clone())
                self._blocks[place, key] = block
                self.bytes += block.bytes
            place = self._blocks[place, key].serial
        self._chain(mark, ids)
        while self.bytes > self.most_bytes:
            self.bytes -= self._blocks.popitem(last=False)[1].bytes

    def clear(self) -> None:
        """Forget all states."""
        self._blocks.clear()
        self._layouts.clear()
        self.bytes = 0

    def _drop_others(self, mark: Mark) -> None:
        if mark.weights != self._weights:
            self.clear()
            self._weights = mark.weights

    def _chain(self, mark: Mark, ids: Sequence[int]) -> list[_Block]:
        """The blocks that are there of a prompt, the first of which are from now on the last to be dropped."""
        found, keys, place = [], [], mark.path
        for key in _keys(ids):
            block = self._blocks.get((place, key))
            if block is None:
                break
            found.append(block)
            keys.append((place, key))
            place = block.serial
        for one in reversed(keys):
            self._blocks.move_to_end(one)
        return found

    def _packed(self, path: Hashable, states: States) -> Tensor:
        """[N, F]; the shapes of the layers are remembered."""
        self._layouts[path] = [None if one is None else (one[0].shape[0], one[0].shape[2]) for one in states]
        parts = [part.transpose(0, 1).flatten(1) for one in states if one is not None for part in one]
        return torch.cat(parts, dim=1)

    def _unpacked(self, path: Hashable, packed: Tensor) -> States:
        states: States = []
        start = 0
        for shape in self._layouts[path]:
            if shape is None:
                states.append(None)
                continue
            heads, size = shape
            keys, values = (
                packed[:, first : first + heads * size].unflatten(1, (heads, size)).transpose(0, 1)
                for first in (start, start + heads * size)
            )
            states.append((keys, values))
            start += 2 * heads * size
        return states


def _keys(ids: Sequence[int]) -> list[tuple[int, ...]]:
    """The tokens of whole blocks."""
    return [tuple(ids[start : start + BLOCK]) for start in range(0, len(ids) // BLOCK * BLOCK, BLOCK)]
