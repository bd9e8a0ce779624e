"""Float32 products on a CPU through oneDNN, where PyTorch's own library leaves half of the processor idle.

PyTorch multiplies float32 matrices with MKL, which keeps to AVX2 on AMD processors. oneDNN, which every build of PyTorch
carries too, uses AVX-512 there: on Zen 5 the same products take half the time. Both round float32 sums, in another order.
Inside `fast_products` every linear layer that is worth it goes that way, in the forward and in the backward pass, whatever
the architecture, with an adapter or without.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from coalign.core.machine.cores import keep_few_kernels

if TYPE_CHECKING:
    from torch import Tensor

SWITCH = "COALIGN_ONEDNN"
"""The environment variable that says no with `0`, for products that are MKL's to the last bit."""
LEAST_ROWS = 16
LEAST_OPERATIONS = 2**20
"""Products of fewer multiplications stay as they are: little is won, and a call costs more."""

_PLAIN = F.linear
_active = threading.local()
_lock, _blocks = threading.Lock(), 0


@cache
def available() -> bool:
    """Whether float32 products go through oneDNN on this machine: an AMD processor with AVX-512, a PyTorch built with both
    libraries, and equal numbers on a probe. A rule, not a measurement: a resumed run computes as the first start did.
    """
    keep_few_kernels()
    backends: Any = torch.backends
    if os.environ.get(SWITCH) == "0" or not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False
    return backends.cpu.get_cpu_capability().startswith("AVX512") and _vendor() == "AuthenticAMD" and _right()


@contextlib.contextmanager
def fast_products(wanted: bool = True) -> Iterator[None]:
    """Inside the block linear layers of float32 on a CPU go through oneDNN where `available`; elsewhere, and where not
    `wanted`, nothing changes.

    Of the calling thread alone. Whoever begins a forward pass with activation checkpointing inside the block ends the backward
    pass there too: layers are recomputed as they were computed.
    """
    if not wanted or getattr(_active, "on", False) or not available():
        yield
        return
    # Not a `TorchFunctionMode`: those are off inside of a backward pass, where layers are computed again.
    global _blocks
    with _lock:
        _blocks += 1
        F.linear = _linear
    _active.on = True
    try:
        yield
    finally:
        _active.on = False
        with _lock:
            _blocks -= 1
            if not _blocks:
                F.linear = _PLAIN


@contextlib.contextmanager
def inference() -> Iterator[None]:
    """`torch.inference_mode` with `fast_products`: what only scores or embeds."""
    with torch.inference_mode(), fast_products():
        yield


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` without a gradient: [..., I], [O, I], [O] -> [..., O], through oneDNN where it is worth it."""
    return _onednn(inputs, weight, bias) if _suits(inputs, weight, bias) else _PLAIN(inputs, weight, bias)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """In the place of `F.linear`, whose arguments have these names."""
    if not getattr(_active, "on", False) or not _suits(input, weight, bias):
        return _PLAIN(input, weight, bias)
    needed = any(one is not None and one.requires_grad for one in (input, weight, bias))
    if torch.is_grad_enabled() and needed:
        return _Linear.apply(input, weight, bias)  # type: ignore[no-any-return]
    return _onednn(input, weight, bias)


class _Linear(torch.autograd.Function):
    """x W' + b. Saves its input only where the weight is trained."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs if ctx.needs_input_grad[1] else None, weight)
        return _onednn(inputs, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        inputs, weight = ctx.saved_tensors
        needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad
        flat = gradient.reshape(-1, gradient.shape[-1])
        grad_inputs = grad_weight = grad_bias = None
        if needs_inputs:
            grad_inputs = _onednn(flat, weight.t()).view(*gradient.shape[:-1], -1)
        if needs_weight:
            rows = inputs.reshape(-1, inputs.shape[-1])
            # Few columns on the right are slow: the smaller side comes first.
            if rows.shape[1] < flat.shape[1]:
                grad_weight = _onednn(rows.t(), flat.t()).t()
            else:
                grad_weight = _onednn(flat.t(), rows.t())
        if needs_bias:
            grad_bias = flat.sum(0)
        return grad_inputs, grad_weight, grad_bias


def _onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


def _suits(inputs: Any, weight: Any, bias: Any = None) -> bool:
    """Plain float32 matrices on a CPU, large enough, and no autocast, which would multiply in another format.

    Weights lie whole: of a slice of columns oneDNN's products take several hundred times as long.
    """
    return (
        all(
            type(one) in (torch.Tensor, torch.nn.Parameter)
            and one.dtype is torch.float32
            and one.device.type == "cpu"
            and one.layout is torch.strided
            for one in (inputs, weight, *(() if bias is None else (bias,)))
        )
        and weight.ndim == 2
        and (weight.is_contiguous() or weight.t().is_contiguous())
        and inputs.ndim >= 2
        and inputs.numel() >= LEAST_ROWS * inputs.shape[-1]
        and inputs.numel() * weight.shape[0] >= LEAST_OPERATIONS
        and available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]
    )


@cache
def _vendor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # no Linux
        return "AuthenticAMD" if "AuthenticAMD" in platform.processor() else ""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == "vendor_id"), "")


def _right() -> bool:
    """Whether the operation is there, and gives a product and a transposed one as MKL gives them."""
    draw = torch.Generator().manual_seed(0)
    sizes = ((33, 64), (48, 64), (5, 33))
    inputs, weight, other = (
        torch.randn(size, generator=draw, dtype=torch.float32, device="cpu") for size in sizes
    )
    pairs = [(inputs, weight), (inputs, weight.t().contiguous().t()), (inputs.t(), other)]
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return all(
                torch.allclose(_onednn(one, two), _PLAIN(one, two), atol=1e-4, rtol=1e-4)
                for one, two in pairs
            )
    except (AttributeError, RuntimeError):
        return False
