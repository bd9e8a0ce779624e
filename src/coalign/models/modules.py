"""What engines do with any module: look inside its wrappers, and put it into evaluation mode for a while."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The Hugging Face model inside DDP, FSDP or PEFT wrappers."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # type: ignore[operator]


def cache_argument(model: nn.Module) -> str:
    """What the model's forward pass calls the keys and values of past tokens: `cache` in Transformers from 5.24 on,
    `past_key_values` before and in models of one's own.
    """
    return "cache" if "cache" in inspect.signature(unwrap(model).forward).parameters else "past_key_values"


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off for good, also in training mode: of modules and of attention, which keeps its rate as a number."""
    from torch.nn import Dropout

    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


@contextlib.contextmanager
def evaluation(model: nn.Module, *, recompute: bool = False) -> Iterator[None]:
    """Evaluation mode for the block; afterwards every module is in the mode it was in.

    Args:
        recompute: layers that recompute their activations in the backward pass (gradient checkpointing) go on with it,
            which Transformers lets them do in training mode alone; those that have a dropout of their own do not.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for module, _ in modes if recompute else ():
            if getattr(module, "gradient_checkpointing", False) and not getattr(module, "dropout", 0.0):
                module.training = True
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def vision_towers(model: nn.Module) -> list[str]:
    """The names of the outermost parts of an image-text-to-text model that have its vision configuration; else none."""
    vision = getattr(getattr(unwrap(model), "config", None), "vision_config", None)
    found: list[str] = []
    for name, module in model.named_modules() if vision is not None else ():
        within = any(name.startswith(f"{one}.") for one in found)
        if not within and isinstance(getattr(module, "config", None), type(vision)):
            found.append(name)
    return found
