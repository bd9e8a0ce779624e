"""Memory that a forward pass frees meanwhile, returned to the system in time.

PyTorch asks for aligned memory, and glibc (seen in 2.36) gives a freed aligned block to no request of the same size: while a
forward pass keeps activations, what it frees between them stays with the process. Given back every few layers, it is there for
whatever comes next. What is taken again costs page faults, no other work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from coalign.models.files.file_pages import return_freed_memory

if TYPE_CHECKING:
    from torch import nn

LAYERS = 10
"""After how many layers memory is returned."""
_LEAST = 2**20
"""Bytes of hidden states from which on it is worth it."""


@contextlib.contextmanager
def returned_memory(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside the block forward passes of a model on a CPU return freed memory after every `LAYERS` layers; layers are what
    Transformers calls so. Numbers are not touched.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    seen = 0

    def count(_: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal seen
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, torch.Tensor) and hidden.is_cpu and hidden.nbytes >= _LEAST:
            seen += 1
            if seen % LAYERS == 0:
                return_freed_memory()

    layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)] if wanted else []
    with contextlib.ExitStack() as hooks:
        for one in layers:
            hooks.callback(one.register_forward_hook(count).remove)
        yield
