"""The fused path of a model: whether it can be taken, and weights that follow the model."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from psutil import virtual_memory

from coalign.models.files.file_pages import frugal, return_freed_memory
from coalign.models.generation.fused_decoder import FusedDecoder, is_llama_like
from coalign.models.generation.fused_rows import FusedRows
from coalign.models.generation.incremental import PlainRows, probe_logits
from coalign.models.generation.packed_linear import FEW, can_quantize
from coalign.models.generation.precision import Precision
from coalign.models.generation.prefix_cache.marks import weights_mark
from coalign.models.generation.prefix_cache.store import Mark, PrefixCache
from coalign.models.modules import unwrap
from coalign.models.scoring.probing import agree, similar_logits

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHARE = 0.25
"""Of the machine's memory, the most that a copy of the weights may take."""
_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int4": torch.bfloat16}
_MADE_UP = 16
"""Tokens of the text that shows how large logits are."""
_BEGUN = FEW + 1
"""Tokens that it begins with: no product of few rows is made ready for them."""
_agrees: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype, bool]] = weakref.WeakKeyDictionary()


class FusedModel:
    """Opens rows on the fused path (`coalign.models.generation.fused_decoder`) where a model allows it.

    The weights are a copy, made when rows are first opened and anew when the model's have changed since. A probe on each
    model shows first that it gives the model's own logits.

    Args:
        model: any causal language model.
        precision: of the products; by default that of the model's weights.
    """

    def __init__(self, model: nn.Module, precision: Precision | None = None) -> None:
        self._model = model
        self._blocks = precision == "int4"
        own = next(model.parameters()).dtype
        self._dtype = _FORMATS[precision] if precision else own
        self._rounds = self._dtype != own
        self._decoder: FusedDecoder | None = None
        self._made_of: tuple[object, ...] = ()

    def open(self, prefixes: PrefixCache | None = None) -> FusedRows | None:
        """New rows, which go on from what is kept of earlier prompts; None where this model takes another path."""
        decoder = self._current()
        if decoder is None:
            return None
        kept = None if prefixes is None else (prefixes, Mark(self._made_of, "fused"))
        return FusedRows(decoder, kept=kept)

    @property
    def is_used(self) -> bool:
        """Whether rows open on this path."""
        return self._current() is not None

    def _current(self) -> FusedDecoder | None:
        if unwrap(self._model) is not self._model or not is_llama_like(self._model) or not self._fits():
            return None
        if self._blocks and not can_quantize():
            return None
        now = weights_mark(self._model)
        if now != self._made_of:
            self._decoder = None  # its memory is free before the next one is made
            if not self._agrees():
                return None
            self._decoder, self._made_of = self._decoder or self._make(blocks=self._blocks), now
        return self._decoder

    def _fits(self) -> bool:
        """By total, not free memory: a resumed run takes the same path."""
        needed = sum(one.numel() for one in self._model.parameters()) * self._dtype.itemsize
        return needed <= _SHARE * virtual_memory().total

    @torch.inference_mode()
    def _make(self, *, blocks: bool, passing: bool = False) -> FusedDecoder:
        decoder = FusedDecoder(self._model, self._dtype, blocks=blocks, passing=passing)
        if self._dtype == torch.bfloat16 and not passing:
            decoder.centre(_usual_top(decoder))
        if blocks:
            return_freed_memory()
        return decoder

    def _agrees(self) -> bool:
        """Whether the model's structure is understood; 4-bit blocks are no part of the question."""
        known = _agrees.setdefault(self._model, {})
        if self._dtype not in known:
            made: list[FusedDecoder] = []

            def rows() -> FusedRows:
                if not made:
                    made.append(self._make(blocks=False, passing=self._blocks))
                return FusedRows(made[0], shared_tokens=1)

            with torch.inference_mode():
                known[self._dtype] = agree(
                    self._model,
                    self._own_logits,
                    lambda: probe_logits(self._model, rows),
                    lacks="decode with fused weights",
                    differs="its logits differ with them",
                    instead="its own modules decode, which is slower",
                    similar=lambda actual, expected, half: similar_logits(
                        actual, expected, half or self._rounds
                    ),
                )
            if known[self._dtype] and not self._blocks:
                self._decoder = made[0]
        return known[self._dtype]

    def _own_logits(self) -> Tensor:
        with frugal(self._model):
            return probe_logits(self._model, lambda: PlainRows(self._model))


def _usual_top(decoder: FusedDecoder) -> float:
    """About how large the largest logits are: the median over a text that the model makes up."""
    rows = FusedRows(decoder)
    logits = rows.start(torch.zeros(1, _BEGUN, dtype=torch.long), torch.ones(1, _BEGUN, dtype=torch.long))
    tops = []
    for _ in range(_MADE_UP):
        top, token = logits.max(-1)
        tops.append(top)
        logits = rows.step(token)
    return float(torch.cat(tops).nan_to_num(0.0, 0.0, 0.0).median())
