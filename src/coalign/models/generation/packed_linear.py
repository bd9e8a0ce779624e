"""Linear layers whose weights lie as oneDNN reads them fastest, for decoding on a CPU.

PyTorch's own products lay weights out anew for every call, or read them as they lie; both cost more than the product
where rows are few. Products of few rows read weights alone, so that bfloat16 weights take half the time.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from coalign.core.machine.cores import keep_few_kernels
from coalign.models.generation.one_row.available import kernels_of_one_row
from coalign.models.generation.one_row.lanes import Lanes, blocks_in_lanes, blocks_of_lanes, lanes_of_packed

if TYPE_CHECKING:
    from torch import Tensor

_PACKABLE = (torch.float32, torch.bfloat16)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build multiplies packed weights of a format."""
    keep_few_kernels()
    native = dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype in _PACKABLE and torch.backends.mkldnn.is_available() and native


BLOCK = 32
"""Inputs that share a scale and an offset of 4-bit weights, as in the files Q4_0 and Q4_1 of llama.cpp."""
FEW = 4
"""Rows up to which products with 4-bit weights take less time than with bfloat16."""


def can_quantize() -> bool:
    """Whether this processor has fast products with 4-bit weights."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") and can_pack(torch.bfloat16)


class PackedLinear:
    """`x @ weight.T + bias` with what mostly follows it.

    Args:
        weight: [O, I], not kept.
        bias: [O] or None.
        dtype: format of the weights, and of what they are multiplied with.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._describe(weight, bias, dtype)
        weight = weight.to(dtype)
        self._kept = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()) if self._packed else weight

    def _describe(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.bias = None if bias is None else bias.to(dtype)
        self._packed = can_pack(dtype)
        self.outputs, self.inputs = weight.shape

    @property
    def _weight(self) -> Tensor:
        return self._kept

    def lanes(self) -> Lanes | None:
        """The weight for one row; None where oneDNN laid it out otherwise, as it does on some processors."""
        return lanes_of_packed(self._weight, self.outputs, self.inputs) if self._packed else None

    def __call__(self, x: Tensor) -> Tensor:
        """[N, I] of `dtype` to [N, O] of `dtype`."""
        if not self._packed:
            return F.linear(x, self._weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")

    def swish(self, x: Tensor) -> Tensor:
        """The product under SiLU."""
        if not self._packed:
            return F.silu(self(x))
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "swish", [], "")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product times `other` [N, O]."""
        if not self._packed:
            return self(x) * other
        return torch.ops.mkldnn._linear_pointwise(x, other, self._weight, self.bias, "mul")

    def added_to(self, stream: Tensor, x: Tensor) -> Tensor:
        """`stream` [N, O], which may be of a wider format, and the product."""
        if self._packed and stream.dtype == self.dtype:
            return torch.ops.mkldnn._linear_pointwise(x, stream, self._weight, self.bias, "add")
        return stream + self(x)


class Rooms(threading.local):
    """Where one weight in blocks after the other becomes bfloat16 numbers for a product of many rows: a place for each size of
    weights, and of each thread. A weight is there until the next of its size is asked for.
    """

    def __init__(self) -> None:
        self.kernels = kernels_of_one_row()
        self._known: dict[tuple[int, int], tuple[Tensor, Lanes | None]] = {}

    def fit(self, outputs: int, inputs: int) -> bool:
        """Whether weights [O, I] can be made wide here: with numba, and where oneDNN's layout is known."""
        return self.kernels is not None and self._place(outputs, inputs)[1] is not None

    def widened(self, blocks: Lanes, outputs: int, inputs: int) -> Tensor:
        """The weight [O, I] as oneDNN packs it."""
        weight, lanes = self._place(outputs, inputs)
        assert self.kernels is not None
        assert lanes is not None
        self.kernels.widen(blocks, lanes[0])
        return weight

    def _place(self, outputs: int, inputs: int) -> tuple[Tensor, Lanes | None]:
        if (outputs, inputs) not in self._known:
            told_apart = (torch.arange(outputs * inputs) % 251).view(outputs, inputs).bfloat16()
            weight = torch.ops.mkldnn._reorder_linear_weight(told_apart)
            self._known[outputs, inputs] = weight, lanes_of_packed(weight, outputs, inputs)
        return self._known[outputs, inputs]


class BlockLinear(PackedLinear):
    """Weights in blocks of 32 4-bit numbers with a scale and an offset each; exact where a file's weights are of that form, but
    for the rounding of those two to bfloat16 without `rooms`. Few rows are multiplied with the blocks, more with the same
    numbers in bfloat16: made anew for every product in `rooms`, where they are given and can be used, else kept.

    Args:
        weight: [O, I] in float32; O must be divisible by 16 and I by 32.
        rooms: shared with other weights.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rooms: Rooms | None = None) -> None:
        blocks = weight.unflatten(1, (-1, BLOCK))
        low, high = blocks.aminmax(dim=-1)
        scale = (high - low) / 15
        numbers = (blocks - low[..., None]) / scale.where(scale != 0, 1.0)[..., None]
        numbers = numbers.round_().clamp_(0, 15)
        self._blocks = blocks_in_lanes(numbers, scale, low)
        self._rooms = rooms if rooms is not None and rooms.fit(*weight.shape) else None
        if self._rooms is not None:
            self._describe(weight, bias, torch.bfloat16)
            return
        wide = (numbers - 8) * scale.bfloat16().float()[..., None]
        wide += (low + 8 * scale).bfloat16().float()[..., None]
        super().__init__(wide.flatten(1), bias, torch.bfloat16)

    def lanes(self) -> Lanes | None:
        """The numbers of the blocks, with a scale and an offset in float32."""
        return self._blocks

    @property
    def _weight(self) -> Tensor:
        if self._rooms is None:
            return self._kept
        return self._rooms.widened(self._blocks, self.outputs, self.inputs)

    @cached_property
    def _few(self) -> tuple[Tensor, Tensor]:
        """The blocks as PyTorch multiplies few rows with them, made when that is first done."""
        numbers, scale, low = blocks_of_lanes(self._blocks, self.outputs)
        scales = torch.stack([scale.T, (low + 8 * scale).T], -1).bfloat16().contiguous()
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.flatten(1).int(), 1), scales

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Whether the sizes can be cut into blocks."""
        return weight.shape[0] % 16 == 0 and weight.shape[1] % BLOCK == 0

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > FEW:
            return super().__call__(x)
        if self._rooms is None:
            blocks, scales = self._few
            product = torch.ops.aten._weight_int4pack_mm_for_cpu(x, blocks, BLOCK, scales)
        else:
            product = self._multiplied(x)
        return product if self.bias is None else product.add_(self.bias)

    def _multiplied(self, x: Tensor) -> Tensor:
        assert self._rooms is not None
        assert self._rooms.kernels is not None
        found = torch.empty(len(x), self._blocks[1].shape[0] * self._blocks[1].shape[2])
        self._rooms.kernels.multiply_blocks(self._blocks, x.float().numpy(), found.numpy())
        return found[:, : self.outputs].to(self.dtype)

    def swish(self, x: Tensor) -> Tensor:
        return super().swish(x) if len(x) > FEW else F.silu(self(x), inplace=True)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return super().times(x, other) if len(x) > FEW else self(x).mul_(other)
