"""Kernels for the next token of one text on a CPU, in numba: a layer of Llama and its kin as one call.

With one row every weight is read once and multiplied once, so that memory sets the pace. Weights lie in blocks of `LANES`
outputs, [O / LANES, I, LANES] with zeros for what is missing in the last one, which is how oneDNN packs float32: they are
read from first to last, and what comes next is asked for ahead of time. A weight is a tuple of arrays,

    (blocks,)                     float32 [B, I, LANES], or uint32 [B, I / 2, LANES] with two bfloat16 numbers each, the
                                  first in the lower half
    (numbers, scales, offsets)    uint8 [B, I / BLOCK, BLOCK, LANES / 2], where a byte holds output j in its lower half and
                                  output j + LANES / 2 in its upper one; float32 [B, I / BLOCK, LANES] twice

and what is multiplied, and all sums, are float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

LANES = 64
BLOCK = 32
_AHEAD = 16
"""Rows of `LANES` numbers by which memory is asked ahead: 4 KiB."""
_LINE = 16
"""Numbers of four bytes in a line of a cache."""
_HALF = LANES // 2
_HOW: Any = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},  # sums in any order; infinities and what is no number stay
}


def _code_of_fetch(typing_context, array, index):  # type: ignore[no-untyped-def]
    """Ask memory for what lies `index` numbers after the start of an array; it may lie beyond its end."""
    del typing_context

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = builder.bitcast(builder.gep(start, [arguments[1]]), pointer)
        builder.call(prefetch, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), code


def _code_of_as_float(typing_context, bits):  # type: ignore[no-untyped-def]
    """The float32 number of 32 bits."""
    del typing_context, bits

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        del context, signature
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), code


def _code_of_lower(typing_context, byte):  # type: ignore[no-untyped-def]
    """The lower four bits of a byte as a number. In Python they would become 64 bits wide first, which takes twice as long."""
    del typing_context, byte

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        del context, signature
        whole = builder.zext(arguments[0], ir.IntType(32))
        return builder.sitofp(builder.and_(whole, ir.IntType(32)(15)), ir.FloatType())

    return types.float32(types.uint8), code


def _code_of_upper(typing_context, byte):  # type: ignore[no-untyped-def]
    """The upper four bits of a byte as a number."""
    del typing_context, byte

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        del context, signature
        whole = builder.zext(arguments[0], ir.IntType(32))
        return builder.sitofp(builder.lshr(whole, ir.IntType(32)(4)), ir.FloatType())

    return types.float32(types.uint8), code


def _code_of_halves(typing_context, even, odd):  # type: ignore[no-untyped-def]
    """Two float32 numbers in bfloat16, rounded to the nearest, ties away from zero, the first in the lower half."""
    del typing_context, even, odd

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        del context, signature
        number = ir.IntType(32)
        rounded = [builder.add(builder.bitcast(one, number), number(0x8000)) for one in arguments]
        upper = builder.and_(rounded[1], number(0xFFFF0000))
        return builder.or_(builder.lshr(rounded[0], number(16)), upper)

    return types.uint32(types.float32, types.float32), code


_fetch: Any = intrinsic(_code_of_fetch)
_as_float: Any = intrinsic(_code_of_as_float)
_lower: Any = intrinsic(_code_of_lower)
_upper: Any = intrinsic(_code_of_upper)
_halves: Any = intrinsic(_code_of_halves)


@njit(**_HOW)
def _float_product(weight, x, out):  # type: ignore[no-untyped-def]
    blocks = weight[0]
    for b in range(len(blocks)):
        block = blocks[b]
        total = np.zeros(LANES, np.float32)
        for i in range(len(x)):
            ahead = (i + _AHEAD) * LANES
            for line in range(0, LANES, _LINE):
                _fetch(block, ahead + line)
            factor = x[i]
            for j in range(LANES):
                total[j] += factor * block[i, j]
        out[b * LANES : (b + 1) * LANES] = total


@njit(**_HOW)
def _half_product(weight, x, out):  # type: ignore[no-untyped-def]
    blocks = weight[0]
    for b in range(len(blocks)):
        block = blocks[b]
        total = np.zeros(LANES, np.float32)
        for i in range(len(x) // 2):
            ahead = (i + _AHEAD) * LANES
            for line in range(0, LANES, _LINE):
                _fetch(block, ahead + line)
            even, odd = x[2 * i], x[2 * i + 1]
            for j in range(LANES):
                pair = block[i, j]
                total[j] += even * _as_float(np.uint32(pair << np.uint32(16)))
                total[j] += odd * _as_float(np.uint32(pair & np.uint32(0xFFFF0000)))
        out[b * LANES : (b + 1) * LANES] = total


@njit(**_HOW)
def _block_product(weight, x, out):  # type: ignore[no-untyped-def]
    numbers, scales, offsets = weight
    part = np.empty(LANES, np.float32)
    for b in range(len(numbers)):
        total = out[b * LANES : (b + 1) * LANES]
        total[:] = 0
        for g in range(numbers.shape[1]):
            part[:] = 0
            block, inputs = numbers[b, g], x[g * BLOCK : (g + 1) * BLOCK]
            whole = np.float32(0)
            for i in range(0, BLOCK, 4):
                x0, x1, x2, x3 = inputs[i], inputs[i + 1], inputs[i + 2], inputs[i + 3]
                whole += (x0 + x1) + (x2 + x3)
                for j in range(_HALF):
                    part[j] += (
                        x0 * _lower(block[i, j])
                        + x1 * _lower(block[i + 1, j])
                        + x2 * _lower(block[i + 2, j])
                        + x3 * _lower(block[i + 3, j])
                    )
                for j in range(_HALF):
                    part[_HALF + j] += (
                        x0 * _upper(block[i, j])
                        + x1 * _upper(block[i + 1, j])
                        + x2 * _upper(block[i + 2, j])
                        + x3 * _upper(block[i + 3, j])
                    )
            for j in range(LANES):
                total[j] += scales[b, g, j] * part[j] + offsets[b, g, j] * whole


@njit(**_HOW)
def widen(weight, out):  # type: ignore[no-untyped-def]
    """A weight of 4-bit numbers as one of bfloat16 [B, at least I / 2, LANES], rounded once."""
    numbers, scales, offsets = weight
    for b in range(len(numbers)):
        for g in range(numbers.shape[1]):
            scale, offset, block = scales[b, g], offsets[b, g], numbers[b, g]
            for i in range(0, BLOCK, 2):
                first, second, pair = block[i], block[i + 1], out[b, (g * BLOCK + i) // 2]
                for j in range(_HALF):
                    even = _lower(first[j]) * scale[j] + offset[j]
                    pair[j] = _halves(even, _lower(second[j]) * scale[j] + offset[j])
                for j in range(_HALF, LANES):
                    even = _upper(first[j - _HALF]) * scale[j] + offset[j]
                    pair[j] = _halves(even, _upper(second[j - _HALF]) * scale[j] + offset[j])


@njit(**_HOW)
def multiply_blocks(weight, x, out):  # type: ignore[no-untyped-def]
    """`out` [N, B LANES] of x [N, I], for few rows and a weight of 4-bit numbers: two rows at a time."""
    for row in range(0, len(x) - 1, 2):
        _block_products(weight, x[row], x[row + 1], out[row], out[row + 1])
    if len(x) % 2:
        _block_product(weight, x[-1], out[-1])


@njit(**_HOW)
def _block_products(weight, x, y, out_x, out_y):  # type: ignore[no-untyped-def]
    numbers, scales, offsets = weight
    part_x, part_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for b in range(len(numbers)):
        total_x, total_y = out_x[b * LANES : (b + 1) * LANES], out_y[b * LANES : (b + 1) * LANES]
        total_x[:] = 0
        total_y[:] = 0
        for g in range(numbers.shape[1]):
            part_x[:] = 0
            part_y[:] = 0
            whole_x, whole_y = np.float32(0), np.float32(0)
            for i in range(0, BLOCK, 2):
                k = g * BLOCK + i
                first, second = numbers[b, g, i], numbers[b, g, i + 1]
                x0, x1, y0, y1 = x[k], x[k + 1], y[k], y[k + 1]
                whole_x += x0 + x1
                whole_y += y0 + y1
                for j in range(_HALF):
                    one, other = _lower(first[j]), _lower(second[j])
                    part_x[j] += x0 * one + x1 * other
                    part_y[j] += y0 * one + y1 * other
                for j in range(_HALF):
                    one, other = _upper(first[j]), _upper(second[j])
                    part_x[_HALF + j] += x0 * one + x1 * other
                    part_y[_HALF + j] += y0 * one + y1 * other
            for j in range(LANES):
                total_x[j] += scales[b, g, j] * part_x[j] + offsets[b, g, j] * whole_x
                total_y[j] += scales[b, g, j] * part_y[j] + offsets[b, g, j] * whole_y


def _product(weight, x, out):  # type: ignore[no-untyped-def]
    """`out` [B LANES] of x [I]."""
    raise NotImplementedError


@overload(_product, jit_options={"fastmath": _HOW["fastmath"], "error_model": "numpy"})
def _choose_product(weight, x, out):  # type: ignore[no-untyped-def]
    del x, out
    if len(weight) == 3:
        kernel = _block_product
    else:
        kernel = _float_product if weight[0].dtype == types.float32 else _half_product
    return lambda weight, x, out: kernel(weight, x, out)


@njit(**_HOW)
def _linear(linear, x):  # type: ignore[no-untyped-def]
    """[O] of x [I]; `linear` is a weight, its bias [O] or an empty one, and O."""
    weight, bias, outputs = linear
    whole = np.empty(len(weight[0]) * LANES, np.float32)
    _product(weight, x, whole)
    out = whole[:outputs]
    for j in range(len(bias)):
        out[j] += bias[j]
    return out


@njit(**_HOW)
def _normed(stream, gain, eps):  # type: ignore[no-untyped-def]
    """Over its root mean square; `gain` may be empty."""
    square = np.float32(0)
    for i in range(len(stream)):
        square += stream[i] * stream[i]
    factor = np.float32(1) / np.sqrt(square / np.float32(len(stream)) + eps)
    normed = stream * factor
    for i in range(len(gain)):
        normed[i] *= gain[i]
    return normed


@njit(**_HOW)
def _turn(states, gains, turns, eps):  # type: ignore[no-untyped-def]
    """Heads [H + K, D] normed where there are gains [H + K, D], and turned by pairs [D / 2, 2] where there are any."""
    heads, size = states.shape
    if len(gains):
        for h in range(heads):
            states[h] = _normed(states[h], gains[h], eps)
    if len(turns):
        for h in range(heads):
            for d in range(size // 2):
                real, other = states[h, 2 * d], states[h, 2 * d + 1]
                states[h, 2 * d] = real * turns[d, 0] - other * turns[d, 1]
                states[h, 2 * d + 1] = real * turns[d, 1] + other * turns[d, 0]


@njit(**_HOW)
def _attend(queries, keys, values, span):  # type: ignore[no-untyped-def]
    """[H D] of queries [H, D] to the places of `span`, the last one included, of keys and values [K, reserved, D]."""
    heads, size = queries.shape
    group = heads // len(keys)
    start, end = span[0], span[1] + 1
    seen = np.zeros((heads, size), np.float32)
    weights = np.empty(end, np.float32)
    for h in range(heads):
        kept, worth, query, found = keys[h // group], values[h // group], queries[h], seen[h]
        top = np.float32(-np.inf)
        for t in range(start, end):
            score = np.float32(0)
            for d in range(size):
                score += query[d] * kept[t, d]
            weights[t] = score
            top = max(top, score)
        whole = np.float32(0)
        for t in range(start, end):
            weights[t] = math.exp(weights[t] - top)
            whole += weights[t]
        for t in range(start, end):
            share = weights[t] / whole
            for d in range(size):
                found[d] += share * worth[t, d]
    return seen.reshape(heads * size)


@njit(**_HOW)
def advance(stream, first, qkv, gains, turns, keys, values, span, out, second, gate, up, down, heads, eps):  # type: ignore[no-untyped-def]
    """One layer, for one token.

    Args:
        stream: [I], changed in place.
        first, second: [I] gains of the norms, or empty.
        qkv, out, gate, up, down: as of `_linear`. Pairs of coordinates that turn lie side by side.
        gains: [H + K, D] of queries' and keys' norms, or empty.
        turns: [D / 2, 2] cosines and sines, or empty.
        keys, values: [K, reserved, D]; those of the token are written to the last place of `span`.
        span: first place that is seen, and the token's.
        heads: of queries.
        eps: of all norms.
    """
    kv_heads, size = keys.shape[0], keys.shape[2]
    place = span[1]
    states = _linear(qkv, _normed(stream, first, eps))
    known, every = heads + kv_heads, heads + 2 * kv_heads
    rows = states.reshape(every, size)
    _turn(rows[:known], gains, turns, eps)
    keys[:, place] = rows[heads:known]
    values[:, place] = rows[known:]
    seen = _attend(rows[:heads], keys, values, span)
    stream += _linear(out, seen)
    x = _normed(stream, second, eps)
    inner, other = _linear(gate, x), _linear(up, x)
    for i in range(len(inner)):
        inner[i] *= other[i] / (np.float32(1) + math.exp(-inner[i]))
    stream += _linear(down, inner)


@njit(**_HOW)
def logits(stream, gain, head, eps):  # type: ignore[no-untyped-def]
    """[V] of the last layer's stream [I], normed with `gain` [I]."""
    return _linear(head, _normed(stream, gain, eps))
