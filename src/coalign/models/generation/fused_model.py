"""The fused path of a model: whether it can be taken, and weights that follow the model."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from psutil import virtual_memory

from coalign.models.generation.fused_decoder import FusedDecoder, is_llama_like
from coalign.models.generation.fused_rows import FusedRows
from coalign.models.generation.incremental import PlainRows, probe_logits
from coalign.models.modules import unwrap
from coalign.models.scoring.probing import agree, similar_logits

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHARE = 0.25
"""Of the machine's memory, the most that a copy of the weights may take."""
_SAMPLED = 64
"""Numbers of a weight that tell whether it has changed."""
_agrees: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype, bool]] = weakref.WeakKeyDictionary()


class FusedModel:
    """Opens rows on the fused path (`coalign.models.generation.fused_decoder`) where a model allows it.

    The weights are a copy, made when rows are first opened and anew when the model's have changed since. A probe on each
    model shows first that it gives the model's own logits.

    Args:
        model: any causal language model.
        dtype: format of the products; by default that of the model's weights.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None) -> None:
        self._model = model
        self.dtype = dtype or next(model.parameters()).dtype
        self._decoder: FusedDecoder | None = None
        self._made_of: tuple[object, ...] = ()

    def open(self) -> FusedRows | None:
        """New rows; None where this model takes another path."""
        decoder = self._current()
        return None if decoder is None else FusedRows(decoder)

    @property
    def is_used(self) -> bool:
        """Whether rows open on this path."""
        return self._current() is not None

    def _current(self) -> FusedDecoder | None:
        if unwrap(self._model) is not self._model or not is_llama_like(self._model):
            return None
        now = _fingerprint(self._model)
        if self._decoder is None or now != self._made_of:
            self._decoder = None  # its memory is free before the next one is made
            if self._fits():
                self._decoder, self._made_of = FusedDecoder(self._model, self.dtype), now
        return self._decoder if self._decoder is not None and self._agrees(self._decoder) else None

    def _fits(self) -> bool:
        """By total, not free memory: a resumed run takes the same path."""
        needed = sum(one.numel() for one in self._model.parameters()) * self.dtype.itemsize
        return needed <= _SHARE * virtual_memory().total

    def _agrees(self, decoder: FusedDecoder) -> bool:
        known = _agrees.setdefault(self._model, {})
        if self.dtype not in known:
            rounds = self.dtype != next(self._model.parameters()).dtype
            with torch.inference_mode():
                known[self.dtype] = agree(
                    self._model,
                    lambda: probe_logits(self._model, lambda: PlainRows(self._model)),
                    lambda: probe_logits(self._model, lambda: FusedRows(decoder, shared_tokens=1)),
                    lacks="decode with fused weights",
                    differs="its logits differ with them",
                    instead="its own modules decode, which is slower",
                    similar=lambda actual, expected, half: similar_logits(actual, expected, half or rounds),
                )
        return known[self.dtype]


def _fingerprint(model: nn.Module) -> tuple[object, ...]:
    """What changes when weights do: where they lie, how often they were written, and, since not every write is counted,
    some of their numbers.
    """
    return tuple(
        (one.data_ptr(), 0 if one.is_inference() else one._version, _sampled(one.detach()))
        for one in model.parameters()
    )


def _sampled(values: Tensor) -> float:
    flat = values.reshape(-1)
    return float(flat[:: max(len(flat) // _SAMPLED, 1)].double().sum())
