"""A plain copy of an adapted model to sample from while the adapter is trained: weights merged, everything else shared."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from coalign.core.errors import ModelError
from coalign.models.adapters import has_adapter
from coalign.models.files.quantized import is_packed
from coalign.models.modules import unwrap

MERGED = ("LORA", "LOHA", "LOKR", "IA3", "VERA", "OFT", "HRA")
"""Kinds of peft that change nothing but the layers that they are on."""


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
                    own = plain.get_submodule(name)
                    for part, values in _merged(layer).items():
                        setattr(own, part, nn.Parameter(values, requires_grad=False))
            yield plain.eval()
        finally:
            for name, layer in self._adapted.items():
                own = plain.get_submodule(name)
                own.weight = None  # type: ignore[assignment]
                if own.bias is not None:
                    own.bias = layer.get_base_layer().bias

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
    from peft.tuners.tuners_utils import BaseTunerLayer

    whole = cast("Any", model)
    configs = [whole.peft_config[name] for name in whole.active_adapters]
    plain = all(
        one.peft_type in MERGED
        and not any(
            getattr(one, name, None)
            for name in ("modules_to_save", "trainable_token_indices", "target_parameters")
        )
        and getattr(one, "bias", "none") == "none"
        for one in configs
    )
    layers = [one for one in whole.modules() if isinstance(one, BaseTunerLayer)]
    head = unwrap(model).get_output_embeddings()  # type: ignore[operator]
    simple = all(one is not head and _is_plain(one.get_base_layer()) for one in layers)
    return plain and bool(layers) and simple


def _merged(layer: Any) -> dict[str, Tensor]:
    """Weight and, where it differs, bias of an adapted layer with its active adapters merged; the layer stays as it is.

    Raises:
        ModelError: they are not finite.
    """
    base = layer.get_base_layer()
    before = {name: one.data for name, one in base.named_parameters(recurse=False)}
    try:
        layer.merge(safe_merge=True)
        after = {name: one.data for name, one in base.named_parameters(recurse=False)}
    except ValueError as error:
        raise ModelError(f"The adapter cannot be merged: {error}") from error
    finally:
        for name, values in before.items():
            getattr(base, name).data = values
        layer.merged_adapters.clear()
    return {
        name: one
        for name, one in after.items()
        if name == "weight" or one.data_ptr() != before[name].data_ptr()
    }


def _is_plain(layer: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    weight = cast("Any", layer).weight if type(layer) in (nn.Linear, Conv1D) else None
    return weight is not None and weight.is_floating_point() and not is_packed(weight)


def _adapted_layers(bare: nn.Module) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: one for name, one in bare.named_modules() if isinstance(one, BaseTunerLayer)}
