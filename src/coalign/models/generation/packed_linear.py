"""Linear layers whose weights lie as oneDNN reads them fastest, for decoding on a CPU.

PyTorch's own products lay weights out anew for every call, or read them as they lie; both cost more than the product
where rows are few. Products of few rows read weights alone, so that bfloat16 weights take half the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

_PACKABLE = (torch.float32, torch.bfloat16)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build multiplies packed weights of a format."""
    native = dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype in _PACKABLE and torch.backends.mkldnn.is_available() and native


class PackedLinear:
    """`x @ weight.T + bias` with what mostly follows it.

    Args:
        weight: [O, I], not kept.
        bias: [O] or None.
        dtype: format of the weights, and of what they are multiplied with.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.bias = None if bias is None else bias.to(dtype)
        self._packed = can_pack(dtype)
        weight = weight.to(dtype)
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()) if self._packed else weight
        )

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
