"""Models and adapters in one GGUF file, tensor by tensor."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import ConfigError, ModelError
from coalign.core.extras import require
from coalign.core.files import atomic_path
from coalign.core.progress import counted
from coalign.models.files.defaults import disk_errors
from coalign.models.files.llama_cpp import families, tokens
from coalign.models.files.llama_cpp.families import Family, Field, family_of
from coalign.models.files.loading import load_config, load_model, load_tokenizer
from coalign.models.files.places import Location, base_of, locate, short_name
from coalign.models.options import ModelOptions

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

OutType = Literal["f32", "f16", "bf16", "q8_0"]
_NAMES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
_EMBEDDING = "model.embed_tokens.weight"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file: its name, its shape, its format, and how its values are had when they are written."""

    name: str
    shape: tuple[int, ...]
    kind: Any
    values: Callable[[], np.ndarray[Any, Any]]


def write_model(options: ModelOptions, target: Path, outtype: OutType) -> Path:
    """Write a model with its tokenizer to the file `target`, whole or not at all. An adapter is folded into its base first.

    Matrices are in `outtype`, vectors in float32. `q8_0` holds 32 values of a row as integers of 8 bits under one scale of 16
    (an error of at most 1/254 of the largest of them, and the scale's rounding); rows that 32 does not divide are float16.

    Args:
        options: `model`, `revision`, `chat_template`, `trust_remote_code`.

    Raises:
        ModelError: the model cannot be read, or llama.cpp would compute or split text otherwise (see `families`, `tokens`).
        MissingExtraError: the gguf library is not installed.
    """
    require("gguf", "gguf")
    place = locate(options.model, options.revision)
    base = base_of(place) if place.is_adapter else place
    family = family_of(load_config(base, options), options.model)  # before weights are read
    tokenizer = load_tokenizer(options)
    plain = replace(options, device="cpu", dtype="float32", save_dtype="auto")
    model: Any = load_model(plain, training=True)
    config, weights = model.config, model.state_dict()
    if config.tie_word_embeddings and weights["lm_head.weight"].equal(weights[_EMBEDDING]):
        del weights["lm_head.weight"]  # an adapter on the head alone would have parted them
    length = families.context(config)
    if length < config.max_position_embeddings:
        logger.warning(
            "llama.cpp has no sliding window for this family: the file says a context of %d tokens, the window.",
            length,
        )
    fields = [
        ("type", "model"),
        ("name", short_name(place.name)),
        *families.described(family, config),
        *tokens.described(tokenizer, weights[_EMBEDDING].shape[0], options.model),
        *_turn_end(model, tokenizer),
    ]
    entries = list(_model_entries(family, config, weights, outtype, options.model))
    return _write(target, family, fields, entries, outtype)


def write_adapter(options: ModelOptions, target: Path, outtype: OutType) -> Path:
    """Write a LoRA adapter apart from its base, as `llama-cli --lora` takes it beside the base's GGUF file.

    Raises:
        ConfigError: `options.model` is a whole model.
        ModelError: an adapter that llama.cpp cannot apply: of another kind than LoRA, with magnitudes (DoRA), biases or whole
            modules beside it, on embeddings, or over a base that is not written (see `families`).
        MissingExtraError: the gguf library is not installed.
    """
    gguf = require("gguf", "gguf")
    place = locate(options.model, options.revision)
    if not place.is_adapter:
        raise ConfigError(f"{options.model} is a whole model.", hint="Leave --adapter out.")
    settings = place.adapter_settings
    _assert_plain(settings, options.model)
    base = base_of(place)
    config = load_config(base, options)
    family = family_of(config, options.model)
    pairs = _pairs(place, options.model)
    scales = {name: _scale(settings, name, one["A"].shape[0]) for name, one in pairs.items()}
    rank_of = {name: one["A"].shape[0] for name, one in pairs.items()}
    first = next(iter(pairs))
    alpha = scales[first] * rank_of[first]
    entries = []
    for name, one in pairs.items():
        stored = _mapped(family, config, f"{name}.weight", options.model)
        # llama.cpp multiplies by alpha / rank; what else a module's own settings say goes into B
        factor = scales[name] * rank_of[name] / alpha
        for part, values in (("lora_a", one["A"]), ("lora_b", one["B"] * factor)):
            changed = _changed(family, config, name, values) if part == "lora_b" else values.numpy()
            entries.append(_entry(f"{stored}.{part}", changed, outtype, options.model))
    fields: list[Field] = [
        ("type", gguf.GGUFType.ADAPTER),
        ("name", short_name(place.name)),
        ("base_model_count", 1),
        ("base_model_name", (0, short_name(base.name))),
    ]

    def adapter(writer: Any) -> None:
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))

    return _write(target, family, fields, entries, outtype, adapter)


def _turn_end(model: Any, tokenizer: Any) -> Iterator[Field]:
    """The token that ends a turn, where generation stops at another one than the tokenizer's end."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    others = [one for one in (ends if isinstance(ends, list) else [ends]) if one is not None]
    others = [one for one in others if one != tokenizer.eos_token_id]
    if others:
        yield "eot_token_id", others[0]


def _model_entries(
    family: Family, config: Any, weights: dict[str, Any], outtype: OutType, model: str
) -> Iterator[_Entry]:
    for name, weight in weights.items():
        stored = _mapped(family, config, name, model)
        shape = tuple(weight.shape)

        def values(name: str = name, weight: Any = weight) -> np.ndarray[Any, Any]:
            return _changed(family, config, name.removesuffix(".weight").removesuffix(".bias"), weight)

        yield _Entry(stored, shape, _format(shape, outtype), values)
    factors = _rope_factors(config)
    if factors is not None:
        yield _entry("rope_freqs.weight", factors, "f32", model)


def _rope_factors(config: Any) -> np.ndarray[Any, Any] | None:
    """By how much Llama 3's scaling slows the rotation of each pair down: Transformers' frequencies without it and with it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    turned = families.rope(config)
    if turned.get("rope_type") != "llama3":
        return None
    import numpy as np

    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / float(turned["rope_theta"]) ** (np.arange(0, size, 2, dtype=np.float64) / size)
    return (plain / slowed.double().numpy()).astype(np.float32)


def _mapped(family: Family, config: Any, name: str, model: str) -> str:
    import gguf

    number = next(key for key, one in gguf.MODEL_ARCH_NAMES.items() if one == family.architecture)
    known = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    found = known.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ModelError(f"{model}: {name} has no place in a GGUF file of the family {family.architecture}.")
    return found


def _changed(family: Family, config: Any, module: str, weight: Any) -> np.ndarray[Any, Any]:
    """A weight as llama.cpp has it, float32."""
    from coalign.models.files.conversion import interleave

    values = weight.float().numpy()
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = module.rpartition(".")[2]
    if family.interleaved and part in heads:
        values = interleave(values, heads[part])
    return values + family.norm_offset if part.endswith("norm") and family.norm_offset else values


def _entry(name: str, values: np.ndarray[Any, Any], outtype: OutType, model: str) -> _Entry:
    return _Entry(name, values.shape, _format(values.shape, outtype), lambda: values)


def _format(shape: tuple[int, ...], outtype: OutType) -> Any:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) < 2:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[outtype.upper()]
    return GGMLQuantizationType.F16 if shape[-1] % GGML_QUANT_SIZES[kind][0] else kind


def _stored(entry: _Entry) -> np.ndarray[Any, Any]:
    import numpy as np
    from gguf import GGMLQuantizationType, quantize

    values = np.ascontiguousarray(entry.values(), dtype=np.float32)
    if not np.isfinite(values).all():
        raise ModelError(f"{entry.name}: a weight is not a finite number.")
    if entry.kind == GGMLQuantizationType.F16 and np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
        raise ModelError(f"{entry.name}: a weight is beyond float16.", hint="Take --outtype bf16 or f32.")
    return quantize(values, entry.kind)


def _write(
    target: Path,
    family: Family,
    fields: Iterable[Field],
    entries: list[_Entry],
    outtype: OutType,
    more: Callable[[Any], None] = lambda writer: None,
) -> Path:
    import gguf
    import numpy as np

    with atomic_path(target) as path, disk_errors(target):
        writer = gguf.GGUFWriter(path, family.architecture)
        try:
            for name, value in fields:
                add = getattr(writer, f"add_{name}")
                add(*value) if isinstance(value, tuple) else add(value)
            more(writer)
            writer.add_file_type(gguf.LlamaFileType[_NAMES[outtype]])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            for one in entries:
                block, size = gguf.GGML_QUANT_SIZES[one.kind]
                bytes_ = math.prod(one.shape) // block * size
                writer.add_tensor_info(one.name, one.shape, np.dtype(np.float32), bytes_, raw_dtype=one.kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for one in counted(entries, "Writing", "tensor", len(entries)):
                writer.write_tensor_data(_stored(one))
        finally:
            writer.close()
    return target


def _assert_plain(settings: dict[str, Any], model: str) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{model}: llama.cpp applies adapters of LoRA alone, and this is of {kind}.")
    odd = [
        one
        for one in (
            "use_dora",
            "modules_to_save",
            "lora_bias",
            "layer_replication",
            "trainable_token_indices",
        )
        if settings.get(one)
    ]
    odd += ["bias"] if settings.get("bias", "none") != "none" else []
    if odd:
        raise ModelError(
            f"{model}: llama.cpp has no adapter with {odd[0]}.",
            hint="Without --adapter it is folded into its base.",
        )


def _pairs(place: Location, model: str) -> dict[str, dict[str, Any]]:
    """Module to its matrices A [rank, in] and B [out, rank]."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(Path(place.path) / "adapter_model.safetensors")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{model}: its adapter_model.safetensors cannot be read ({error}).") from error
    if not weights:
        raise ModelError(f"{model}: the adapter has no weights.")
    found: dict[str, dict[str, Any]] = {}
    for name, values in weights.items():
        module, _, rest = name.removeprefix(_PREFIX).partition(".lora_")
        if rest not in ("A.weight", "B.weight"):
            raise ModelError(
                f"{model}: llama.cpp has no place for {name} of an adapter.",
                hint="Without --adapter it is folded into its base.",
            )
        found.setdefault(module, {})[rest[0]] = values.float()
    return found


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    """By what the product of a module's matrices is multiplied (LoRA; rsLoRA, arXiv 2312.03732)."""
    from peft.utils.other import get_pattern_key

    patterns = settings.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), settings["lora_alpha"]))
    return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
