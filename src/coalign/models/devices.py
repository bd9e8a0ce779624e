"""Which device, number format and threads a model gets, and the one line that says so."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.errors import ConfigError
from coalign.core.machine.cores import usable_cores, watched
from coalign.models.modules import unwrap

if TYPE_CHECKING:
    from torch import nn

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
BETWEEN = 10.0
"""Seconds between two looks at what other programs take."""


def pick_device(name: str = "auto") -> torch.device:
    """The device to work on.

    Args:
        name: `auto` (CUDA, else MPS, else CPU), `cpu`, `mps`, `cuda` or `cuda:<n>`. Under `accelerate launch` and
            `torchrun`, `auto` and `cuda` are the GPU of this process (`LOCAL_RANK`).

    Raises:
        ConfigError: an unknown name, or a device that this machine or this build of PyTorch does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdigit())):
        raise ConfigError(f"device: {name!r} is not usable, expected one of: auto, cpu, cuda, cuda:<n>, mps")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"device: {name} was asked for, but PyTorch sees no CUDA device.", hint=_cuda_hint()
            )
        number = int(index) if index else int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        if number >= torch.cuda.device_count():
            raise ConfigError(
                f"device: {name} was asked for; there are {torch.cuda.device_count()} CUDA devices."
            )
        return torch.device("cuda", number)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device: mps was asked for, but PyTorch sees no Apple GPU.")
    if kind == "cpu":
        share_cores(least=1.0)
    return torch.device(kind)


def pick_dtype(device: torch.device, name: DtypeName = "auto", *, training: bool = False) -> torch.dtype:
    """The number format of the weights.

    Args:
        device: where the model will be.
        name: a format, or `auto`: on CUDA bfloat16 (float16 on GPUs before Ampere); float32 on CPU and MPS. Weights
            that are trained themselves are always float32, since updates of the size of a learning rate vanish in
            bfloat16; products are bfloat16 all the same (`autocast_format`).
        training: these weights are trained themselves (full fine-tuning; not the base under an adapter).

    Raises:
        ConfigError: float16 for weights that are trained (their updates underflow) or on a CPU.
    """
    if name == "float16" and (training or device.type == "cpu"):
        why = "weights that are trained" if training else "a CPU"
        raise ConfigError(f"dtype: float16 is not usable for {why}, expected bfloat16 or float32")
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda" or training:
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast_format(device: torch.device, name: DtypeName = "auto") -> torch.dtype | None:
    """The number format of products while a model is trained, where it is not that of the weights: bfloat16 on CUDA where
    the GPU has it and no format was asked for; None elsewhere.
    """
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native and name == "auto" else None


def autocast_of(model: nn.Module) -> AbstractContextManager[Any]:
    """Inside the block `model` computes as it does while it is trained: its attribute `autocast_dtype`, which loading for
    training sets, is the format of products.
    """
    dtype = getattr(unwrap(model), "autocast_dtype", None)
    device = next(model.parameters()).device.type
    return contextlib.nullcontext() if dtype is None else torch.autocast(device, dtype)


def products_of(model: nn.Module) -> str:
    """What to add to the line about a model's weights: `, products in bfloat16`, `, products by oneDNN`, or nothing."""
    from coalign.models.scoring import products

    dtype, weight = getattr(unwrap(model), "autocast_dtype", None), next(model.parameters())
    if dtype is not None and dtype != weight.dtype:
        return f", products in {str(dtype).removeprefix('torch.')}"
    fast = weight.device.type == "cpu" and weight.dtype == torch.float32 and products.available()
    return ", products by oneDNN" if fast else ""


def decoding_dtype(device: torch.device) -> torch.dtype:
    """The number format in which text is sampled fastest: bfloat16 on CPUs that multiply it natively (AVX512-BF16, AMX),
    where decoding takes about half the time of float32; otherwise what `pick_dtype` says.
    """
    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if device.type == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in native):
        return torch.bfloat16
    return pick_dtype(device)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated: of the GPU, of main memory otherwise."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def describe_device(device: torch.device, dtype: torch.dtype | None = None) -> str:
    """One line for the start of a run: `cpu (2 threads), float32`."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        text = f"{device} ({torch.cuda.get_device_name(device)}, {memory:.0f} GiB)"
    elif device.type == "mps":
        text = "mps (Apple GPU)"
    else:
        threads = torch.get_num_threads()
        text = f"cpu ({threads} thread{'s' if threads != 1 else ''}{_busy(threads)})"
    return text if dtype is None else f"{text}, {str(dtype).removeprefix('torch.')}"


def share_cores(least: float = BETWEEN) -> None:
    """Work with as many threads as there are cores that nobody else works on, from now on in the calling thread.

    Called where long work goes round (steps of training, of decoding, passes of scoring) and a model is loaded; costs
    nothing between two looks. Only on the command line (`coalign.core.machine.cores.watch`) and unless `--threads` or
    `OMP_NUM_THREADS` says how many: a program's own threads are its own affair. Sums of many threads and of few can differ
    in their last digits.

    Args:
        least: seconds since the last look.
    """
    cores = watched()
    free = None if cores is None else cores.free(least)
    if free is not None and free != torch.get_num_threads():
        torch.set_num_threads(free)


def _busy(threads: int) -> str:
    usable = usable_cores()
    return f" for {usable} cores, on which others work too" if watched() and threads < usable else ""


def _cuda_hint() -> str:
    if torch.version.cuda is None:
        return "This PyTorch was built without CUDA: https://pytorch.org/get-started/locally has the builds with it."
    return "`nvidia-smi` shows whether the driver sees the GPU."
