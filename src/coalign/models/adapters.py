"""Low-rank adapters (LoRA, Hu et al. 2021) through peft: add, switch off for the reference, merge."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.models.devices import free_memory
from coalign.models.modules import vision_towers
from coalign.models.options import ADAPTER, ModelOptions

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BYTES_PER_TRAINED_WEIGHT = 16
"""float32 weight, gradient and AdamW's two moments."""
COMFORT = 0.5
"""Share of the free memory that these may take; the rest is for activations."""


def choose_tuning(options: ModelOptions, parameters: int, device: torch.device) -> Literal["lora", "full"]:
    """What `tuning: auto` means for a model of this size on this device.

    On a GPU full fine-tuning is chosen when weights, gradients and optimizer (16 bytes a parameter) take at most
    half of the free memory; otherwise, and always on a CPU, over quantised weights or when an `adapter_*` option was
    set, an adapter.
    """
    if options.tuning != "auto":
        return options.tuning
    if options.changed(ADAPTER) or options.quantization != "none":
        return "lora"
    fits = parameters * BYTES_PER_TRAINED_WEIGHT <= COMFORT * free_memory(device)
    return "full" if device.type != "cpu" and fits else "lora"


def add_lora(
    model: PreTrainedModel,
    options: ModelOptions,
    *,
    task: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM",
    whole: Sequence[str] = (),
) -> PeftModel:
    """Freeze `model` and give it a trainable adapter, initialised so that outputs do not change.

    Args:
        task: what peft calls what the model does; the head of a classifier is trained and saved with the adapter.
        whole: further modules that are trained and saved whole.

    Raises:
        ModelError: the model already has an adapter.
        ConfigError: a target that names no module of the model.
    """
    from peft import LoraConfig, get_peft_model

    if has_adapter(model):
        raise ModelError(
            "The model already has an adapter.", hint="Load it with training=True, which merges it."
        )
    targets = options.adapter_targets
    apart = [*whole, *_vision_linears(model, targets)]
    config = LoraConfig(
        task_type=task,
        modules_to_save=list(whole) or None,
        exclude_modules=apart or None,
        r=options.adapter_rank,
        lora_alpha=cast(int, options.adapter_alpha),  # annotated as int by peft, which takes any number
        lora_dropout=options.adapter_dropout,
        use_rslora=options.adapter_kind == "rslora",
        use_dora=options.adapter_kind == "dora",
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        revision=options.revision,
    )
    try:
        _assert_targets(model, targets)
        with quiet_peft():
            return cast("PeftModel", get_peft_model(model, config))
    except ValueError as error:
        raise ConfigError(f"adapter_targets: {error}") from error


def _vision_linears(model: torch.nn.Module, targets: list[str]) -> list[str]:
    """The linear layers of the tower that sees the pictures, which stays as it is unless one of them is a target by name."""
    return [
        f"{tower}.{name}"
        for tower in vision_towers(model)
        for name, module in model.get_submodule(tower).named_modules()
        if isinstance(module, torch.nn.Linear) and f"{tower}.{name}" not in targets
    ]


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide two warnings that concern peft, not its user: a renamed attribute, and a default that it corrects."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set", category=UserWarning)
        yield


def _assert_targets(model: torch.nn.Module, targets: list[str]) -> None:
    """peft ignores a target that matches nothing as long as another one matches."""
    names = {name for name, _ in model.named_modules()}
    last = {name.rpartition(".")[2] for name in names}
    for target in targets:
        if target != "all-linear" and not any(
            name == target or name.endswith(f".{target}") for name in names
        ):
            known = sorted(one for one in last if one and not one.isdigit())
            raise ConfigError(
                f"adapter_targets: no module is named {target!r}, expected some of: {', '.join(known)}"
            )
    if "all-linear" in targets and len(targets) > 1:
        raise ConfigError("adapter_targets: all-linear cannot be combined with module names")


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether peft has put an adapter on `model`, also inside a data-parallel wrapper."""
    from peft import PeftModel

    return isinstance(_unwrapped(model), PeftModel)


@contextlib.contextmanager
def disabled_adapter(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Inside the block `model` computes what its base computes: the reference without a second copy.

    Which parameters require gradients is the same after the block as before.

    Raises:
        ModelError: there is no adapter, so the block would compute the policy itself.
    """
    if not has_adapter(model):
        raise ModelError(
            "The model has no adapter, so its reference cannot be had by disabling one.",
            hint="Load a second copy as the reference, or train with tuning: lora.",
        )
    inner = cast(Any, _unwrapped(model))
    with _same_trainable(inner), inner.disable_adapter():
        yield model


@contextlib.contextmanager
def active_adapter(model: torch.nn.Module, name: str) -> Iterator[torch.nn.Module]:
    """Inside the block `model` computes with its adapter `name`; then with the one before, as trainable as before.

    Raises:
        ModelError: there is no such adapter.
    """
    inner = cast(Any, _unwrapped(model))
    if not has_adapter(model) or name not in inner.peft_config:
        raise ModelError(f"The model has no adapter called {name!r}.")
    before = inner.active_adapter
    with _same_trainable(inner):
        inner.set_adapter(name)
        try:
            yield model
        finally:
            inner.set_adapter(before)


@contextlib.contextmanager
def _same_trainable(model: torch.nn.Module) -> Iterator[None]:
    """Which parameters require gradients is the same after the block as before."""
    trainable = {name: one.requires_grad for name, one in model.named_parameters()}
    try:
        yield
    finally:
        for name, one in model.named_parameters():
            one.requires_grad_(trainable[name])


def merge(model: PeftModel) -> PreTrainedModel:
    """Add the adapter to the base weights, in place, and return the plain model.

    In float32 outputs agree to rounding; in bfloat16 the merged weights are rounded once more.

    Raises:
        ModelError: the merged weights are not finite, or there is no adapter.
    """
    if not has_adapter(model):
        raise ModelError("The model has no adapter to merge.")
    _untie_adapted(model)
    try:
        merged = cast(Any, model).merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"The adapter cannot be merged: {error}") from error
    if hasattr(merged, "peft_config"):  # left by peft; it would make Transformers save an adapter
        del merged.peft_config
    merged._hf_peft_config_loaded = False
    return merged


def _untie_adapted(model: PeftModel) -> None:
    """Give input embedding and head weights of their own where they share one and an adapter changes one of them:
    merged into the shared weight, it would change both.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = cast("PreTrainedModel", model.get_base_model())
    layers = [plain.get_input_embeddings(), plain.get_output_embeddings()]
    bases: list[Any] = [one.get_base_layer() if isinstance(one, BaseTunerLayer) else one for one in layers]
    if None in bases or bases[0].weight is not bases[1].weight:
        return
    if any(isinstance(one, BaseTunerLayer) for one in layers):
        shared = bases[1].weight
        bases[1].weight = torch.nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
        plain.config.get_text_config().tie_word_embeddings = plain.config.tie_word_embeddings = False


def trainable_summary(model: torch.nn.Module) -> str:
    """`4.9 M of 139.4 M parameters are trained (3.50 %), adapter of rank 16`."""
    sizes = [(one.numel(), one.requires_grad) for one in model.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, grad in sizes if grad)
    text = f"{_millions(trained)} of {_millions(total)} parameters are trained ({trained / total:.2%})"
    if not has_adapter(model):
        return text
    ranks = sorted({config.r for config in cast(Any, _unwrapped(model)).peft_config.values()})
    return f"{text}, adapter of rank {', '.join(map(str, ranks))}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else str(count)


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    wrapped = (
        isinstance(model, wrappers) or type(model).__name__ == "DeepSpeedEngine"
    )  # it may not be installed
    return cast(Any, model).module if wrapped else model
