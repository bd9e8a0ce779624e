"""The next token of one text, on the weights of a `FusedDecoder`."""

from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, proxy

import numpy as np
import torch

from coalign.models.files.file_pages import gather_pages
from coalign.models.generation.one_row.available import kernels_of_one_row

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.generation.fused_cache import KeptRows
    from coalign.models.generation.fused_decoder import FusedDecoder
    from coalign.models.generation.packed_linear import PackedLinear

_Linear = tuple[tuple[np.ndarray, ...], np.ndarray, int]
"""Weight in lanes, bias [O] or an empty one, O."""
logger = logging.getLogger(__name__)


class OneRow:
    """Decodes a token a call.

    Args:
        decoder: float32 between layers.
        head: its output layer.
        linears: those of the layers, as `_parts` orders them.
        kernels: of `kernels_of_one_row`.
    """

    def __init__(
        self, decoder: FusedDecoder, head: Any, linears: list[list[_Linear | None]], kernels: Any
    ) -> None:
        self._kernels = kernels
        _tell_of_compiling(kernels.advance)
        self._head = head
        self._decoder: Any = proxy(decoder)  # which lives as long as what is remembered of it
        self._gain, self._eps = decoder.gain.numpy(), np.float32(decoder.eps)
        empty = np.empty(0, np.float32)
        self._no_turns = np.empty((0, 2), np.float32)
        no_gains = np.empty((0, decoder.head_size), np.float32)
        self._layers = [
            (
                empty if layer.first is None else layer.first.numpy(),
                empty if layer.second is None else layer.second.numpy(),
                no_gains if layer.gains is None else layer.gains.numpy(),
                layer.turns,
                parts,
            )
            for layer, parts in zip(decoder.layers, linears, strict=True)
        ]

    def run(self, tokens: Tensor, places: Tensor, kept: KeptRows) -> Tensor:
        """[1, V] logits after a token [1] at a place [1] of its text. Its keys and values are written to the next place of
        `kept`, one row; `grow` counts it.
        """
        decoder, kernels = self._decoder, self._kernels
        kept.reserve()
        span = (int(kept.padding[0]), kept.length)
        stream = decoder.embedded(tokens)[0].numpy()
        turns = torch.view_as_real(decoder.turns_at(places)[0, 0]).numpy()
        for layer, (keys, values) in zip(self._layers, kept.layers, strict=True):
            first, second, gains, turning, (qkv, out, gate, up, down) = layer
            kernels.advance(
                stream, first, qkv, gains, turns if turning else self._no_turns,
                keys[0].numpy(), values[0].numpy(), span,
                out, second, gate, up, down, decoder.heads, self._eps,
            )  # fmt: skip
        return torch.from_numpy(kernels.logits(stream, self._gain, self._head, self._eps))[None]


def one_row(decoder: FusedDecoder) -> OneRow | None:
    """What decodes on these weights, made when it is first asked for. None where numba is not installed, or weights do not lie
    as the kernels read them.
    """
    if decoder not in _made:
        _made[decoder] = _make(decoder)
    return _made[decoder]


def _make(decoder: FusedDecoder) -> OneRow | None:
    kernels = kernels_of_one_row() if decoder.wide == torch.float32 else None
    if kernels is None:
        return None
    head = _linear(decoder.head, decoder.head_bias)
    linears = [[_linear(one, one.bias) for one in _parts(layer)] for layer in decoder.layers]
    known = [one for one in (head, *chain(*linears)) if one is not None]
    if len(known) <= sum(map(len, linears)):
        return None
    arrays = [array for lanes, _, _ in known for array in lanes]
    gather_pages([(one.ctypes.data, one.ctypes.data + one.nbytes) for one in arrays])
    return OneRow(decoder, head, linears, kernels)


def _tell_of_compiling(kernel: Any) -> None:
    """Say that the first answer waits, where numba has not kept the kernel: beside its file, or, where that cannot be
    written, in the user's cache.
    """
    place, name = (
        Path(kernel.stats.cache_path),
        f"{Path(kernel.py_func.__code__.co_filename).stem}.{kernel.__name__}",
    )
    if not any(place.glob(f"{name}-*.nbi")):
        logger.warning(
            "Kernels for one answer at a time are compiled once, which takes some seconds; kept in %s.", place
        )


def _parts(layer: Any) -> tuple[PackedLinear, ...]:
    return layer.qkv, layer.out, layer.gate, layer.up, layer.down


def _linear(one: PackedLinear, bias: Tensor | None) -> _Linear | None:
    lanes = one.lanes()
    added = np.empty(0, np.float32) if bias is None else bias.float().numpy()
    return None if lanes is None else (lanes, added, one.outputs)


_made: WeakKeyDictionary[FusedDecoder, OneRow | None] = WeakKeyDictionary()
