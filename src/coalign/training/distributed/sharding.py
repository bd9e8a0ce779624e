"""Models in parts: FSDP2 also on a CPU, checkpoints in parts that any number of processes reads, and whole weights again.

accelerate shards (`torch.distributed.fsdp.fully_shard`) only on GPUs: on a CPU it would train each process's whole model
as DDP, without a word. What it does there works on a CPU too once its state says so, which `shard_on_cpu` sees to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from coalign.core.errors import ConfigError
from coalign.core.extras import require
from coalign.models.adapters import has_adapter
from coalign.training.distributed.universal import in_parts_of_weights, parts_of

if TYPE_CHECKING:
    from torch.optim import Optimizer

WEIGHTS_IN_PARTS = "pytorch_model_fsdp_0"
OPTIMIZER_IN_PARTS = "optimizer_0"
"""Folders of a checkpoint that accelerate writes by `torch.distributed.checkpoint`."""


def wants(name: str) -> bool:
    """Whether the launcher asked for `FSDP` or `DEEPSPEED`."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"


def shard_on_cpu(trainer: Any) -> None:
    """Let accelerate do on a CPU what was asked for, FSDP2 or DeepSpeed; to be called once its state is made."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from transformers.integrations.deepspeed import propagate_args_to_deepspeed

    state: Any = AcceleratorState()

    def becomes(kind: DistributedType, **plugin: Any) -> None:
        cast(Any, AcceleratorState)._shared_state.update(distributed_type=kind, **plugin)
        cast(Any, PartialState)._shared_state["distributed_type"] = kind  # which the other is updated by

    if state.distributed_type is not DistributedType.MULTI_CPU:
        return
    if wants("FSDP"):
        plugin = FullyShardedDataParallelPlugin()
        if plugin.fsdp_version != 2:
            raise ConfigError("FSDP was asked for without fsdp_version: 2.", hint="FSDP1 needs GPUs.")
        becomes(DistributedType.FSDP, fsdp_plugin=plugin)
        trainer.is_fsdp_enabled = True
    elif wants("DEEPSPEED"):
        plugin = trainer.args.deepspeed_plugin
        becomes(DistributedType.DEEPSPEED, deepspeed_plugins=plugin)
        plugin.select(_from_accelerator_state=True)
        trainer.is_deepspeed_enabled = True
        propagate_args_to_deepspeed(trainer.accelerator, trainer.args)


def fit_plugin(accelerator: Any, model: nn.Module) -> None:
    """Shard block by block where the model says what its blocks are, else as one."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        known = {type(module).__name__ for module in model.modules()}
        blocks = [name for name in getattr(model, "_no_split_modules", None) or () if name in known]
        plugin.transformer_cls_names_to_wrap = blocks or None
        if not blocks:
            plugin.auto_wrap_policy = None


@contextlib.contextmanager
def whole_again(model: nn.Module, *, sharded: bool) -> Iterator[None]:
    """After the block `model`, in place, is what it was before it was cut into parts in the block, with the weights that it
    has now, on each process. To be entered and left by all of them; after an error nothing is gathered.

    Args:
        sharded: whether it will be cut at all.
    """
    if not sharded:
        yield
        return
    before = [(module, type(module), dict(module.__dict__)) for module in model.modules()]
    hooks = [
        {name: value.copy() for name, value in had.items() if "hooks" in name and isinstance(value, dict)}
        for _, _, had in before
    ]
    yield
    _gather(model)
    for (module, kind, had), registered in zip(before, hooks, strict=True):
        module.__class__ = kind
        for name in set(vars(module)) - set(had):
            delattr(module, name)
        for name, value in registered.items():
            setattr(module, name, value)
        _forget(module)


def _gather(model: nn.Module) -> None:
    """Put whole parameters in the place of parts; shared ones stay shared."""
    from torch.distributed.tensor import DTensor

    made: dict[int, nn.Parameter] = {}
    kept = []  # an identity is one as long as its object lives
    for module in model.modules():
        for name, one in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if not isinstance(one, DTensor) and not hasattr(one, "ds_id"):
                continue
            if id(one) not in made:
                kept.append(one)
                with torch.no_grad():
                    whole = one.full_tensor() if isinstance(one, DTensor) else _gathered_by_deepspeed(one)
                made[id(one)] = nn.Parameter(whole.detach().clone(), requires_grad=one.requires_grad)
            setattr(module, name, made[id(one)])


def _gathered_by_deepspeed(one: nn.Parameter) -> torch.Tensor:
    zero = require("deepspeed", "deepspeed").zero
    with zero.GatheredParameters([one]):
        return one.detach().clone()


def _forget(module: nn.Module) -> None:
    """Torch remembers that it sharded a module, and refuses to do it again."""
    from torch.distributed import _composable_state

    cast(Any, _composable_state)._module_state_mapping.pop(module, None)


def in_parts(checkpoint: Path) -> bool:
    """Whether a checkpoint was written in parts by FSDP2."""
    return (checkpoint / WEIGHTS_IN_PARTS).is_dir()


def assert_readable(checkpoint: Path, *, fsdp: bool, stage: int) -> None:
    """Refuse to continue from a checkpoint that this start cannot read.

    Args:
        fsdp: whether this start uses it.
        stage: of ZeRO that this start uses, 0 without DeepSpeed.

    Raises:
        ConfigError: the message says which recipe reads it.
    """
    if parts_of(checkpoint):
        written = "zero3" if in_parts_of_weights(checkpoint) else "zero2"
    else:
        written = "fsdp2" if in_parts(checkpoint) else "ddp"
    reads = {"fsdp2"} if fsdp else {"ddp", "fsdp2"}
    if stage:
        reads = {"zero3" if stage == 3 else "zero2"}
    if written in reads:
        return
    readers = {"ddp": "ddp, or in one process", "fsdp2": "fsdp2 or ddp, or in one process"}
    raise ConfigError(
        f"{checkpoint} was written under the recipe {written}, which this start cannot read.",
        hint=f"Continue with --recipe {readers.get(written, written)}.",
    )


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Weights that were saved in parts into a whole model."""
    import torch.distributed.checkpoint as parts
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    adapted = has_adapter(model)
    weights: Any = get_peft_model_state_dict(cast(Any, model)) if adapted else model.state_dict()
    state = {"model": weights}
    parts.load(state, storage_reader=parts.FileSystemReader(checkpoint / WEIGHTS_IN_PARTS))
    if adapted:
        set_peft_model_state_dict(model, state["model"])
    else:
        model.load_state_dict(state["model"])


def load_optimizer(model: nn.Module, optimizer: Optimizer, checkpoint: Path) -> None:
    """The state of an optimizer that was saved in parts, into one of a whole model."""
    import torch.distributed.checkpoint as parts
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    parts.load(state, storage_reader=parts.FileSystemReader(checkpoint / OPTIMIZER_IN_PARTS))
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
