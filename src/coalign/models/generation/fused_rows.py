"""Rows on the fused path: prompts in few passes, then a token a step, with what samples of a prompt share kept once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from coalign.models.generation import incremental
from coalign.models.generation.fused_cache import KeptRows, Shape
from coalign.models.generation.fused_decoder import FusedDecoder
from coalign.models.generation.incremental import PREFILL_TOKENS, Rows, additive
from coalign.models.generation.one_row.available import MOST_THREADS
from coalign.models.generation.one_row.step import one_row
from coalign.models.generation.prefix_cache.beginnings import (
    Beginning,
    found_beginnings,
    prefill_order,
    prefill_passes,
    shared_beginning,
)

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.data.media.prompts import PicturePrompt
    from coalign.models.generation.prefix_cache.store import Mark, PrefixCache, States


class FusedRows:
    """Rows of a `FusedDecoder`; see `coalign.models.generation.incremental.Rows`.

    Args:
        decoder: weights.
        shared_tokens: as `incremental.SHARED_TOKENS`, which is the default.
        kept: states of earlier prompts, and the mark of what computes here.
    """

    can_join = True

    def __init__(
        self,
        decoder: FusedDecoder,
        *,
        shared_tokens: int | None = None,
        kept: tuple[PrefixCache, Mark] | None = None,
    ) -> None:
        self._decoder = decoder
        self._shared_tokens = incremental.SHARED_TOKENS if shared_tokens is None else shared_tokens
        self._kept = kept
        self._shape = Shape(len(decoder.layers), decoder.kv_heads, decoder.head_size, decoder.wide)
        self._own = self._prompts = self._new(torch.zeros(1, dtype=torch.long))
        self._groups: _Groups | None = None  # None: nothing but `_own` is read
        self._next = torch.empty(0)
        self.found: list[int] = []

    def start(self, input_ids: Tensor, mask: Tensor, pictures: Sequence[PicturePrompt] = ()) -> Tensor:
        assert not pictures, "models with pictures have other parts"
        width, lengths = input_ids.shape[1], mask.sum(-1)
        prompts = [row[width - n :].tolist() for row, n in zip(input_ids, lengths.tolist(), strict=True)]
        begun = found_beginnings(self._kept, prompts)
        self.found = [one.length for one in begun]
        shared = shared_beginning(input_ids, lengths.tolist(), self._shared_tokens, known=min(self.found))
        if shared:
            early = self._beginning(prompts[0][:shared], begun[0])
            begun = [max(one, early, key=lambda each: each.length) for one in begun]
        own = [len(ids) - one.length for ids, one in zip(prompts, begun, strict=True)]
        order = prefill_order(own, self.found)
        input_ids, lengths = input_ids[order], lengths[order]
        self._own, self._groups, self._next = self._new(width - lengths, width), None, lengths
        logits = [
            self._prefill(self._own, first, input_ids[first:last], [begun[one] for one in order[first:last]])
            for first, last in prefill_passes([own[one] for one in order], PREFILL_TOKENS["cpu"])
        ]
        back = torch.tensor(order).argsort()
        if order != sorted(order):
            self._own.select(back)
            self._next = self._next[back]
        for row, ids in enumerate(prompts):
            self.keep(row, ids)
        return torch.cat(logits)[back]

    def keep(self, row: int, ids: Sequence[int]) -> None:
        if self._kept is not None:
            cache, mark = self._kept
            cache.keep(mark, ids, lambda first, last: self._states(row, first, last))

    def _states(self, row: int, first: int, last: int) -> States:
        """Of the tokens of a row from a place up to another one."""
        length, own = int(self._next[row]), self._own.length
        if self._groups is None:
            return [*self._own.of(row, own - length + first, own - length + last)]
        prompt = length - own
        early = self._prompts.of(
            int(self._groups.owner[row]),
            *(self._prompts.length - prompt + min(one, prompt) for one in (first, last)),
        )
        late = self._own.of(row, *(max(one - prompt, 0) for one in (first, last)))
        return [
            (torch.cat([keys, more_keys], 1), torch.cat([values, more_values], 1))
            for (keys, values), (more_keys, more_values) in zip(early, late, strict=True)
        ]

    def _beginning(self, ids: list[int], begun: Beginning) -> Beginning:
        """What prompts share, from where it is known on."""
        kept = self._new(torch.zeros(1, dtype=torch.long), len(ids))
        self._prefill(kept, 0, torch.tensor([ids]), [begun.cut(len(ids) - 1)])
        return Beginning(len(ids), [*kept.of(0, 0, len(ids))])

    def select(self, index: Tensor) -> None:
        self._next = self._next[index]
        if self._groups is not None:
            self._own.select(index)
            self._groups = self._groups.select(index, self._prompts)
        elif len(index.unique()) < len(index):
            self._prompts = self._own
            self._own = self._new(torch.zeros_like(index))
            self._groups = _Groups(torch.arange(self._prompts.rows), self._shape.kv_heads).select(
                index, self._prompts
            )
        else:
            self._own.select(index)

    def join(self, others: Rows) -> None:
        assert isinstance(others, FusedRows)
        parts = (self, others)
        lengths = torch.cat([one._next for one in parts])
        whole = self._new(int(lengths.max()) - lengths, int(lengths.max()))
        start = 0
        for one in parts:
            one._copy_into(whole, slice(start, start + len(one._next)))
            start += len(one._next)
            one._own = one._prompts = self._new(torch.zeros(1, dtype=torch.long))
        self._own, self._groups, self._next = whole, None, lengths

    def step(self, tokens: Tensor) -> Tensor:
        one = one_row(self._decoder) if self.is_alone() else None
        if one is None:
            logits = self._decoder.run(tokens, self._next, self._see)
        else:
            logits = one.run(tokens, self._next, self._own)
        self._own.grow()
        self._next = self._next + 1
        return logits

    def is_alone(self) -> bool:
        """Whether the next token is one for `one_row`, where it is there."""
        return len(self._next) == 1 and self._groups is None and torch.get_num_threads() <= MOST_THREADS

    def _new(self, padding: Tensor, length: int = 0) -> KeptRows:
        return KeptRows(self._shape, padding, length)

    def _copy_into(self, whole: KeptRows, rows: slice) -> None:
        """These rows as rows of `whole`, flush right."""
        longest, end, new = int(self._next.max()), whole.length, self._own.length
        if self._groups is None:
            whole.take(rows, end, self._own, torch.arange(self._own.rows), longest)
        else:
            whole.take(rows, end, self._own, torch.arange(self._own.rows), new)
            whole.take(rows, end - new, self._prompts, self._groups.owner, longest - new)

    def _prefill(self, kept: KeptRows, first: int, ids: Tensor, begun: Sequence[Beginning]) -> Tensor:
        """[R, V] logits after rows of prompts, whose keys and values end at the last place of `kept`.

        Args:
            first: which row of `kept` is the first of them.
            ids: [R, T] their tokens, padded on the left as `kept` is.
            begun: of each row what is known of its beginning; at least one token is not.
        """
        count, end = len(begun), kept.length
        rows = slice(first, first + count)
        missing = kept.padding[rows]
        place = int(missing.min())  # where the longest of them begins
        missing = missing - place
        known = torch.tensor([one.length for one in begun])
        width = int((end - place - missing - known).max())
        queries_at, seen_at = torch.arange(end - place - width, end - place), torch.arange(end - place)
        visible = (seen_at >= missing[:, None, None]) & (seen_at <= queries_at[:, None])
        plain = width == end - place and not bool(missing.any())
        # padding sees itself: where nothing is seen there are no numbers
        mask = (
            None
            if plain
            else additive(visible | (seen_at == queries_at[:, None]), self._shape.dtype)[:, None]
        )

        def see(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            whole = [store[rows, :, place:end] for store in kept.layers[layer]]
            for store, new in zip(whole, (keys, values), strict=True):
                store[:, :, -width:] = new.unflatten(0, (count, width)).transpose(1, 2)
            for row, (one, start) in enumerate(zip(begun, missing.tolist(), strict=True)):
                for store, early in zip(whole, one.of(layer), strict=False):  # over what padding computed
                    store[row, :, start : start + one.length] = early
            found = F.scaled_dot_product_attention(
                queries.unflatten(0, (count, width)).transpose(1, 2), *whole, attn_mask=mask, is_causal=plain,
                scale=1.0, enable_gqa=True,
            )  # fmt: skip
            return found.transpose(1, 2).flatten(2).flatten(0, 1)

        places = (queries_at - missing[:, None]).clamp(min=0)
        last = torch.arange(1, count + 1) * width - 1
        return self._decoder.run(ids[:, -width:].flatten(), places.flatten(), see, last)

    def _see(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """A token of every row sees all before it: [R, H, D] queries to [R, H D]."""
        rows, size = len(queries), queries.shape[-1]
        queries = queries.reshape(rows * keys.shape[1], -1, size)
        known, worth = self._own.append(layer, keys, values)
        scores = self._own.hide(torch.bmm(queries, known.mT))
        groups = self._groups
        if groups is None:
            return torch.bmm(scores.softmax(-1), worth).view(rows, -1)
        before, worth_before = self._prompts.read(layer)
        early = self._prompts.hide(torch.bmm(groups.together(queries), before.mT))
        weights = torch.cat([groups.apart(early), scores], -1).softmax(-1)
        own = torch.bmm(weights[..., before.shape[1] :], worth)
        shared = torch.bmm(groups.together(weights[..., : before.shape[1]]), worth_before)
        return own.add_(groups.apart(shared)).view(rows, -1)


class _Groups:
    """Which rows are samples of which prompt.

    Args:
        owner: [R] the prompt of each row.
        kv_heads: K.
    """

    def __init__(self, owner: Tensor, kv_heads: int) -> None:
        self.owner, self._kv_heads = owner, kv_heads
        counts = owner.bincount()
        self._prompts, self._most = len(counts), int(counts.max())
        order = owner.argsort(stable=True)
        before = counts.cumsum(0) - counts
        rank = torch.empty_like(owner)
        rank[order] = torch.arange(len(owner)) - before[owner[order]]
        slots = owner * self._most + rank
        full = len(slots) == self._prompts * self._most and bool((slots.diff() == 1).all())
        self._slots = None if full else slots

    def select(self, index: Tensor, prompts: KeptRows) -> _Groups:
        """The groups of rows `index`; prompts that none of them has leave `prompts`."""
        kept, owner = self.owner[index].unique(return_inverse=True)
        if len(kept) < prompts.rows:
            prompts.select(kept)
        return _Groups(owner, self._kv_heads)

    def together(self, states: Tensor) -> Tensor:
        """[R K, G, S] of rows to [P K, N G, S] of prompts with up to N rows each."""
        states = states.unflatten(0, (-1, self._kv_heads))
        if self._slots is not None:
            whole = states.new_zeros(self._prompts * self._most, *states.shape[1:])
            whole[self._slots] = states
            states = whole
        return states.unflatten(0, (self._prompts, self._most)).transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def apart(self, states: Tensor) -> Tensor:
        """[P K, N G, S] of prompts to [R K, G, S] of rows."""
        states = states.unflatten(0, (self._prompts, self._kv_heads)).unflatten(2, (self._most, -1))
        states = states.transpose(1, 2).flatten(0, 1)
        return (states if self._slots is None else states[self._slots]).flatten(0, 1)
