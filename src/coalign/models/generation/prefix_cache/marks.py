"""What of a model decides about the states of a prompt: its weights, and which adapters are switched on."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch

from coalign.models.files.file_pages import files_worth_releasing, lies_in
from coalign.models.files.quantized import stored_parts
from coalign.models.modules import unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

_SAMPLED = 4
"""Numbers of a weight that tell whether it has changed."""


def weights_mark(model: nn.Module) -> tuple[object, ...]:
    """What changes when weights do: where they lie, how often they were written, and, since not every write is counted,
    some of their numbers. What lies in a file as it was read has not changed, and is left there.
    """
    parameters = [part for one in model.parameters() for part in stored_parts(one)]
    counted = tuple((one.data_ptr(), 0 if one.is_inference() else one._version) for one in parameters)
    files = files_worth_releasing(parameters)
    looked_at = [one for one in parameters if not lies_in(one, files)]
    if not looked_at:
        return counted
    home = looked_at[0].device  # one transfer from it: each waits for the device
    return (*counted, *torch.stack([_sampled(one.detach()).to(home) for one in looked_at]).tolist())


def adapters_mark(model: nn.Module) -> Hashable:
    """Which adapters compute, and how strongly; nothing for a model without any."""
    if unwrap(model) is model:
        return ()
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = set()
    for one in model.modules():
        if isinstance(one, BaseTunerLayer):
            scaling: Any = getattr(one, "scaling", {})
            on = tuple((name, scaling.get(name)) for name in one.active_adapters)
            found.add((not one.disable_adapters and on, tuple(one.merged_adapters)))
    return frozenset(found)


def _sampled(values: Tensor) -> Tensor:
    flat = values.reshape(-1)
    return flat[:: max(len(flat) // _SAMPLED, 1)].double().sum()
