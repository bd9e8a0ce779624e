"""Weights as the kernels for one row read them (`coalign.models.generation.one_row.kernels` says how they lie)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

Lanes = tuple[np.ndarray, ...]
LANES = 64
BLOCK = 32
_LOOKED_AT = 5


def lanes_of_packed(weight: Tensor, outputs: int, inputs: int) -> Lanes | None:
    """The memory of a weight [O, I] that oneDNN has packed, float32 or bfloat16, not a copy: valid as long as the weight is.
    None where it does not lie in lanes.
    """
    half = weight.dtype == torch.bfloat16
    if half and inputs % 2:
        return None
    count = torch.ops.mkldnn._nbytes(weight) // 4
    blocks = -(-outputs // LANES)
    if count % (blocks * LANES):
        return None
    place = ctypes.cast(torch.ops.mkldnn.data_ptr(weight), ctypes.POINTER(ctypes.c_uint32))
    lanes = np.ctypeslib.as_array(place, (blocks, count // (blocks * LANES), LANES))
    if lanes.shape[1] < (inputs // 2 if half else inputs):
        return None
    for one in {round(step * (inputs - 1) / _LOOKED_AT) for step in range(_LOOKED_AT + 1)}:
        column = lanes[:, one // 2 if half else one].reshape(-1)[:outputs]
        if half:
            column = (column >> 16 if one % 2 else column & 0xFFFF) << 16
        unit = torch.zeros(1, inputs, dtype=weight.dtype)
        unit[0, one] = 1
        product = torch.ops.mkldnn._linear_pointwise(unit, weight, None, "none", [], "")
        if not np.array_equal(column.view(np.float32), product[0].float().numpy()):
            return None
    return (lanes if half else lanes.view(np.float32),)


def blocks_in_lanes(numbers: Tensor, scale: Tensor, offset: Tensor) -> Lanes:
    """Weights `numbers` * `scale` + `offset` in lanes.

    Args:
        numbers: [O, I / BLOCK, BLOCK] whole numbers from 0 to 15.
        scale, offset: [O, I / BLOCK] float32.
    """
    spare = (0, 0) * (numbers.ndim - 1) + (0, -len(numbers) % LANES)
    lanes = torch.nn.functional.pad(numbers.byte(), spare).unflatten(0, (-1, LANES)).permute(0, 2, 3, 1)
    both = lanes[..., : LANES // 2] | lanes[..., LANES // 2 :] << 4
    line = (torch.nn.functional.pad(one, spare[2:]).unflatten(0, (-1, LANES)).mT for one in (scale, offset))
    return tuple(one.contiguous().numpy() for one in (both, *line))


def blocks_of_lanes(lanes: Lanes, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `blocks_in_lanes` was given, of `outputs` outputs."""
    both, *line = map(torch.from_numpy, lanes)
    numbers = torch.cat([both & 15, both >> 4], -1).permute(0, 3, 1, 2).flatten(0, 1)
    scale, offset = (one.mT.flatten(0, 1)[:outputs] for one in line)
    return numbers[:outputs], scale, offset
