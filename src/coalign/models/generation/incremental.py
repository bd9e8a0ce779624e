"""One token after another: a causal language model's next-token logits for rows that grow, multiply and leave.

The cached path keeps keys and values; the plain path computes every row anew at each step and works for any model.
`open_rows` takes the cached path where a short probe on the model shows that it agrees with the plain one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from coalign.models.generation.growing_cache import (
    ReservedLayer,
    joined,
    move_padding_left,
    new_cache,
    repeat,
    trimmed,
)
from coalign.models.modules import cache_argument, unwrap
from coalign.models.scoring.engine import picture_tensors
from coalign.models.scoring.probing import OnceAModel, agree, probe_ids

if TYPE_CHECKING:
    from coalign.data.media.prompts import PicturePrompt

PREFILL_TOKENS = {"cpu": 256, "cuda": 8192}
"""Tokens that keep a device busy: prompts of a batch are computed in passes of at least so many, by length."""
SIMILAR = 0.8
"""Prompts at least so long as the longest share its pass."""
SHARED_TOKENS = 64
"""A beginning that all prompts have is computed once where that spares at least so many tokens."""


class Rows(Protocol):
    """Rows of tokens under a model."""

    def start(self, input_ids: Tensor, mask: Tensor, pictures: Sequence[PicturePrompt] = ()) -> Tensor:
        """Begin with left-padded prompts [R, T] and their mask (1: token, 0: padding), each with its pictures or none with
        any. Returns logits [R, V].
        """
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
    return CachedRows(model) if _can_continue(model) else PlainRows(model)


class CachedRows:
    """Keys and values of past tokens are kept.

    Args:
        whole: also those that a sliding window has left behind; for texts that are no longer than the window.
        shared_tokens: as `SHARED_TOKENS`.
    """

    def __init__(self, model: nn.Module, *, whole: bool = False, shared_tokens: int | None = None) -> None:
        self._call = Call(model)
        self._bare: Any = unwrap(model)
        self._shared_tokens = SHARED_TOKENS if shared_tokens is None else shared_tokens
        self._kinds = (DynamicLayer, DynamicSlidingWindowLayer) if whole else (DynamicLayer,)
        self.cache = new_cache(self._bare, self._kinds)
        self._mask = torch.empty(0)
        self._positions = torch.empty(0)

    def start(self, input_ids: Tensor, mask: Tensor, pictures: Sequence[PicturePrompt] = ()) -> Tensor:
        self._mask = mask
        self._positions = mask.sum(-1, keepdim=True)
        if pictures:
            shown = self._call.shown(pictures, mask.shape[1], left=True)
            positions = self._call.positions(input_ids, mask, shown)
            if positions.ndim == 3:
                self._positions = positions.amax((0, 2))[:, None] + 1
            return self._call.last(input_ids, mask, positions, past_key_values=self.cache, **shown)
        if {type(layer) for layer in self.cache.layers} != {ReservedLayer}:
            return self._call.last(input_ids, mask, _positions(mask), past_key_values=self.cache)
        lengths = self._positions.squeeze(1).tolist()
        shared = self._shared(input_ids, lengths)
        beginning = self._beginning(input_ids[:1, input_ids.shape[1] - lengths[0] :][:, :shared])
        own = [length - shared for length in lengths]
        logits, caches = [], []
        for first, last in prefill_passes(own, PREFILL_TOKENS.get(mask.device.type, 0)):
            width = max(own[first:last])
            ids = input_ids[first:last, mask.shape[1] - width :]
            missing = width - torch.tensor(own[first:last], device=mask.device)[:, None]
            part = (torch.arange(width, device=mask.device) >= missing).to(mask.dtype)
            positions = _positions(part) + shared
            cache = new_cache(self._bare, self._kinds)
            if shared:
                repeat(beginning, cache, len(ids))
                part = torch.cat([part.new_ones(len(ids), shared), part], dim=-1)
            logits.append(self._call.last(ids, part, positions, past_key_values=cache))
            if shared and bool(missing.any()):
                move_padding_left(cache, missing, shared)
            caches.append(cache)
        self.cache = caches[0] if len(caches) == 1 else joined(caches)
        return torch.cat(logits)

    def _shared(self, input_ids: Tensor, lengths: list[int]) -> int:
        """Tokens that all prompts begin with, as far as it pays to compute them apart and can be done."""
        simple = getattr(self._bare.config, "_attn_implementation", None) in ("sdpa", "eager")
        if not simple or not self._call.takes_positions:
            return 0  # other kernels do not read padding between tokens
        return shared_beginning(input_ids, lengths, self._shared_tokens)

    def _beginning(self, ids: Tensor) -> DynamicCache:
        """The cache after tokens [1, T]."""
        cache = new_cache(self._bare, self._kinds)
        if ids.numel():
            ones = torch.ones_like(ids)
            self._call.last(ids, ones, _positions(ones), past_key_values=cache)
        return cache

    def select(self, index: Tensor) -> None:
        self.cache.reorder_cache(index)  # type: ignore[arg-type]
        self._mask = self._mask[index]
        self._positions = self._positions[index]

    @property
    def can_join(self) -> bool:
        return {type(layer) for layer in self.cache.layers} == {ReservedLayer}

    def join(self, others: Rows) -> None:
        assert isinstance(others, CachedRows)
        self.cache = joined(
            [trimmed(rows.cache, rows._mask.shape[1] - _width(rows._mask)) for rows in (self, others)]
        )
        self._mask = _stacked_right([_without_padding(rows._mask) for rows in (self, others)])
        self._positions = torch.cat([self._positions, others._positions])

    def step(self, tokens: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=-1)
        logits = self._call.last(tokens[:, None], self._mask, self._positions, past_key_values=self.cache)
        self._positions = self._positions + 1
        return logits


class PlainRows:
    """Nothing is kept: every step computes whole rows."""

    def __init__(self, model: nn.Module) -> None:
        self._call = Call(model)
        self._ids = torch.empty(0)
        self._mask = torch.empty(0)
        self._pictures: list[PicturePrompt | None] = []

    def start(self, input_ids: Tensor, mask: Tensor, pictures: Sequence[PicturePrompt] = ()) -> Tensor:
        self._ids, self._mask = input_ids, mask
        self._pictures = list(pictures) or [None] * len(input_ids)
        return self._logits()

    def _logits(self) -> Tensor:
        """Rows of text together, and those with pictures, whose pixels are made anew."""
        shown = torch.tensor([one is not None for one in self._pictures], device=self._mask.device)
        if not shown.any():
            return self._call.last(self._ids, self._mask, _positions(self._mask))
        rows = [ids[mask.bool()] for ids, mask in zip(self._ids[shown], self._mask[shown], strict=True)]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor(list(map(len, rows)), device=ids.device)
        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).to(self._mask.dtype)
        inputs: Any = self._call.shown([one for one in self._pictures if one is not None], ids.shape[1])
        found = self._call(ids, mask, self._call.positions(ids, mask, inputs), **inputs)
        found = found[torch.arange(len(rows), device=ids.device), lengths - 1]
        logits = found.new_empty(len(shown), found.shape[-1])
        logits[shown] = found
        if not shown.all():
            ids, mask = self._ids[~shown], self._mask[~shown]
            logits[~shown] = self._call.last(ids, mask, _positions(mask))
        return logits

    def select(self, index: Tensor) -> None:
        self._ids, self._mask = self._ids[index], self._mask[index]
        self._pictures = [self._pictures[row] for row in index.tolist()]

    can_join = True

    def join(self, others: Rows) -> None:
        assert isinstance(others, PlainRows)
        ids = [one._ids[:, one._ids.shape[1] - _width(one._mask) :] for one in (self, others)]
        masks = [_without_padding(one._mask) for one in (self, others)]
        self._ids, self._mask = _stacked_right(ids), _stacked_right(masks)
        self._pictures += others._pictures

    def step(self, tokens: Tensor) -> Tensor:
        self._ids = torch.cat([self._ids, tokens[:, None]], dim=-1)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._ids), 1)], dim=-1)
        return self._logits()


def _width(mask: Tensor) -> int:
    """Places that some row fills, of a mask [R, T] that is padded on the left."""
    return int(mask.sum(-1).max())


def _without_padding(mask: Tensor) -> Tensor:
    return mask[:, mask.shape[1] - _width(mask) :]


def _stacked_right(tensors: list[Tensor]) -> Tensor:
    """Rows of all [R, T], with zeros at the left of the shorter ones."""
    width = max(one.shape[1] for one in tensors)
    return torch.cat([nn.functional.pad(one, (width - one.shape[1], 0)) for one in tensors])


def shared_beginning(input_ids: Tensor, lengths: list[int], least: int) -> int:
    """Tokens that all prompts [R, T], padded on the left, begin with; each keeps one of its own.

    Args:
        lengths: of the prompts.
        least: 0 where computing the beginning once spares fewer tokens.
    """
    if len(lengths) < 2:
        return 0
    width, most = input_ids.shape[1], min(lengths) - 1
    begun = torch.stack(
        [row[width - n : width - n + most] for row, n in zip(input_ids, lengths, strict=True)]
    )
    shared = int((begun == begun[0]).all(0).long().cumprod(0).sum())
    return shared if shared * (len(lengths) - 1) >= least else 0


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


class Call:
    """Calls a model with the arguments that its `forward` takes."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._takes = inspect.signature(unwrap(model).forward).parameters
        self._cache_name = cache_argument(model)

    @property
    def takes_positions(self) -> bool:
        return "position_ids" in self._takes

    def __call__(
        self, input_ids: Tensor, mask: Tensor, positions: Tensor, *, keep: int | None = None, **cache: Any
    ) -> Tensor:
        """[R, T, V] logits in float32 (float64 for a float64 model), those after the last `keep` tokens alone.

        Args:
            cache: `past_key_values` where there are some, and what is shown.
        """
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "use_cache": "past_key_values" in cache,
        }
        if self.takes_positions:
            inputs["position_ids"] = positions
        if keep is not None and "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = keep
        if "past_key_values" in cache:
            cache[self._cache_name] = cache.pop("past_key_values")
        logits = self._model(**inputs, **cache).logits
        logits = logits if keep is None else logits[:, -keep:]
        return logits if logits.dtype == torch.float64 else logits.float()

    def shown(
        self, pictures: Sequence[PicturePrompt], width: int, *, left: bool = False
    ) -> dict[str, Tensor]:
        """What the model is given of the pictures of rows; see `coalign.models.scoring.engine.picture_tensors`."""
        return picture_tensors(self._model, pictures, width, left=left)

    def positions(self, input_ids: Tensor, mask: Tensor, shown: dict[str, Tensor]) -> Tensor:
        """[R, T] the place of each token, or [3, R, T] for a model that lays out pictures in time, height and width
        (Qwen-VL).
        """
        lay_out = getattr(getattr(unwrap(self._model), "model", None), "get_rope_index", None)
        if lay_out is None:
            return _positions(mask)
        takes = inspect.signature(lay_out).parameters
        given = {name: value for name, value in shown.items() if name in takes}
        return lay_out(input_ids, attention_mask=mask, **given)[0]

    def last(self, input_ids: Tensor, mask: Tensor, positions: Tensor, **cache: Any) -> Tensor:
        """[R, V] logits after the last token."""
        return self(input_ids, mask, positions, keep=1, **cache)[:, -1]


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of booleans as what is added to the scores of attention."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


@OnceAModel
def _can_continue(model: nn.Module) -> bool:
    """Try both paths on a few rows."""
    return agree(
        model,
        lambda: probe_logits(model, lambda: PlainRows(model)),
        lambda: probe_logits(model, lambda: CachedRows(model, shared_tokens=1)),
        lacks="continue cached rows",
        differs="its logits differ with a cache",
        instead="every step computes whole rows, which is slow",
    )


def probe_logits(model: nn.Module, make: Callable[[], Rows]) -> Tensor:
    """[8, V] logits of new rows on two short prompts of different length, and on two with one beginning, that are repeated,
    reordered and continued.
    """
    ids = probe_ids(model, 2, 6).to(next(unwrap(model).parameters()).device)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    begun = ids.clone()
    begun[0, 2:4] = begun[1, :2]
    return torch.cat([logits for one in (ids, begun) for logits in _probed(make(), one, mask)])


def _probed(rows: Rows, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    first = rows.start(ids, mask)
    rows.select(torch.tensor([1, 0, 0], device=ids.device))
    rows.step(ids[0, :3])
    rows.select(torch.tensor([2, 0], device=ids.device))
    return first, rows.step(ids[1, :2])
