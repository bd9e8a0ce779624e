"""Rows of tokens that grow and are cut back, each by itself, under one causal language model.

Every row has its own length. Its keys and values lie at the places of its tokens, so cutting a row back costs
nothing: what lies beyond its length is not seen, and is overwritten when the row grows again. `extend` computes the
new tokens of several rows together, however many each has.

Where a short probe finds that a model does not give the same logits this way, whole rows are computed every time;
that is announced once a model. Once a row outgrows a sliding window, all rows are computed whole, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from coalign.models.generation.incremental import PREFILL_TOKENS, Call, additive
from coalign.models.modules import unwrap
from coalign.models.scoring.engine import attention_window
from coalign.models.scoring.probing import OnceAModel, agree, probe_ids

logger = logging.getLogger(__name__)

PADDING_TOKENS = {"cpu": 24, "cuda": 2048}
"""Padding that a pass may compute rather than be split in two: about what starting a pass costs."""
RESERVE = 128
"""Places by which the memory of a row grows at least."""


class RaggedRows:
    """`count` rows, empty at first.

    Attributes:
        ids: the tokens of each row. To be changed by `extend` and `cut` alone.
        passes, tokens: forward passes so far, and tokens that they computed.
    """

    def __init__(self, model: nn.Module, count: int, *, cached: bool | None = None) -> None:
        """`cached` says whether keys and values are kept; by default where the probe allows it."""
        self.ids: list[list[int]] = [[] for _ in range(count)]
        self.passes = self.tokens = 0
        self._call = Call(model)
        self._bare: Any = unwrap(model)
        self._device = next(model.parameters()).device
        self._window = _window(self._bare)
        self._places = _Places(count)
        keep = _can_keep(model) if cached is None else cached
        self._cache = _new_cache(self._bare, self._places) if keep else None

    @property
    def cached(self) -> bool:
        """Whether keys and values are kept."""
        return self._cache is not None

    def cut(self, row: int, length: int) -> None:
        """Keep the first `length` tokens of a row."""
        del self.ids[row][length:]

    def extend(
        self, rows: Sequence[int], tokens: Sequence[Sequence[int]], keep: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Append tokens to rows.

        Args:
            rows: different rows.
            tokens: for each at least one token.
            keep: for each how many of its last positions are wanted; by default those of all new tokens.

        Returns:
            For each row the logits [keep, V] after its last `keep` new tokens, in float32 (float64 for a float64
            model).
        """
        keep = [len(new) for new in tokens] if keep is None else keep
        if any(not 0 < wanted <= len(new) for wanted, new in zip(keep, tokens, strict=True)):
            raise ValueError("keep is not between 1 and the number of new tokens")
        found: dict[int, Tensor] = {}
        longest = max(len(self.ids[row]) + len(new) for row, new in zip(rows, tokens, strict=True))
        if self._cache is not None and self._window is not None and longest > self._window:
            self._cache = None
            logger.warning(
                "Texts outgrew the attention window of %d tokens: from here on every step computes whole rows, which "
                "is slow.",
                self._window,
            )
        compute = self._compute_new if self.cached else self._compute_whole
        kind = self._device.type
        lengths = [len(new) for new in tokens]
        for part in plan_passes(lengths, PADDING_TOKENS.get(kind, 0), PREFILL_TOKENS.get(kind, 256)):
            logits = compute([rows[i] for i in part], [tokens[i] for i in part], max(keep[i] for i in part))
            for place, i in enumerate(part):
                found[i] = logits[place][-keep[i] :]
        for row, new in zip(rows, tokens, strict=True):
            self.ids[row] += new
        return [found[i] for i in range(len(rows))]

    @torch.inference_mode()
    def _compute_new(self, rows: list[int], tokens: list[Sequence[int]], keep: int) -> list[Tensor]:
        """For each row the logits after its last `keep` tokens or more. New tokens are aligned on the right; padding is stored in a place that no token sees."""
        width = max(map(len, tokens))
        starts = [len(self.ids[row]) for row in rows]
        ends = [start + len(new) for start, new in zip(starts, tokens, strict=True)]
        padded = [[0] * (width - len(new)) + list(new) for new in tokens]
        positions = [
            [-1] * (width - end + start) + list(range(start, end))
            for start, end in zip(starts, ends, strict=True)
        ]
        place = torch.tensor(positions, device=self._device)
        self._places.choose(rows, place, max(ends))
        visible = torch.arange(max(ends), device=self._device) <= place.clamp(min=0)[..., None]
        logits = self._call(
            torch.tensor(padded, device=self._device),
            _mask(visible[:, None], self._bare),
            place.clamp(min=0),
            keep=keep,
            past_key_values=self._cache,
        )
        self.passes += 1
        self.tokens += sum(map(len, tokens))
        return list(logits)

    @torch.inference_mode()
    def _compute_whole(self, rows: list[int], tokens: list[Sequence[int]], keep: int) -> list[Tensor]:
        """The same from the start of each row.

        Padding stands on the right, where no token sees it, and is not masked: under a sliding window it would see
        nothing and become not a number, which spreads.
        """
        whole = [self.ids[row] + list(new) for row, new in zip(rows, tokens, strict=True)]
        width = max(map(len, whole))
        ids = torch.tensor([one + [0] * (width - len(one)) for one in whole], device=self._device)
        positions = torch.arange(width, device=self._device).expand_as(ids)
        spare = width - min(map(len, whole))
        self.passes += 1
        self.tokens += sum(map(len, whole))
        logits = self._call(ids, torch.ones_like(ids), positions, keep=min(keep + spare, width))
        ends = [logits.shape[1] - (width - len(one)) for one in whole]
        return [line[max(end - keep, 0) : end] for line, end in zip(logits, ends, strict=True)]


def plan_passes(lengths: Sequence[int], padding: int, enough: int) -> list[list[int]]:
    """Which entries to compute together: by length, so that little of a pass is padding.

    Args:
        lengths: new tokens of each entry.
        padding: a pass with at most so many tokens of padding is not split.
        enough: a pass with at least so many tokens takes no entry that is shorter than 80 % of its longest.
    """
    passes: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda one: (-lengths[one], one)):
        if passes:
            longest = lengths[passes[-1][0]]
            filled = sum(lengths[one] for one in passes[-1])
            waste = longest * (len(passes[-1]) + 1) - filled - lengths[i]
            similar = lengths[i] >= 0.8 * longest
            if waste <= padding or (similar and filled >= enough):
                passes[-1].append(i)
                continue
        passes.append([i])
    return passes


class _Places:
    """Where the tokens of the coming pass lie; all layers of a cache share it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.capacity = 0
        self.end = 0

    def choose(self, rows: list[int], places: Tensor, end: int) -> None:
        """Rows of the pass, for each its places [R, K] (-1: padding), and the end of the longest."""
        if end > self.capacity:
            self.capacity = max(end + RESERVE, int(self.capacity * 1.5))
        self.end = end
        self.all = rows == list(range(self.count))
        self.rows = torch.tensor(rows, device=places.device)
        # One place more than the capacity takes what padding stores.
        self.slots = torch.where(places < 0, self.capacity, places)


class _PlacedLayer(DynamicLayer):
    """Keys and values of one layer, [rows, heads, capacity + 1, size]."""

    def __init__(self, places: _Places) -> None:
        super().__init__()
        self._shared = places
        self._stores: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        shared = self._shared
        before = self._stores
        if before is None or before[0].shape[2] <= shared.capacity:
            before = (None, None) if before is None else before
            self._stores = (self._grown(before[0], key_states), self._grown(before[1], value_states))
        assert self._stores is not None
        shown = []
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[shared.rows[:, None], :, shared.slots] = states.transpose(1, 2)
            seen = store[:, :, : shared.end]
            shown.append(seen if shared.all else seen.index_select(0, shared.rows))
        return shown[0], shown[1]

    def get_seq_length(self) -> int:
        return self._shared.end

    def _grown(self, store: Tensor | None, states: Tensor) -> Tensor:
        """Zeros, not whatever the memory holds: a masked place is multiplied by 0, and 0 * NaN is not 0."""
        _, heads, _, size = states.shape
        grown = states.new_zeros(self._shared.count, heads, self._shared.capacity + 1, size)
        if store is not None:
            grown[:, :, : store.shape[2] - 1] = store[:, :, :-1]
        return grown


def _new_cache(bare: Any, places: _Places) -> DynamicCache:
    cache = DynamicCache(config=bare.config)
    cache.layers = [_PlacedLayer(places) for _ in cache.layers]  # type: ignore[misc]
    return cache


def _mask(visible: Tensor, bare: Any) -> Tensor:
    """[R, 1, K, S] in the form that the attention takes: booleans, or what is added to the scores."""
    if bare.config._attn_implementation != "eager":
        return visible
    return additive(visible, next(bare.parameters()).dtype)


def _window(bare: Any) -> int | None:
    """Tokens that every layer sees."""
    config = bare.config.get_text_config(decoder=True)
    limits = [attention_window(bare), getattr(config, "attention_chunk_size", None)]
    return min((one for one in limits if one is not None), default=None)


@OnceAModel
def _can_keep(model: nn.Module) -> bool:
    """Grow and cut two rows of different length with and without kept keys and values."""
    ids = probe_ids(model, 3, 7).tolist()

    def kept() -> Tensor:
        layers = DynamicCache(config=cast(Any, unwrap(model)).config).layers
        unknown = [type(one).__name__ for one in layers if not isinstance(one, DynamicLayer)]
        if unknown:
            raise ValueError(f"{unknown[0]} in its cache")
        return _probe_logits(RaggedRows(model, 2, cached=True), ids)

    return agree(
        model,
        lambda: _probe_logits(RaggedRows(model, 2, cached=False), ids),
        kept,
        lacks="keep rows of different length",
        differs="its logits differ",
        instead="every step computes whole rows, which is slow",
    )


def _probe_logits(rows: RaggedRows, ids: list[list[int]]) -> Tensor:
    rows.extend([0, 1], [ids[0], ids[1][:3]])
    rows.cut(0, 4)
    first = rows.extend([0], [ids[2][:2]])
    rows.cut(1, 2)
    second = rows.extend([0, 1], [ids[1][:1], ids[2]])
    return torch.cat([*first, *second])
