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
    begin,
    joined,
    move_padding_left,
    new_cache,
    row_states,
    trimmed,
)
from coalign.models.generation.prefix_cache.beginnings import (
    Beginning,
    found_beginnings,
    prefill_order,
    prefill_passes,
    shared_beginning,
)
from coalign.models.generation.prefix_cache.marks import adapters_mark, weights_mark
from coalign.models.generation.prefix_cache.store import Mark, PrefixCache
from coalign.models.modules import cache_argument, unwrap
from coalign.models.scoring.engine import picture_tensors
from coalign.models.scoring.probing import OnceAModel, agree, probe_ids

if TYPE_CHECKING:
    from coalign.data.media.prompts import PicturePrompt

PREFILL_TOKENS = {"cpu": 256, "cuda": 8192}
"""Tokens that keep a device busy: prompts of a batch are computed in passes of at least so many, by length."""
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

    def keep(self, row: int, ids: Sequence[int]) -> None:
        """Keep the states of a row, whose tokens are `ids`, for later prompts, where they are kept."""
        ...

    @property
    def found(self) -> list[int]:
        """Of each prompt that these rows began with the tokens whose states were kept from earlier ones."""
        ...

    @property
    def can_join(self) -> bool:
        """Whether rows that began later can be added."""
        ...

    def join(self, others: Rows) -> None:
        """Add the rows of `others`, which are of the same kind and not used again, after these."""
        ...


def open_rows(model: nn.Module, prefixes: PrefixCache | None = None) -> Rows:
    """Rows on the cached path where the model allows it, else on the plain path (announced once a model).

    Args:
        prefixes: states of earlier prompts, for a model that `keeps_prefixes`.
    """
    if not _can_continue(model):
        return PlainRows(model)
    if prefixes is None:
        return CachedRows(model)
    mark = Mark(weights_mark(model), ("modules", adapters_mark(model)))
    return CachedRows(model, kept=(prefixes, mark))


def lacks_prefixes(model: nn.Module) -> str | None:
    """Why the states of a prompt cannot be those of the beginning of a longer one; None where they can."""
    bare: Any = unwrap(model)
    if not _can_continue(model):
        return "its rows do not go on from a cache"
    odd = {
        type(one).__name__ for one in DynamicCache(config=bare.config).layers if type(one) is not DynamicLayer
    }
    if odd:
        return f"its cache has {' and '.join(sorted(odd))}"
    rope = getattr(bare.config, "rope_parameters", None) or {}
    kinds = {one.get("rope_type") for one in (rope, *rope.values()) if isinstance(one, dict)}
    moving = [one for one in ("dynamic", "longrope") if one in kinds]
    if moving:
        return f"its positions are turned by the length of the text ({moving[0]})"
    if not _reads_holes(bare, Call(model)):
        return f"its attention ({bare.config._attn_implementation}) does not read padding between tokens"
    return None


def _reads_holes(bare: Any, call: Call) -> bool:
    """Whether padding may stand between tokens: other kernels do not read it, and positions have to be said."""
    simple = getattr(bare.config, "_attn_implementation", None) in ("sdpa", "eager")
    return simple and call.takes_positions


class CachedRows:
    """Keys and values of past tokens are kept.

    Args:
        whole: also those that a sliding window has left behind; for texts that are no longer than the window.
        shared_tokens: as `SHARED_TOKENS`.
        kept: states of earlier prompts, and the mark of what computes here.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        whole: bool = False,
        shared_tokens: int | None = None,
        kept: tuple[PrefixCache, Mark] | None = None,
    ) -> None:
        self._call = Call(model)
        self._bare: Any = unwrap(model)
        self._shared_tokens = SHARED_TOKENS if shared_tokens is None else shared_tokens
        self._kinds = (DynamicLayer, DynamicSlidingWindowLayer) if whole else (DynamicLayer,)
        self.cache = new_cache(self._bare, self._kinds)
        self._mask = torch.empty(0)
        self._positions = torch.empty(0)
        self._kept = kept
        self.found: list[int] = []

    def start(self, input_ids: Tensor, mask: Tensor, pictures: Sequence[PicturePrompt] = ()) -> Tensor:
        self.found = [0] * len(input_ids)
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
        lengths, width = self._positions.squeeze(1).tolist(), mask.shape[1]
        prompts = [row[width - n :].tolist() for row, n in zip(input_ids, lengths, strict=True)]
        begun = found_beginnings(self._kept, prompts)
        self.found = [one.length for one in begun]
        shared = 0
        if _reads_holes(self._bare, self._call):
            shared = shared_beginning(input_ids, lengths, self._shared_tokens, known=min(self.found))
        if shared:
            early = self._beginning(input_ids[:1, width - lengths[0] :][:, :shared], begun[0])
            begun = [max(one, early, key=lambda each: each.length) for one in begun]
        own = [length - one.length for length, one in zip(lengths, begun, strict=True)]
        order = prefill_order(own, self.found)
        logits, caches = [], []
        for first, last in prefill_passes(
            [own[one] for one in order], PREFILL_TOKENS.get(mask.device.type, 0)
        ):
            rows = order[first:last]
            found, cache = self._prefill(
                input_ids[rows], [own[one] for one in rows], [begun[one] for one in rows]
            )
            logits.append(found)
            caches.append(cache)
        self.cache = caches[0] if len(caches) == 1 else joined(caches)
        whole = torch.cat(logits)
        if order != sorted(order):
            back = torch.tensor(order, device=mask.device).argsort()
            self.cache.reorder_cache(back)  # type: ignore[arg-type]
            whole = whole[back]
        for row, ids in enumerate(prompts) if self._kept else ():
            self.keep(row, ids)
        return whole

    def _prefill(
        self, input_ids: Tensor, own: list[int], begun: list[Beginning]
    ) -> tuple[Tensor, DynamicCache]:
        """Logits [R, V] after prompts [R, T], padded on the left, and their cache.

        Args:
            own: tokens at the end of each that are to be computed; `begun` is what the others made.
        """
        width, before = max(own), max(one.length for one in begun)
        device = input_ids.device
        ids = input_ids[:, input_ids.shape[1] - width :]
        missing = width - torch.tensor(own, device=device)[:, None]
        known = torch.tensor([one.length for one in begun], device=device)[:, None]
        part = (torch.arange(width, device=device) >= missing).long()
        positions = _positions(part) + known
        cache = new_cache(self._bare, self._kinds)
        if before:
            begin(cache, [one.states for one in begun], before)
            part = torch.cat([(torch.arange(before, device=device) >= before - known).long(), part], dim=-1)
        logits = self._call.last(ids, part, positions, past_key_values=cache)
        if before and bool(missing.any()):
            move_padding_left(cache, part)
        return logits, trimmed(cache, part.shape[1] - int(part.sum(-1).max()))

    def keep(self, row: int, ids: Sequence[int]) -> None:
        if self._kept is None or not self.can_join:
            return
        store, mark = self._kept
        start = self._mask.shape[1] - int(self._mask[row].sum())
        store.keep(mark, ids, lambda first, last: row_states(self.cache, row, start + first, start + last))

    def _beginning(self, ids: Tensor, begun: Beginning) -> Beginning:
        """What prompts share [1, T], from where it is known on."""
        length = ids.shape[1]
        begun = begun.cut(length - 1)
        _, cache = self._prefill(ids, [length - begun.length], [begun])
        return Beginning(length, row_states(cache, 0, 0, length))

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

    def keep(self, row: int, ids: Sequence[int]) -> None:
        """Nothing is kept."""

    @property
    def found(self) -> list[int]:
        return [0] * len(self._ids)

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
