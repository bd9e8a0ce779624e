"""A plain copy of an adapted model to sample from while the adapter is trained: weights merged, everything else shared."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from coalign.models.adapters import has_adapter
from coalign.models.modules import unwrap


class MergedView:
    """The model under its adapter, merged: every token costs what it costs without one.

    The copy shares all tensors with the model but the weights under an adapter, which exist inside `merged` alone and are made anew
    each time: what is sampled is always the policy as it then is. In float32 outputs agree to rounding.

    Args:
        model: stays as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._plain: nn.Module | None = None
        self._adapted: dict[str, Any] = {}
        if can_merge(model):
            self._build()

    @contextlib.contextmanager
    def merged(self) -> Iterator[nn.Module]:
        """Inside the block the merged model; the model itself where there is no adapter that can be merged."""
        if self._plain is None:
            yield self._model
            return
        plain = self._plain
        try:
            with torch.no_grad():
                for name, layer in self._adapted.items():
                    weight = layer.get_base_layer().weight
                    changed = weight.clone()
                    for adapter in layer.active_adapters:
                        if adapter in layer.lora_A:
                            changed += layer.get_delta_weight(adapter).to(weight.dtype)
                    plain.get_submodule(name).weight = nn.Parameter(changed, requires_grad=False)
            yield plain.eval()
        finally:
            for name in self._adapted:
                plain.get_submodule(name).weight = None  # type: ignore[assignment]

    def _build(self) -> None:
        bare = cast("Any", self._model).get_base_model()
        shared = {id(one): one for one in [*bare.parameters(), *bare.buffers()]}
        plain = copy.deepcopy(bare, shared)
        for name, layer in _adapted_layers(bare).items():
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, plain.get_submodule(name).get_base_layer())
            self._adapted[name] = layer
        for name in self._adapted:
            plain.get_submodule(name).weight = None  # type: ignore[assignment]
        self._plain = plain


def can_merge(model: nn.Module) -> bool:
    """Whether all that the adapters of `model` change are weights of linear layers, in full precision or half."""
    if not has_adapter(model):
        return False
    from peft import PeftType
    from peft.tuners.tuners_utils import BaseTunerLayer

    whole = cast("Any", model)
    configs = [whole.peft_config[name] for name in whole.active_adapters]
    plain_lora = all(
        one.peft_type == PeftType.LORA
        and not one.use_dora
        and not one.modules_to_save
        and one.bias == "none"
        and not getattr(one, "trainable_token_indices", None)
        and not getattr(one, "target_parameters", None)
        for one in configs
    )
    layers = [one for one in whole.modules() if isinstance(one, BaseTunerLayer)]
    head = unwrap(model).get_output_embeddings()  # type: ignore[operator]
    simple = all(
        hasattr(one, "lora_A") and one is not head and _is_plain(one.get_base_layer()) for one in layers
    )
    return plain_lora and bool(layers) and simple


def _is_plain(layer: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return type(layer) in (nn.Linear, Conv1D) and cast("Any", layer).weight.is_floating_point()


def _adapted_layers(bare: nn.Module) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: one for name, one in bare.named_modules() if isinstance(one, BaseTunerLayer)}
