"""A configuration of TRL, LLaMA-Factory or axolotl as one of coalign."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from coalign.cli.peers import NAMES, NEEDLESS, SAID_OTHERWISE, Peer
from coalign.core.errors import ConfigError
from coalign.core.files import parse_json
from coalign.core.options import converted, options_of
from coalign.models.options import AdapterInit
from coalign.training.options import Optimizer, Schedule

_TRL_LOSSES = {"sigmoid": "dpo", "hinge": "hinge_ref", "ipo": "ipo", "kto": "kto", "nll": "sft"}
_FACTORY_LOSSES = {"sigmoid": "dpo", "hinge": "hinge_ref", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo"}
_FACTORY_STAGES = {"sft": "sft", "rm": "reward-model", "ppo": "ppo", "kto": "kto"}
_AXOLOTL_METHODS = ("sft", "reward-model", "dpo", "ipo", "kto", "orpo", "simpo", "grpo")
_SAY_THE_METHOD = ("loss_type", "pref_loss", "rl", "stage")

_TRAINER = {"epochs": 3.0, "schedule": "linear", "warmup_ratio": 0.0, "batch_size": 8, "seed": 42}
_DEFAULTS: dict[Peer, dict[str, Any]] = {
    "trl": {**_TRAINER, "learning_rate": 1e-6, "max_length": 1024, "max_new_tokens": 512, "gradient_checkpointing": True},
    "llama-factory": {**_TRAINER, "learning_rate": 5e-5, "tuning": "lora", "adapter_rank": 8},
    "axolotl": {"epochs": 1.0, "batch_size": 1, "max_length": 512, "schedule": "cosine", "seed": 42},
}  # fmt: skip
"""What each library takes where a configuration is silent."""
_TRL_LEARNING_RATES = {"sft": 2e-5, "reward-model": 1e-4}
_TRL_ADAPTER = {"adapter_rank": 16, "adapter_alpha": 32.0, "adapter_dropout": 0.05}

_OPTIMIZERS = {
    **{name: name for name in get_args(Optimizer)},
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw"),
    "adamw_bnb_8bit": "adamw_8bit",
}
_KERNELS = ("auto", "eager", "sdpa", "flash_attention_2", "flex_attention")
_TEMPLATES = {
    "llama3": "llama-3",
    "chatml": "chatml",
    "alpaca": "alpaca",
    "gemma": "gemma",
    "zephyr": "zephyr",
}
_AXOLOTL_COLUMNS = {
    "field_messages": "messages",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_instruction": "prompt",
    "field_output": "response",
}
_FACTORY_COLUMNS = ("prompt", "response", "messages", "chosen", "rejected")


@dataclass
class Translation:
    """A configuration of another library as one of ours.

    Attributes:
        peer: whose it was.
        method: what `coalign run` is given.
        out: the run folder, where the configuration names one.
        values: our options.
        silent: which of them are the library's defaults, that the configuration did not write out.
        left: (what has no counterpart, why or what to write).
        needless: (what needs no counterpart, why).
    """

    peer: Peer
    method: str
    out: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    needless: list[tuple[str, str]] = field(default_factory=list)


class LeftError(Exception):
    """A value that has no counterpart; the text says why."""


def translate(
    config: Mapping[str, Any], peer: Peer, options: Callable[[str], type], *, method: str | None = None,
    folder: Path = Path(),
) -> Translation:  # fmt: skip
    """A configuration as coalign's; what the library does where it is silent is written out where we do otherwise.

    Args:
        config: their names to values.
        options: the configuration class of a method.
        method: what `coalign run` is to be given; by default what the configuration says.
        folder: where paths of the configuration start.

    Raises:
        ConfigError: the configuration does not say what is trained, or asks for an objective that is not there.
    """
    given = {str(name).replace("-", "_"): value for name, value in config.items() if value is not None}
    if not given.get("pissa_init"):
        given.pop("pissa_iter", None)
    found = Translation(peer, method or _method(given, peer))
    for name, value in given.items():
        if name in _SAY_THE_METHOD or (name == "reward_model" and value is True):
            continue
        ours = NAMES[peer].get(name)
        try:
            if ours == "out":
                found.out = str(value)
            elif ours in ("data", "eval_data"):
                found.values[ours] = _sources(found, name, value, given, folder)
            elif name in _VALUES:
                found.values |= _VALUES[name](name, value)
            elif ours is not None:
                found.values[ours] = value
            elif name in NEEDLESS:
                found.needless.append((name, NEEDLESS[name]))
            elif name != "dataset_dir":
                raise LeftError(f"here: {SAID_OTHERWISE[name]}" if name in SAID_OTHERWISE else "")
        except LeftError as why:
            found.left.append((_shown(name, value), str(why)))
    _fit(found, options(found.method))
    return found


def _method(config: Mapping[str, Any], peer: Peer) -> str:
    """What the configuration trains.

    Raises:
        ConfigError: it does not say, or says what is not there.
    """
    if peer == "axolotl":
        said = f"rl: {config.get('rl', 'sft')}"
        wanted = "reward-model" if config.get("reward_model") is True else str(config.get("rl", "sft"))
        found = wanted if wanted in _AXOLOTL_METHODS else None
    elif peer == "llama-factory":
        stage, loss = str(config.get("stage", "sft")), str(config.get("pref_loss", "sigmoid"))
        said = f"pref_loss: {loss}" if stage == "dpo" else f"stage: {stage}"
        found = _FACTORY_LOSSES.get(loss) if stage == "dpo" else _FACTORY_STAGES.get(stage)
    else:
        loss = config.get("loss_type")
        loss = loss[0] if isinstance(loss, list) and len(loss) == 1 else loss
        said = f"loss_type: {loss}"
        found = _TRL_LOSSES.get(loss) if isinstance(loss, str) else None
        if loss is None or "num_generations" in config:
            raise ConfigError(
                "A configuration of TRL does not say what it trains: its command does.",
                hint="Name the method, such as --method dpo.",
            )
    if found is None:
        raise ConfigError(
            f"{said}: no objective here has the same loss.",
            hint="`coalign objectives` lists what there is; name one with --method.",
        )
    return found


def _fit(found: Translation, config_class: type) -> None:
    """Leave what the method has no option for or does not take; write out what the library does and we do not."""
    known = {one.name: one for one in options_of(config_class)}
    if "data" in found.values and "prompts" in known:
        found.values["prompts"] = found.values.pop("data")
    if "eval_data" in found.values and "eval_prompts" in known:
        found.values["eval_prompts"] = found.values.pop("eval_data")
    if found.method in ("grpo", "rloo"):
        # TRL counts responses: those of one optimizer step are `samples` of so many prompts.
        responses = found.values.get("batch_size", 8) * found.values.pop("gradient_accumulation", 1)
        found.values["prompts_per_step"] = max(1, responses // found.values.get("samples", 8))
    if found.method == "ipo":
        found.values |= {"tau": found.values.pop("beta", 0.1)}
        if found.peer != "llama-factory":
            found.values["length_normalised"] = True
    if found.method == "orpo" and "beta" in found.values:
        found.values["odds_weight"] = found.values.pop("beta")
    defaults = dict(_DEFAULTS[found.peer])
    if found.peer == "trl":
        defaults["learning_rate"] = _TRL_LEARNING_RATES.get(found.method, defaults["learning_rate"])
        defaults |= _TRL_ADAPTER if found.values.get("tuning") == "lora" else {}
        defaults.setdefault("tuning", "full")
    if found.peer == "llama-factory":
        if found.values.get("adapter_kind") == "oft":
            defaults["adapter_rank"] = 32
        else:
            defaults["adapter_alpha"] = 2.0 * found.values.get("adapter_rank", defaults["adapter_rank"])
    for name, value in defaults.items():
        idle = name.startswith("adapter") and found.values.get("tuning") == "full"
        if name in known and name not in found.values and known[name].default != value and not idle:
            found.values[name] = value
            found.silent.append(name)
    for name, value in list(found.values.items()):
        if name not in known:
            found.left.append((name, f"{found.method} has no such option"))
            del found.values[name]
            continue
        bad = {one: _problem(config_class, name, one) for one in value} if known[name].is_list else {}
        bad = {one: why for one, why in bad.items() if why}
        if bad:
            found.left += [(f"{name}: {one}", why) for one, why in bad.items()]
            found.values[name] = [one for one in value if one not in bad]
        why = _problem(config_class, name, found.values[name])
        if why:
            found.left.append((_shown(name, value), why))
        if why or (bad and not found.values[name]):
            del found.values[name]


def _problem(config_class: type, name: str, value: Any) -> str:
    """Why an option does not take a value; of a list each entry is looked at for itself."""
    several = {one.name: one for one in options_of(config_class)}[name].is_list
    try:
        given = [value] if several and not isinstance(value, list) else value
        converted(config_class, {name: given}, incomplete=True)
    except ConfigError as error:
        return str(error).partition("is not usable, ")[2].replace("a list of: ", "")
    return ""


def _shown(name: str, value: Any) -> str:
    return name if isinstance(value, list | dict | bool) else f"{name}: {value}"


def _sources(
    found: Translation, name: str, value: Any, config: Mapping[str, Any], folder: Path
) -> str | list[Any]:
    """What records are read from, as `coalign.data.sources` reads it."""
    named = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    if found.peer == "trl":
        return value
    if found.peer == "axolotl":
        made = [_axolotl_source(found, one) for one in named]
    else:
        listing = folder / str(config.get("dataset_dir", "data")) / "dataset_info.json"
        entries = parse_json(listing.read_text(encoding="utf-8")) if listing.exists() else {}
        made = [_factory_source(found, str(one).strip(), entries, listing) for one in named]
    return made[0] if len(made) == 1 else made


def _source(path: Any, columns: Mapping[str, Any], split: Any = None) -> Any:
    said = {"split": split if split != "train" else None, "columns": dict(columns)}
    said = {name: value for name, value in said.items() if value}
    return {"path": path, **said} if said else path


def _axolotl_source(found: Translation, entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    files = entry.get("data_files") or entry.get("path")
    file, *more = files if isinstance(files, list) else [files]
    found.left += [(f"datasets: {one}", "name it as a source of its own") for one in more]
    read = {"path", "data_files", "split", "type", "ds_type", *_AXOLOTL_COLUMNS}
    found.left += [(f"datasets: {name}", "") for name in entry if name not in read]
    columns = {ours: entry[name] for name, ours in _AXOLOTL_COLUMNS.items() if entry.get(name)}
    return _source(file, columns, entry.get("split"))


def _factory_source(found: Translation, name: str, entries: Any, listing: Path) -> Any:
    entry = entries.get(name) if isinstance(entries, Mapping) else None
    if not isinstance(entry, Mapping):
        found.left.append((f"dataset: {name}", f"{listing} has no such entry: name the file itself"))
        return name
    file, columns = entry.get("file_name"), entry.get("columns")
    columns = columns if isinstance(columns, Mapping) else {}
    path = str(listing.parent / str(file)) if file else str(entry.get("hf_hub_url", name))
    return _source(path, {one: columns[one] for one in _FACTORY_COLUMNS if one in columns})


def _precision(name: str, value: Any) -> dict[str, Any]:
    if name == "fp16" and value:
        raise LeftError("nothing is trained in float16: on CUDA products are bfloat16")
    return {"dtype": "float32"} if name == "bf16" and value is False else {}


def _tuning(name: str, value: Any) -> dict[str, Any]:
    if name == "use_peft":
        return {"tuning": "lora" if value else "full"}
    if value == "qlora":
        return {"tuning": "lora", "quantization": "4bit"}
    if value == "oft":
        return {"tuning": "lora", "adapter_kind": "oft"}
    if value not in ("lora", "full"):
        raise LeftError("tuning is lora or full; kinds of adapters are --adapter-kind")
    return {"tuning": value}


def _quantization(name: str, value: Any) -> dict[str, Any]:
    bits = {"load_in_4bit": 4, "load_in_8bit": 8}.get(name, value)
    if value and bits not in (4, 8):
        raise LeftError("quantization is 4bit or 8bit")
    return {"quantization": f"{bits}bit"} if value else {}


def _adapter_kind(name: str, value: Any) -> dict[str, Any]:
    return {"adapter_kind": name.rpartition("_")[2]} if value else {}


def _adapter_init(name: str, value: Any) -> dict[str, Any]:
    """`init_lora_weights` of peft, or LLaMA-Factory's PiSSA, whose quick decomposition takes 16 iterations by default."""
    if name == "pissa_init":
        return {"adapter_init": "pissa_niter_16"} if value else {}
    if name == "pissa_iter":
        if value not in (-1, 16):
            raise LeftError("--adapter-init is pissa, or pissa_niter_16")
        return {"adapter_init": "pissa"} if value == -1 else {}
    if value is True:
        return {}
    if value is False or value not in get_args(AdapterInit):
        raise LeftError("--adapter-init is " + ", ".join(get_args(AdapterInit)))
    return {"adapter_init": value}


def _optimizer(name: str, value: Any) -> dict[str, Any]:
    if value not in _OPTIMIZERS:
        raise LeftError("optimizers are " + ", ".join(sorted({*_OPTIMIZERS.values()})))
    return {"optimizer": _OPTIMIZERS[value]}


def _targets(name: str, value: Any) -> dict[str, Any]:
    if name == "lora_target_linear":
        return {"adapter_targets": ["all-linear"]} if value else {}
    named: Sequence[str] = value.split(",") if isinstance(value, str) else value
    return {"adapter_targets": [{"all": "all-linear"}.get(one.strip(), one.strip()) for one in named]}


def _template(name: str, value: Any) -> dict[str, Any]:
    if value in ("tokenizer_default", "default"):
        return {}
    if value not in _TEMPLATES:
        raise LeftError("the model's own template is taken; --chat-template takes a name or a file")
    return {"chat_template": _TEMPLATES[value]}


def _steps(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, float) and 0 < value < 1:
        raise LeftError(f"{name} is a number of steps")
    return {name: value} if value >= 0 else {}


def _warmup(name: str, value: Any) -> dict[str, Any]:
    if not 0 <= value < 1:  # of the steps, as Transformers 5 reads a share
        raise LeftError("warm-up is a share of the steps: warmup_ratio")
    return {"warmup_ratio": float(value)}


def _schedule(name: str, value: Any) -> dict[str, Any]:
    if value not in get_args(Schedule):
        raise LeftError("schedule is one of " + ", ".join(get_args(Schedule)))
    return {"schedule": value}


def _trackers(name: str, value: Any) -> dict[str, Any]:
    named = value if isinstance(value, list) else [value]
    return {"report_to": [one for one in named if one not in ("none", "all")]}


def _attention(name: str, value: Any) -> dict[str, Any]:
    value = {"fa2": "flash_attention_2", "disabled": "eager", True: "flash_attention_2"}.get(value, value)
    if value and value not in _KERNELS:
        raise LeftError("kernels are " + ", ".join(_KERNELS))
    return {"attn_implementation": value} if value else {}


def _held_out(name: str, value: Any) -> dict[str, Any]:
    if value > 1:
        raise LeftError("eval_fraction is a share of the prompts")
    return {"eval_fraction": float(value)}


def _reward(name: str, value: Any) -> dict[str, Any]:
    if name == "reward_funcs":
        raise LeftError("name rewards with --reward: verifiers, reward models or judges")
    return {"reward": [f"model:{value}"]}


_VALUES: dict[str, Callable[[str, Any], dict[str, Any]]] = {
    **dict.fromkeys(("bf16", "fp16"), _precision),
    **dict.fromkeys(("use_peft", "finetuning_type", "adapter"), _tuning),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "quantization_bit"), _quantization),
    **dict.fromkeys(("use_dora", "use_rslora", "peft_use_dora", "peft_use_rslora"), _adapter_kind),
    **dict.fromkeys(
        ("init_lora_weights", "peft_init_lora_weights", "pissa_init", "pissa_iter"), _adapter_init
    ),
    **dict.fromkeys(("optim", "optimizer"), _optimizer),
    **dict.fromkeys(("lora_target_modules", "lora_target", "oft_target", "lora_target_linear"), _targets),
    **dict.fromkeys(("template", "chat_template"), _template),
    **dict.fromkeys(("max_steps", "save_steps", "eval_steps", "logging_steps"), _steps),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler"), _schedule),
    **dict.fromkeys(("attn_implementation", "flash_attn", "flash_attention"), _attention),
    **dict.fromkeys(("val_size", "val_set_size"), _held_out),
    **dict.fromkeys(("reward_funcs", "reward_model", "reward_model_name_or_path"), _reward),
    "warmup_steps": _warmup,
    "report_to": _trackers,
    "use_wandb": lambda name, value: {"report_to": ["wandb"]} if value else {},
    "use_tensorboard": lambda name, value: {"report_to": ["tensorboard"]} if value else {},
    "precompute_ref_log_probs": lambda name, value: {"reference_logps": "precomputed" if value else "live"},
    "mask_truncated_completions": lambda name, value: {"truncated": "mask" if value else "keep"},
    "disable_gradient_checkpointing": lambda name, value: {"gradient_checkpointing": not value},
    "gradient_checkpointing": lambda name, value: {"gradient_checkpointing": bool(value)},
}
"""Names whose values are written otherwise here: their name and value to our options."""
