"""One token after another: a causal language model's next-token logits for rows that grow, multiply and leave.

The cached path keeps keys and values; the plain path computes every row anew at each step and works for any model.
`open_rows` takes the cached path where a short probe on the model shows that it agrees with the plain one.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from coalign.models.scoring import unwrap

logger = logging.getLogger(__name__)

PREFILL_TOKENS = {"cpu": 256, "cuda": 8192}
"""Tokens that keep a device busy: prompts of a batch are computed in passes of at least so many, by length."""
SIMILAR = 0.8
"""Prompts at least so long as the longest share its pass."""

_cacheable: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


class Rows(Protocol):
    """Rows of tokens under a model."""

    def start(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Begin with left-padded prompts [R, T] and their mask (1: token, 0: padding). Returns logits [R, V]."""
        ...

    def select(self, index: Tensor) -> None:
        """Keep, repeat or reorder rows: row i becomes row `index[i]`."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [R] to every row. Returns logits [R, V] for the next one."""
        ...

    @property
    def can_join(self) -> bool:
        """Whether rows that began later can be added."""
        ...

    def join(self, others: Rows) -> None:
        """Add the rows of `others`, which are of the same kind and not used again, after these."""
        ...


def open_rows(model: nn.Module) -> Rows:
    """Rows on the cached path where the model allows it, else on the plain path (announced once a model)."""
    bare = unwrap(model)
    if bare not in _cacheable:
        _cacheable[bare] = _probe(model)
    return CachedRows(model) if _cacheable[bare] else PlainRows(model)


class CachedRows:
    """Keys and values of past tokens are kept.

    Args:
        whole: also those that a sliding window has left behind; for texts that are no longer than the window.
    """

    def __init__(self, model: nn.Module, *, whole: bool = False) -> None:
        self._call = _Call(model)
        self._bare = unwrap(model)
        self._kinds = (DynamicLayer, DynamicSlidingWindowLayer) if whole else (DynamicLayer,)
        self.cache = _new_cache(self._bare, self._kinds)
        self._mask = torch.empty(0)
        self._positions = torch.empty(0)

    def start(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        self._mask = mask
        self._positions = mask.sum(-1, keepdim=True)
        if {type(layer) for layer in self.cache.layers} != {ReservedLayer}:
            return self._call(input_ids, mask, _positions(mask), past_key_values=self.cache)
        lengths = self._positions.squeeze(1).tolist()
        logits, caches = [], []
        for first, last in prefill_passes(lengths, PREFILL_TOKENS.get(mask.device.type, 0)):
            columns = slice(mask.shape[1] - max(lengths[first:last]), None)
            ids, part, cache = (
                input_ids[first:last, columns],
                mask[first:last, columns],
                _new_cache(self._bare, self._kinds),
            )
            logits.append(self._call(ids, part, _positions(part), past_key_values=cache))
            caches.append(cache)
        self.cache = caches[0] if len(caches) == 1 else _joined(caches)
        return torch.cat(logits)

    def select(self, index: Tensor) -> None:
        self.cache.reorder_cache(index)  # type: ignore[arg-type]
        self._mask = self._mask[index]
        self._positions = self._positions[index]

    @property
    def can_join(self) -> bool:
        return {type(layer) for layer in self.cache.layers} == {ReservedLayer}

    def join(self, others: Rows) -> None:
        assert isinstance(others, CachedRows)
        self.cache = _joined([_trimmed(rows.cache, rows._mask) for rows in (self, others)])
        self._mask = _stacked_right([_without_padding(rows._mask) for rows in (self, others)])
        self._positions = torch.cat([self._positions, others._positions])

    def step(self, tokens: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=-1)
        logits = self._call(tokens[:, None], self._mask, self._positions, past_key_values=self.cache)
        self._positions = self._positions + 1
        return logits


class PlainRows:
    """Nothing is kept: every step computes whole rows."""

    def __init__(self, model: nn.Module) -> None:
        self._call = _Call(model)
        self._ids = torch.empty(0)
        self._mask = torch.empty(0)

    def start(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        self._ids, self._mask = input_ids, mask
        return self._call(input_ids, mask, _positions(mask))

    def select(self, index: Tensor) -> None:
        self._ids, self._mask = self._ids[index], self._mask[index]

    can_join = True

    def join(self, others: Rows) -> None:
        assert isinstance(others, PlainRows)
        ids = [one._ids[:, one._ids.shape[1] - _width(one._mask) :] for one in (self, others)]
        masks = [_without_padding(one._mask) for one in (self, others)]
        self._ids, self._mask = _stacked_right(ids), _stacked_right(masks)

    def step(self, tokens: Tensor) -> Tensor:
        ids = torch.cat([self._ids, tokens[:, None]], dim=-1)
        return self.start(ids, torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=-1))


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


def _new_cache(bare: nn.Module, kinds: tuple[type, ...]) -> DynamicCache:
    """A cache whose layers of these kinds reserve memory ahead."""
    config: Any = bare.config
    cache = DynamicCache(config=config)
    cache.layers = [ReservedLayer() if type(layer) in kinds else layer for layer in cache.layers]
    return cache


def _joined(caches: list[DynamicCache]) -> DynamicCache:
    """One cache with the rows of all."""
    whole = caches[0]
    for place in range(len(whole.layers)):
        whole.layers[place] = ReservedLayer.joined([cache.layers[place] for cache in caches])  # type: ignore[misc]
        for cache in caches[1:]:
            cache.layers[place] = ReservedLayer()  # frees its memory before the next layer is joined
    return whole


def _trimmed(cache: DynamicCache, mask: Tensor) -> DynamicCache:
    """`cache` without the places at the left that are padding in every row."""
    for layer in cache.layers:
        cast(ReservedLayer, layer).trim(mask.shape[1] - _width(mask))
    return cache


def _width(mask: Tensor) -> int:
    """Places that some row fills, of a mask [R, T] that is padded on the left."""
    return int(mask.sum(-1).max())


def _without_padding(mask: Tensor) -> Tensor:
    return mask[:, mask.shape[1] - _width(mask) :]


def _stacked_right(tensors: list[Tensor]) -> Tensor:
    """Rows of all [R, T], with zeros at the left of the shorter ones."""
    width = max(one.shape[1] for one in tensors)
    return torch.cat([nn.functional.pad(one, (width - one.shape[1], 0)) for one in tensors])


def _padded_left(states: Tensor, length: int, reserve: int) -> Tensor:
    """[R, H, length + reserve, D]: masked places must hold numbers, since 0 * NaN is not 0."""
    return nn.functional.pad(states, (0, 0, length - states.shape[-2], reserve))


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


class _Call:
    """Calls the model with the arguments that its `forward` takes and gives the logits after the last token."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._takes = inspect.signature(unwrap(model).forward).parameters

    def __call__(self, input_ids: Tensor, mask: Tensor, positions: Tensor, **cache: Any) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask, "use_cache": bool(cache)}
        if "position_ids" in self._takes:
            inputs["position_ids"] = positions
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        logits = self._model(**inputs, **cache).logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _probe(model: nn.Module) -> bool:
    """Try both paths on two short prompts of different length that are repeated, reordered and continued."""
    bare: Any = unwrap(model)
    reason = "its logits differ with a cache"
    device = next(bare.parameters()).device
    size = min(bare.config.get_text_config(decoder=True).vocab_size, 1000)
    ids = torch.randint(0, size, (2, 6), generator=torch.Generator().manual_seed(0)).to(device)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    half = next(bare.parameters()).dtype in (torch.bfloat16, torch.float16)
    try:
        expected, actual = (_probe_logits(kind(model), ids, mask) for kind in (PlainRows, CachedRows))
        scale = (expected - expected.mean(-1, keepdim=True)).norm()
        if bool((actual - expected).norm() <= scale * (0.1 if half else 1e-3)):
            return True
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    logger.warning(
        "%s cannot continue cached rows (%s): every step computes whole rows, which is slow.",
        type(bare).__name__,
        reason,
    )
    return False


def _probe_logits(rows: Rows, ids: Tensor, mask: Tensor) -> Tensor:
    rows.start(ids, mask)
    rows.select(torch.tensor([1, 0, 0], device=ids.device))
    rows.step(ids[0, :3])
    rows.select(torch.tensor([2, 0], device=ids.device))
    return rows.step(ids[1, :2])
