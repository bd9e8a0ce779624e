"""Keys and values of rows in memory reserved ahead: written in place, read by one product a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

RESERVE = 64
"""Places that are reserved at a time."""


@dataclass(frozen=True)
class Shape:
    """Layers, heads of keys, coordinates of a head and number format of what is kept."""

    layers: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype


class KeptRows:
    """Keys and values [R, K, reserved, D] of rows that are padded on the left, a pair a layer.

    Args:
        shape: what is kept of a token.
        padding: [R] places of padding that each row begins with.
        length: places in use; what they hold is written later.

    Attributes:
        length: places in use. The next token of every row goes to this place.
    """

    def __init__(self, shape: Shape, padding: Tensor, length: int = 0) -> None:
        self.shape, self.padding, self.length = shape, padding, length
        self._padded = int(padding.max())
        self._bias = self._hidden()
        size = (len(padding), shape.kv_heads, length + RESERVE, shape.head_size)
        # padding must hold numbers, since 0 * NaN is not 0
        make = torch.zeros if self._padded else torch.empty
        self.layers = [
            (make(size, dtype=shape.dtype), make(size, dtype=shape.dtype)) for _ in range(shape.layers)
        ]

    @property
    def rows(self) -> int:
        return len(self.padding)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a token [R, K, D] of every row to the next place. Returns all [R K, length + 1, D]; `grow` counts it."""
        self._reserve(layer)
        end = self.length + 1
        found = []
        for store, new in zip(self.layers[layer], (keys, values), strict=True):
            store[:, :, self.length] = new
            found.append(store.flatten(0, 1)[:, :end])
        return found[0], found[1]

    def reserve(self) -> None:
        """Make room for the next token of every row, in all layers."""
        for layer in range(len(self.layers)):
            self._reserve(layer)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """[R K, length, D] keys and values."""
        keys, values = (store.flatten(0, 1)[:, : self.length] for store in self.layers[layer])
        return keys, values

    def of(self, row: int, first: int, last: int) -> list[tuple[Tensor, Tensor]]:
        """Of each layer the keys and values [K, N, D] of a row at places from `first` up to `last`."""
        return [(keys[row, :, first:last], values[row, :, first:last]) for keys, values in self.layers]

    def hide(self, scores: Tensor) -> Tensor:
        """`scores` [R K, Q, length] with those of padding taken out of the softmax, in place."""
        if self._bias is not None:
            scores[..., : self._padded] += self._bias
        return scores

    def grow(self) -> None:
        """Count the token that every layer has written."""
        self.length += 1

    def select(self, index: Tensor) -> None:
        """Row i becomes row `index[i]`."""
        for number, (keys, values) in enumerate(self.layers):
            self.layers[number] = (keys[index], values[index])
        self.padding = self.padding[index]
        self._padded = int(self.padding.max())
        self._bias = self._hidden()

    def take(self, rows: slice, end: int, other: KeptRows, owner: Tensor, count: int) -> None:
        """Rows `rows` hold, up to place `end`, the last `count` places of rows `owner` of another one."""
        places = slice(other.length - count, other.length)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            for store, source in zip(mine, theirs, strict=True):
                store[rows, :, end - count : end] = source[:, :, places][owner]

    def _hidden(self) -> Tensor | None:
        """[R K, 1, places that some row pads] 0, and a large negative number at padding; None where nothing is padding."""
        if not self._padded:
            return None
        padding = torch.arange(self._padded) < self.padding[:, None]
        bias = torch.zeros(padding.shape, dtype=self.shape.dtype)
        bias.masked_fill_(padding, torch.finfo(self.shape.dtype).min)
        return bias.repeat_interleave(self.shape.kv_heads, 0)[:, None]

    def _reserve(self, layer: int) -> None:
        if self.length == self.layers[layer][0].shape[2]:
            self.layers[layer] = tuple(map(self._larger, self.layers[layer]))  # type: ignore[assignment]

    def _larger(self, store: Tensor) -> Tensor:
        larger = store.new_empty(*store.shape[:2], self.length + RESERVE, store.shape[3])
        larger[:, :, : self.length] = store[:, :, : self.length]
        return larger
