"""Adapters (LoRA, Hu et al. 2021, and other kinds) through peft: add, switch off for the reference, merge, save."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.core.files import write_json
from coalign.models.devices import free_memory
from coalign.models.files.failures import first_line
from coalign.models.files.quantized import is_quantized
from coalign.models.modules import vision_towers
from coalign.models.options import ADAPTER, LORA_KINDS, TAKES_OUT, ModelOptions

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

BYTES_PER_TRAINED_WEIGHT = 16
"""float32 weight, gradient and AdamW's two moments."""
COMFORT = 0.5
"""Share of the free memory that these may take; the rest is for activations."""
START = "start"
"""The adapter beside `default` that makes the start model of weights which gave a part away."""


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


def add_adapter(
    model: PreTrainedModel,
    options: ModelOptions,
    *,
    task: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM",
    whole: Sequence[str] = (),
) -> PeftModel:
    """Freeze `model` and give it a trainable adapter, initialised so that outputs change by rounding at most.

    PiSSA and OLoRA begin with a part of each weight, which is taken out of it. A frozen copy of that beginning stays beside
    the adapter as `START`: with it the model is the one that training started from (`disabled_adapter`), and by it
    `save_adapter` writes an ordinary adapter of the weights as they were.

    Args:
        task: what peft calls what the model does; the head of a classifier is trained and saved with the adapter.
        whole: further modules that are trained and saved whole.

    Raises:
        ModelError: the model already has an adapter.
        ConfigError: a target that names no module of the model, or a kind that cannot adapt one of them.
    """
    from peft import get_peft_model

    if has_adapter(model):
        raise ModelError(
            "The model already has an adapter.", hint="Load it with training=True, which merges it."
        )
    targets = options.adapter_targets
    _assert_targets(model, targets)
    apart = [*whole, *_vision_linears(model, targets)]
    _assert_takes(model, options, apart)
    try:
        config = _config(
            model,
            options,
            task_type=task,
            modules_to_save=list(whole) or None,
            **({"exclude_modules": apart} if apart else {}),
            revision=options.revision,
        )
        with quiet_peft(), _drawn_alike(options.adapter_init == "pissa_niter_16"):
            adapted = cast("PeftModel", get_peft_model(model, config))
            if options.adapter_init in TAKES_OUT:
                _keep_start(adapted)
            return adapted
    except (ValueError, TypeError, NotImplementedError) as error:
        kind = options.adapter_kind
        place = "adapter_targets" if kind in LORA_KINDS else f"adapter_kind: {kind}"
        raise ConfigError(f"{place}: {first_line(error)}") from error


def _assert_takes(model: PreTrainedModel, options: ModelOptions, apart: Sequence[str]) -> None:
    """Refuse what peft 0.21 gets wrong without a word.

    Raises:
        ConfigError: OLoRA on layers whose weights lie transposed, VeRA where some layers are to stay as they are, or DoRA
            over LLM.int8() on a CPU, whose weights cannot be read there.
    """
    from transformers.pytorch_utils import Conv1D

    if options.adapter_init == "olora" and any(isinstance(one, Conv1D) for one in model.modules()):
        raise ConfigError(
            f"adapter_init: olora reads weights as they lie, and those of {model.config.model_type} lie transposed; take pissa"
        )
    kind, on_cpu = options.adapter_kind, next(model.parameters()).device.type == "cpu"
    if options.quantization == "8bit" and kind == "dora" and on_cpu:
        raise ConfigError(
            "quantization: 8bit does not go with adapter_kind: dora on a CPU; take int8_weight_only or 4bit"
        )
    if kind == "vera" and apart:
        raise ConfigError(f"adapter_kind: vera cannot leave {apart[0]} as it is; take another kind")


def _config(model: PreTrainedModel, options: ModelOptions, **shared: Any) -> PeftConfig:
    """What peft makes the adapter from."""
    import peft

    kind, rank, alpha = options.adapter_kind, options.adapter_rank, options.adapter_alpha
    targets: Any = options.adapter_targets
    if kind == "ia3":
        targets, inner = _scaled_modules(model, targets)
        return peft.IA3Config(target_modules=targets, feedforward_modules=inner, **shared)
    shared["target_modules"] = "all-linear" if targets == ["all-linear"] else targets
    match kind:
        case "loha":
            return peft.LoHaConfig(r=rank, alpha=cast(int, alpha), **shared)
        case "lokr":
            return peft.LoKrConfig(r=rank, alpha=cast(int, alpha), **shared)
        case "vera":
            return peft.VeraConfig(r=rank, vera_dropout=options.adapter_dropout, **shared)
        case "oft":
            return peft.OFTConfig(r=0, oft_block_size=rank, **shared)
        case "hra":
            return peft.HRAConfig(r=rank, **shared)
        case _:
            start: Any = True if options.adapter_init == "zero" else options.adapter_init
            return peft.LoraConfig(
                r=rank,
                lora_alpha=cast(int, alpha),  # annotated as int by peft, which takes any number
                lora_dropout=options.adapter_dropout,
                use_rslora=kind == "rslora",
                use_dora=kind == "dora",
                init_lora_weights=start,
                **shared,
            )


def _scaled_modules(model: PreTrainedModel, targets: list[str]) -> tuple[str | list[str], list[str]]:
    """What IA3 scales: keys, values and what goes into the last layer of an MLP (IA3 paper, section 3.3), as peft names them
    for the architecture; every output where it names none. And those of them whose input is scaled.
    """
    from peft.utils import constants

    kind = model.config.get_text_config().model_type
    inner = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind, [])
    if targets == ["all-linear"]:
        known = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind)
        if known is None:
            return "all-linear", []
        targets = known
    return targets, [one for one in targets if any(one == last or one.endswith(f".{last}") for last in inner)]


@contextlib.contextmanager
def _drawn_alike(wanted: bool) -> Iterator[None]:
    """What is drawn inside is the same each time: a part that is taken out of weights has to be the one of the first start."""
    if not wanted:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _keep_start(model: PeftModel) -> None:
    """A frozen copy of the adapter as it is, called `START`."""
    from peft import LoraConfig

    kept = cast(LoraConfig, model.peft_config["default"])
    names = ("r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "task_type")
    same = {name: getattr(kept, name) for name in names}
    model.add_adapter(START, LoraConfig(**same))
    with torch.no_grad():
        for layer in model.modules():
            for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"):
                held: Any = getattr(layer, part, {})
                if START in held:
                    held[START].load_state_dict(held["default"].state_dict())
    for name, one in model.named_parameters():
        if f".{START}." in name:
            one.requires_grad_(False)


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


def has_start(model: torch.nn.Module) -> bool:
    """Whether the adapter of `model` began with a part of its weights, which are no longer those of the base."""
    return has_adapter(model) and START in cast(Any, _unwrapped(model)).peft_config


def adapter_prefix(model: torch.nn.Module) -> str | None:
    """What the names of an adapter's parameters hold, such as `lora_`; None without one."""
    return cast(Any, _unwrapped(model)).base_model.prefix if has_adapter(model) else None


@contextlib.contextmanager
def disabled_adapter(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Inside the block `model` computes what it did before it was adapted: the reference without a second copy.

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
    off = active_adapter(model, START) if has_start(model) else inner.disable_adapter()
    with _same_trainable(inner), off:
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
        ModelError: the merged weights are not finite, weights are quantised, or there is no adapter.
    """
    if not has_adapter(model):
        raise ModelError("The model has no adapter to merge.")
    if is_quantized(model):
        raise ModelError(
            "The adapter is on quantised weights, into which nothing is merged: the sum would be rounded anew.",
            hint="Save the adapter; `coalign export` folds it into the base as it is published.",
        )
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


def save_adapter(
    model: PeftModel, folder: Path, *, state_dict: dict[str, Any] | None = None, checkpoint: bool = False
) -> None:
    """Write the adapter to `folder`.

    Args:
        state_dict: the model's weights, where they are gathered from several processes.
        checkpoint: as it is trained, to be loaded by what made the adapter; otherwise one whose start is a part of the
            weights is written as the difference from them, of twice the rank, and fits the model as it was.
    """
    trained = [name for name in model.peft_config if name != START]
    # peft would ask the hub about the base's vocabulary; embeddings are never part of the adapter
    model.save_pretrained(
        str(folder), selected_adapters=trained, state_dict=state_dict, save_embedding_layers=False
    )
    if not checkpoint and has_start(model):
        _write_difference(model, folder)


def _write_difference(model: PeftModel, folder: Path) -> None:
    """B A - B0 A0 as one product: [B, -B0] [A; A0] (PiSSA, appendix on converting to LoRA)."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "adapter_model.safetensors")
    for name, start in get_peft_model_state_dict(model, adapter_name=START).items():
        start = start.detach().to("cpu", weights[name].dtype)
        is_a = name.rpartition(".lora_")[2].startswith(("A", "embedding_A"))
        both = [weights[name], start if is_a else -start]
        weights[name] = torch.cat(both, dim=0 if is_a else 1).contiguous()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    wider = math.sqrt(2) if settings["use_rslora"] else 2
    settings |= {
        "r": 2 * settings["r"],
        "lora_alpha": wider * settings["lora_alpha"],
        "init_lora_weights": True,
    }
    write_json(path, settings)


def quicken_b(optimizer: Optimizer, model: torch.nn.Module, ratio: float) -> None:
    """Let the matrices B of LoRA move at `ratio` times the rate of everything else (LoRA+, Hayou et al. 2024, arXiv
    2402.12354): they leave their groups for others with that rate, which a schedule then scales alike.

    Raises:
        ConfigError: no parameter of the optimizer is a B.
    """
    names = ("lora_B.", "lora_embedding_B.")
    chosen = {id(one) for name, one in model.named_parameters() if any(part in name for part in names)}
    found = False
    for group in list(optimizer.param_groups):
        quick = [one for one in group["params"] if id(one) in chosen]
        if quick:
            found = True
            group["params"] = [one for one in group["params"] if id(one) not in chosen]
            optimizer.add_param_group({**group, "params": quick, "lr": ratio * group["lr"]})
    if not found:
        raise ConfigError(
            "loraplus_lr_ratio has no effect: no adapter of LoRA is trained; use tuning: lora, or leave it out."
        )


def trainable_summary(model: torch.nn.Module) -> str:
    """`4.9 M of 139.4 M parameters are trained (3.50 %), adapter of rank 16`; of a kind without a rank its name."""
    sizes = [(one.numel(), one.requires_grad) for one in model.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, grad in sizes if grad)
    text = f"{_millions(trained)} of {_millions(total)} parameters are trained ({trained / total:.2%})"
    if not has_adapter(model):
        return text
    configs = cast(Any, _unwrapped(model)).peft_config.values()
    ranks = sorted({config.r for config in configs if getattr(config, "r", 0)})
    if ranks:
        return f"{text}, adapter of rank {', '.join(map(str, ranks))}"
    return f"{text}, adapter of kind {', '.join(sorted({config.peft_type.value for config in configs}))}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else str(count)


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    wrapped = (
        isinstance(model, wrappers) or type(model).__name__ == "DeepSpeedEngine"
    )  # it may not be installed
    return cast(Any, model).module if wrapped else model
