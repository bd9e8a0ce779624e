"""Causal language models and tokenizers by hub id, folder, run folder or `default`. Safetensors only."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.data.media.prompts import attach_processor
from coalign.data.templates import choose_template
from coalign.models.adapters import add_adapter, choose_tuning, merge, quiet_peft
from coalign.models.devices import autocast_format, pick_device, pick_dtype
from coalign.models.files.failures import explained, first_line
from coalign.models.files.places import Location, base_of, locate
from coalign.models.files.quantized import is_quantized, keep_gradients, quantization_arguments
from coalign.models.files.stored import lost_steps, own_dtype
from coalign.models.options import ModelOptions
from coalign.models.quiet import no_weight_bars

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

IMAGE_TEXT_CLASSIFIER = "ImageTextForSequenceClassification"
"""The class of reward models over image-text-to-text models (`coalign.models.files.picture_classifiers`)."""
PAD_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>")


def load_tokenizer(options: ModelOptions | str) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, by options or by name alone, with a pad token.

    Where a model has no pad token, one of its own unused special tokens is taken, else the end-of-turn token. No
    token is added, so the embedding never changes; padding is masked by position, never by token id, so sharing the
    id with the end-of-turn token hides nothing.

    Args:
        options: options that name the model and say the rest, or its name.

    Raises:
        ModelError: it cannot be found, fetched or read.
        ConfigError: another chat template is asked for and cannot be used.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    options = ModelOptions(model=options) if isinstance(options, str) else options
    place = locate(options.model, options.revision)
    if place.is_adapter and not (Path(place.path) / "tokenizer_config.json").is_file():
        place = base_of(place)
    arguments: dict[str, Any] = {"revision": place.revision, "local_files_only": place.cached_only}
    try:
        loaded = AutoTokenizer.from_pretrained(
            place.path, trust_remote_code=options.trust_remote_code, **arguments
        )
        if lost_steps(loaded, place):
            loaded = PreTrainedTokenizerFast.from_pretrained(place.path, **arguments)
    except (OSError, ValueError, KeyError) as error:
        raise explained(error, place, "tokenizer") from error
    tokenizer = cast("PreTrainedTokenizerFast", loaded)
    if processor := load_processor(place, options, tokenizer):
        attach_processor(tokenizer, processor)
    if tokenizer.pad_token is None:
        vocabulary = tokenizer.get_vocab()
        free = [one for one in PAD_TOKENS if one in vocabulary and one != tokenizer.eos_token]
        tokenizer.pad_token = free[0] if free else tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ModelError(f"{place.name}: the tokenizer has neither a pad nor an end-of-sequence token.")
    if options.chat_template is not None:
        choose_template(tokenizer, options.chat_template)
    return tokenizer


def load_processor(place: Location, options: ModelOptions, tokenizer: Any) -> Any | None:
    """The processor of an image-text-to-text model around its tokenizer, which gets its chat template; None for a model of
    text alone.

    Raises:
        ModelError: it cannot be read, or needs a library that is not installed.
    """
    from transformers import AutoConfig, AutoProcessor

    base = base_of(place) if place.is_adapter else place
    try:
        config = AutoConfig.from_pretrained(base.path, **_shared(base, options))
    except (OSError, ValueError, KeyError):
        return None  # a tokenizer alone; the model says so where one is needed
    if not is_image_text(config):
        return None
    arguments = _shared(base, options)
    try:
        processor = AutoProcessor.from_pretrained(base.path, **arguments)
    except (OSError, ValueError, KeyError, ImportError) as error:
        names = ("torchvision", "torchcodec", "PIL", "num2words")
        missing = next((one for one in names if re.search(rf"\b{one}\b", str(error), re.IGNORECASE)), None)
        clips = missing == "torchvision" or "video processor" in str(error)
        refused = explained(error, base, "processor") if missing is None else _needs(missing, base, config)
        kind = _seeing_alone(config) if clips else None
        if kind is None:
            raise refused from error
        try:
            processor = kind.from_pretrained(base.path, **arguments)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as other:
            raise refused from other
    if tokenizer.chat_template is None:
        tokenizer.chat_template = processor.chat_template
    processor.tokenizer = tokenizer
    return processor


def _seeing_alone(config: PretrainedConfig) -> Any | None:
    """The class of a model's processor without its part for clips, which is all that needs torchvision (Qwen-VL), and is not
    saved with a model that was loaded so; None where the model's processor has no such part.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    if kind is None or "video_processor" not in (parts := kind.get_attributes()):
        return None
    kept = [one for one in parts if one != "video_processor"]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda _: kept)})


def _needs(missing: str, base: Location, config: PretrainedConfig) -> ModelError:
    name = "pillow (the extra images)" if missing == "PIL" else missing
    return ModelError(
        f"{base.name}: the processor of this {config.model_type} model needs {name}, which cannot be imported.",
        hint=f"Install {missing} in the version that belongs to the installed torch, or take a model whose processor "
        "does without (LLaVA, Idefics3).",
    )


def load_model(options: ModelOptions | str, *, training: bool) -> PreTrainedModel:
    """A causal language model on its device, in eval mode.

    Args:
        options: or a name, with every other option at its default.
        training: choose the format for training, and merge an adapter folder into its base, so that the model is the
            starting policy and, under a new adapter, the reference. Otherwise an adapter folder gives base and
            adapter (a `PeftModel`; see `adapters.disabled_adapter`).

    Raises:
        ModelError: not found, hub unreachable, gated, not a causal language model, weights missing or corrupted.
        ConfigError: a device or format that cannot be used.
    """
    options = ModelOptions(model=options) if isinstance(options, str) else options
    place = locate(options.model, options.revision)
    base = base_of(place) if place.is_adapter else place
    if base.is_adapter:
        raise ModelError(f"{place.name} is an adapter on {base.name}, which is an adapter itself.")
    if training and place.is_adapter and options.quantization != "none":
        raise ConfigError(
            f"quantization: {place.name} is an adapter, which is merged before training goes on; quantised weights "
            "cannot be merged into.",
            hint="Train the base model, or merge and save the adapter first.",
        )
    device = pick_device(options.device)
    config = load_config(base, options)
    full = training and _tuning(options, config, device) == "full"
    own = own_dtype(base, config) if training else None
    dtype = pick_dtype(device, options.dtype, training=full)
    plain = _load_plain(base, config, options, device, dtype)
    if training:
        cast(Any, plain).saved_dtype = _saved_dtype(options, own, dtype)
        cast(Any, plain).autocast_dtype = autocast_format(device, options.dtype)
    if not place.is_adapter:
        return plain
    model = load_adapter(plain, place)
    if not training:
        return cast("PreTrainedModel", model)
    plain = merge(model)
    plain.name_or_path = plain.config.name_or_path = ""  # no folder holds these weights
    return plain


def load_for_training(options: ModelOptions) -> PreTrainedModel:
    """`load_model`, with a new adapter on it unless all weights are to be trained (see `adapters.choose_tuning`).

    Raises:
        ConfigError: also a format to save in, where only an adapter is saved.
    """
    place = locate(options.model, options.revision)
    config = load_config(base_of(place) if place.is_adapter else place, options)
    # decided before loading: free memory is another afterwards
    tuning = _tuning(options, config, pick_device(options.device))
    if tuning == "lora" and not place.is_adapter and options.save_dtype != "auto":
        raise ConfigError(
            "save_dtype has no effect on an adapter, which is float32; leave it out or use tuning: full"
        )
    model = load_model(dataclasses.replace(options, tuning=tuning), training=True)
    return cast("PreTrainedModel", add_adapter(model, options)) if tuning == "lora" else model


def load_adapter_twice(options: ModelOptions, copy: str) -> PeftModel:
    """The adapter that `options.model` names on its base, to be trained further, and a frozen copy of it called `copy`.

    Raises:
        ModelError: `options.model` is not an adapter folder, or cannot be loaded.
    """
    place = locate(options.model, options.revision)
    if not place.is_adapter:
        raise ModelError(f"{place.name} is {place.kind}, expected an adapter folder.")
    base = base_of(place)
    device = pick_device(options.device)
    dtype = pick_dtype(device, options.dtype, training=False)
    plain = _load_plain(base, load_config(base, options), options, device, dtype)
    model = load_adapter(plain, place, trainable=True)
    with quiet_peft():
        model.load_adapter(place.path, adapter_name=copy)
    model.set_adapter("default")
    return model


def load_config(place: Location, options: ModelOptions) -> PretrainedConfig:
    """What a causal language model is, before its weights are read.

    Raises:
        ModelError: it cannot be found or read, or is a model of another kind.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(place.path, **_shared(place, options))
    except (OSError, ValueError) as error:
        raise explained(error, place, "model") from error
    _assert_causal(config, place, options)
    return config


def _shared(place: Location, options: ModelOptions) -> dict[str, Any]:
    return {
        "revision": place.revision,
        "local_files_only": place.cached_only,
        "trust_remote_code": options.trust_remote_code,
    }


def _tuning(options: ModelOptions, config: PretrainedConfig, device: torch.device) -> Literal["lora", "full"]:
    if options.tuning != "auto" or device.type == "cpu":
        return choose_tuning(options, 0, device)  # the size does not matter
    with torch.device("meta"):
        empty = _auto_class(config).from_config(config, trust_remote_code=options.trust_remote_code)
    return choose_tuning(options, empty.num_parameters(), device)


def _load_plain(
    place: Location, config: PretrainedConfig, options: ModelOptions, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    from safetensors import SafetensorError

    arguments = {**_shared(place, options), **place.of_weights}
    if options.attn_implementation != "auto":
        arguments["attn_implementation"] = options.attn_implementation
    arguments |= quantization_arguments(options, device, dtype)
    try:
        with no_weight_bars():
            model, info = cast(Any, _auto_class(config)).from_pretrained(
                place.path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                **arguments,
            )
    except SafetensorError as error:
        hint = "Download or write it again: the file is cut off or was changed."
        raise ModelError(f"{place.name}: the weights are corrupted ({error}).", hint=hint) from error
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise explained(error, place, "model") from error
    assert_whole(place, info, "The folder may hold only a part of the model, or a model of another kind.")
    _mend_generation_config(model)
    model.name_or_path = model.config.name_or_path = place.name
    if is_quantized(model):
        keep_gradients(model)
        return model
    return model.to(device)


def _saved_dtype(options: ModelOptions, own: torch.dtype | None, used: torch.dtype) -> torch.dtype | None:
    """The format to save in; None: that of the weights, which is never made wider than it has to be."""
    if options.save_dtype != "auto":
        return getattr(torch, options.save_dtype)
    return own if own is not None and own.itemsize < used.itemsize else None


def _mend_generation_config(model: PreTrainedModel) -> None:
    """Settings of sampling without `do_sample`, which many published folders have, mean sampling: Transformers reads
    such a configuration with a warning, and refuses to save it.
    """
    config = model.generation_config
    try:
        if config is not None:
            config.validate(strict=True)
    except ValueError:
        cast(Any, config).do_sample = True


def load_pretrained(
    kind: Any,
    name: str | Location,
    *,
    what: str,
    revision: str | None = None,
    needs: str | None = None,
    **arguments: Any,
) -> Any:
    """A model of one of Transformers' auto classes by folder, run folder or hub id. Safetensors only.

    Args:
        kind: the auto class.
        what: what messages call it.
        needs: a hint for a model of which weights are missing, which is then refused; None lets them be random.
        arguments: further ones of `from_pretrained`.

    Raises:
        ModelError: it cannot be found or read, or weights are missing.
    """
    place = name if isinstance(name, Location) else locate(name, revision)
    model, info = load_with_info(kind, place, what, **arguments)
    if needs is not None:
        assert_whole(place, info, needs)
    return model


def load_with_info(kind: Any, place: Location, what: str, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """As `load_pretrained`, with Transformers' account of the weights that were missing or of another shape."""
    from safetensors import SafetensorError

    try:
        with no_weight_bars():
            return kind.from_pretrained(
                place.path,
                use_safetensors=True,
                output_loading_info=True,
                **place.of_weights,
                **arguments,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise explained(error, place, what) from error


def assert_whole(place: Location, info: dict[str, Any], hint: str) -> None:
    """Refuse a model of which weights are missing.

    Raises:
        ModelError: some are; the first is named.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{place.name}: {len(missing)} weights are missing and would be random, first {missing[0]}.",
            hint=hint,
        )


def _assert_causal(config: PretrainedConfig, place: Location, options: ModelOptions) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kinds = config.architectures or []
    known = {one for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for one in _as_tuple(names)}
    if not kinds or options.trust_remote_code or known.intersection(kinds) or is_image_text(config):
        return
    raise ModelError(f"{place.name} is a {kinds[0]}, not a causal language model.")


def is_image_text(config: PretrainedConfig) -> bool:
    """Whether a configuration is that of an image-text-to-text model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if getattr(config, "vision_config", None) is None:
        return False
    names = _as_tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type, ()))
    return bool({*names, IMAGE_TEXT_CLASSIFIER} & set(config.architectures or names))


def _auto_class(config: PretrainedConfig) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if is_image_text(config) else AutoModelForCausalLM


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def load_adapter(
    base: PreTrainedModel | PeftModel, place: Location, *, name: str = "default", trainable: bool = False
) -> Any:
    """The adapter at `place` on its base, in evaluation mode.

    Args:
        base: the plain model, or one that has adapters of other names already.
        name: of the adapter on the model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    if not (Path(place.path) / "adapter_model.safetensors").is_file():
        raise ModelError(f"{place.name}: adapter_model.safetensors is missing (only safetensors are read).")
    try:
        with quiet_peft():
            if isinstance(base, PeftModel):
                base.load_adapter(place.path, adapter_name=name)
                return base.eval()
            return PeftModel.from_pretrained(base, place.path, name, is_trainable=trainable).eval()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{place.name}: the adapter is corrupted ({error}).") from error
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{place.name} does not fit its base {base.name_or_path}: {first_line(error)}"
        ) from error
