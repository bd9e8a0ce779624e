"""Keys and values of rows that grow, multiply, join and leave: layers that reserve memory ahead, and whole caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from coalign.models.generation.prefix_cache.store import States


class ReservedLayer(DynamicLayer):
    """Keys and values of one layer in memory reserved ahead.

    The parent copies all of it at every step to append one token; here that happens once every `RESERVE` steps.
    """

    RESERVE = 64

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._stores = (key_states[:, :, :0], value_states[:, :, :0])
        self._length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._length + key_states.shape[-2]
        if end > self._stores[0].shape[-2]:
            self._stores = tuple(self._grown(store, end) for store in self._stores)
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, self._length : end] = states
        self._length = end
        return self._show()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.is_initialized:
            self._stores = tuple(store.index_select(0, beam_idx) for store in self._stores)
            self._show()

    def keep_columns(self, rows: Tensor, columns: Tensor, start: int) -> None:
        """Row i goes on, after its first `start` tokens, with the tokens `columns[i]` of row `rows[i]`, in place.

        Args:
            rows: [R], no more than there are; row `rows[i]` begins with the same `start` tokens as row i.
            columns: [R, N] places of tokens, at least `start`.
        """
        if not self.is_initialized:
            return
        self._length = start + columns.shape[1]
        stores = []
        for store in self._stores:
            moved = store[rows[:, None], :, columns].transpose(1, 2)
            store = store[: len(rows)]
            store[:, :, start : self._length] = moved
            stores.append(store)
        self._stores = tuple(stores)
        self._show()

    @classmethod
    def joined(cls, layers: list[ReservedLayer]) -> ReservedLayer:
        """One layer with the rows of all, padded on the left."""
        whole = cls()
        if not layers[0].is_initialized:  # a layer that uses another's states
            return whole
        whole.lazy_initialization(*layers[0]._show())
        whole._length = max(layer._length for layer in layers)
        whole._stores = tuple(
            torch.cat([_padded_left(layer._show()[which], whole._length, cls.RESERVE) for layer in layers])
            for which in (0, 1)
        )
        whole._show()
        return whole

    def of(self, row: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Keys and values [H, N, D] of a row at places from `first` up to `last`."""
        keys, values = (store[row, :, first:last] for store in self._stores)
        return keys, values

    def take_columns(self, columns: Tensor) -> None:
        """Row i has its places `columns[i]` [R, L], in this order, in place of its own L."""
        if self.is_initialized:
            index = columns[:, None, :, None]
            self._stores = tuple(
                store[:, :, : self._length].gather(2, index.expand(-1, store.shape[1], -1, store.shape[3]))
                for store in self._stores
            )
            self._show()

    def trim(self, count: int) -> None:
        """Drop the first `count` places of every row."""
        if self.is_initialized and count:
            self._stores = tuple(store[:, :, count:] for store in self._stores)
            self._length -= count
            self._show()

    def _grown(self, store: Tensor, length: int) -> Tensor:
        rows, heads, _, size = store.shape
        grown = store.new_empty(rows, heads, length + self.RESERVE, size)
        grown[:, :, : self._length] = store[:, :, : self._length]
        return grown

    def _show(self) -> tuple[Tensor, Tensor]:
        """The part that is filled, where the parent keeps its states."""
        keys, values = (store[:, :, : self._length] for store in self._stores)
        self.keys, self.values = keys, values
        return keys, values


def new_cache(bare: nn.Module, kinds: tuple[type, ...]) -> DynamicCache:
    """A cache whose layers of these kinds reserve memory ahead."""
    config: Any = bare.config
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer() if type(layer) in kinds else layer for layer in cache.layers]
    return cache


def joined(caches: list[DynamicCache]) -> DynamicCache:
    """One cache with the rows of all."""
    whole = caches[0]
    for place in range(len(whole.layers)):
        whole.layers[place] = ReservedLayer.joined([cache.layers[place] for cache in caches])  # type: ignore[misc]
        for cache in caches[1:]:
            cache.layers[place] = ReservedLayer()  # frees its memory before the next layer is joined
    return whole


def trimmed(cache: DynamicCache, count: int) -> DynamicCache:
    """`cache` without the first `count` places of every row."""
    for layer in cache.layers:
        cast(ReservedLayer, layer).trim(count)
    return cache


def begin(cache: DynamicCache, rows: Sequence[States], length: int) -> None:
    """Begin an empty cache with states of each row, nothing for some, padded on the left to `length` tokens."""
    some = next(one for one in rows if one)
    layers: list[Any] = cache.layers
    for place, layer in enumerate(layers):
        shape = some[place]
        if shape is None:  # a layer that uses another's states
            continue
        whole = []
        for part, like in enumerate(shape):
            states = like.new_zeros(len(rows), like.shape[0], length, like.shape[2])
            for row, known in enumerate(rows):
                if known and (one := known[place]) is not None:
                    states[row, :, length - one[part].shape[1] :] = one[part]
            whole.append(states)
        layer.update(*whole)


def row_states(cache: DynamicCache, row: int, first: int, last: int) -> States:
    """Of a row the states at places from `first` up to `last`, layer by layer."""
    shown = [cast(ReservedLayer, layer) for layer in cache.layers]
    return [layer.of(row, first, last) if layer.is_initialized else None for layer in shown]


def move_padding_left(cache: DynamicCache, mask: Tensor) -> None:
    """Rows whose padding (0 of `mask` [R, T]) stands between tokens: padding comes first, tokens keep their order."""
    columns = mask.argsort(dim=-1, stable=True)
    for layer in cache.layers:
        cast(ReservedLayer, layer).take_columns(columns)


def _padded_left(states: Tensor, length: int, reserve: int) -> Tensor:
    """[R, H, length + reserve, D]: masked places must hold numbers, since 0 * NaN is not 0."""
    return nn.functional.pad(states, (0, 0, length - states.shape[-2], reserve))
