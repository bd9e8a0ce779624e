"""Sequence classifiers from disk: whole or as an adapter with its head, to score with or to train from any model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch

from coalign.core.errors import ConfigError, ModelError
from coalign.data.frame import Frame
from coalign.models import adapters
from coalign.models.devices import autocast_format, pick_device, pick_dtype
from coalign.models.files import loading
from coalign.models.files.failures import explained
from coalign.models.files.places import Location, base_of, locate
from coalign.models.modules import unwrap
from coalign.models.quiet import no_load_report
from coalign.models.scoring.sequence_states import reads_last_token

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from coalign.models.options import ModelOptions

HEADS = ("score", "classifier")
"""What Transformers calls the heads of sequence classifiers."""
_NEEDS = "A reward model is a sequence classifier with a trained head, such as `coalign run reward-model` or TRL write."


def load_classifier(
    place: Location, *, what: str, dtype: torch.dtype, trust_remote_code: bool = False
) -> Any:
    """A trained sequence classifier, on the CPU. An adapter is merged into its base in float32, where that is exact to
    rounding; in half precision it stays beside it.

    Raises:
        ModelError: it cannot be found or read, or has no trained head.
    """
    arguments: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if not place.is_adapter:
        kind, known = _kind(place, what, trust_remote_code)
        return loading.load_pretrained(kind, place, what=what, needs=_NEEDS, **arguments, **known)
    base, outputs = base_of(place), _outputs(place)
    model, _ = _with_new_head(base, what, outputs, arguments)
    adapted = loading.load_adapter(model, place)
    if dtype != torch.float32:
        return adapted
    merged = adapters.merge(adapted)
    merged.name_or_path = merged.config.name_or_path = ""  # no folder holds these weights
    return merged


def outline(options: ModelOptions, outputs: int = 1) -> PreTrainedModel:
    """The classifier over the model of `options` without its weights: what it is, before anything large is read.

    Raises:
        ModelError: it cannot be found or read, or Transformers has no sequence classifier for it.
    """
    from transformers import AutoModelForSequenceClassification

    place = locate(options.model, options.revision)
    base = base_of(place) if place.is_adapter else place
    config = _config(base, "model", options.trust_remote_code)
    config.num_labels = outputs
    try:
        with torch.device("meta"):
            if loading.is_image_text(config):
                from coalign.models.files.picture_classifiers import ImageTextForSequenceClassification

                return ImageTextForSequenceClassification(config)
            trust = {"trust_remote_code": options.trust_remote_code}
            return AutoModelForSequenceClassification.from_config(config, **trust)
    except (OSError, ValueError) as error:
        raise explained(error, base, "model") from error


def _config(place: Location, what: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    where: dict[str, Any] = {"revision": place.revision, "local_files_only": place.cached_only}
    try:
        return AutoConfig.from_pretrained(place.path, trust_remote_code=trust_remote_code, **where)
    except (OSError, ValueError) as error:
        raise explained(error, place, what) from error


def _kind(place: Location, what: str, trust_remote_code: bool) -> tuple[Any, dict[str, Any]]:
    """The class that reads the classifier at a place, and what it is given beside the place."""
    from transformers import AutoModelForSequenceClassification

    config = _config(place, what, trust_remote_code)
    if not loading.is_image_text(config):
        return AutoModelForSequenceClassification, {}
    from coalign.models.files.picture_classifiers import ImageTextForSequenceClassification

    return ImageTextForSequenceClassification, {"config": config}


def new_classifier(options: ModelOptions, outputs: int = 1) -> PreTrainedModel | PeftModel:
    """A classifier over the trunk of any model, to be trained: with a new adapter unless all weights are
    (`adapters.choose_tuning`). The head of a model that has one for so many outputs is kept, any other is new.

    Raises:
        ModelError: it cannot be found or read, or Transformers has no sequence classifier for it.
        ConfigError: its weights are to be quantised.
    """
    if options.quantization != "none":
        raise ConfigError("quantization: the trunk of a reward model is not quantised; leave it out.")
    device = pick_device(options.device)
    parameters = outline(options, outputs).num_parameters()
    tuning = adapters.choose_tuning(options, parameters, device)
    arguments: dict[str, Any] = {
        "trust_remote_code": options.trust_remote_code,
        "dtype": pick_dtype(device, options.dtype, training=tuning == "full"),
    }
    if options.attn_implementation != "auto":
        arguments["attn_implementation"] = options.attn_implementation
    model, new = _trunk(options, outputs, arguments)
    model = model.to(device)
    model.autocast_dtype = autocast_format(device, options.dtype)
    if options.save_dtype != "auto":
        model.saved_dtype = getattr(torch, options.save_dtype)
    if tuning == "full":
        return model
    return adapters.add_adapter(
        model, options, task="SEQ_CLS", whole=[one for one in new if one not in HEADS]
    )


def _trunk(options: ModelOptions, outputs: int, arguments: dict[str, Any]) -> tuple[Any, list[str]]:
    """The classifier, and the names of its modules whose weights are new."""
    place = locate(options.model, options.revision)
    if place.is_adapter and place.adapter_settings.get("task_type") == "SEQ_CLS":
        settings = {name: arguments[name] for name in ("dtype", "trust_remote_code")}
        model = load_classifier(place, what="reward model", **settings)
        return (adapters.merge(model) if adapters.has_adapter(model) else model), []
    if place.is_adapter:
        return _over(loading.load_model(options, training=True), outputs), []
    model, info = _with_new_head(place, "model", outputs, arguments)
    missing = set(info["missing_keys"])
    trunk = {one for one in missing if one.startswith(f"{model.base_model_prefix}.") and "pooler" not in one}
    loading.assert_whole(place, {"missing_keys": trunk}, "The folder may hold only a part of the model.")
    model.name_or_path = model.config.name_or_path = place.name
    other = {one[0] for one in info["mismatched_keys"]}
    return model, sorted({name.rpartition(".")[0] for name in missing | other})


def _with_new_head(
    place: Location, what: str, outputs: int, arguments: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """A classifier, with a random head where there is none of so many outputs, and what was random."""
    kind, known = _kind(place, what, arguments["trust_remote_code"])
    settings = {"num_labels": outputs, **arguments}
    if known:
        return _image_text(place, what, outputs, arguments, known["config"])
    with no_load_report():
        return loading.load_with_info(kind, place, what, ignore_mismatched_sizes=True, **settings)


def _image_text(
    place: Location, what: str, outputs: int, arguments: dict[str, Any], config: Any
) -> tuple[Any, dict[str, Any]]:
    """A classifier over an image-text-to-text model, or one that is stored as such."""
    from transformers import AutoModelForImageTextToText

    from coalign.models.files.picture_classifiers import ImageTextForSequenceClassification

    config.num_labels = outputs
    if loading.IMAGE_TEXT_CLASSIFIER in (config.architectures or ()):
        with no_load_report():
            kind = ImageTextForSequenceClassification
            return loading.load_with_info(
                kind, place, what, ignore_mismatched_sizes=True, config=config, **arguments
            )
    plain = loading.load_pretrained(
        AutoModelForImageTextToText,
        place,
        what=what,
        needs="The folder may hold only a part of the model.",
        **arguments,
    )
    model = ImageTextForSequenceClassification.over(plain, outputs)
    return model, {"missing_keys": {"score.weight"}, "mismatched_keys": set()}


def _over(language_model: PreTrainedModel, outputs: int) -> Any:
    """A classifier that has taken over the trunk of a language model."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(language_model.config)
    if loading.is_image_text(config):
        from coalign.models.files.picture_classifiers import ImageTextForSequenceClassification

        return ImageTextForSequenceClassification.over(language_model, outputs)
    config.num_labels = outputs
    model: Any = AutoModelForSequenceClassification.from_config(config)
    trunk = getattr(language_model, language_model.base_model_prefix)
    setattr(model, model.base_model_prefix, trunk)
    model.name_or_path = model.config.name_or_path = ""  # no folder holds these weights
    return model.to(next(trunk.parameters()))


def _outputs(place: Location) -> int:
    """How many outputs the head of an adapter has.

    Raises:
        ModelError: it has no head.
    """
    from safetensors import SafetensorError, safe_open

    path = f"{place.path}/adapter_model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{place.name}: the adapter cannot be read ({error}).") from error
    heads = [shape for name, shape in shapes.items() if set(name.split(".")) & set(HEADS) and len(shape) == 2]
    if not heads:
        raise ModelError(f"{place.name}: the adapter has no head, so rewards would be random.", hint=_NEEDS)
    return heads[-1][0]


def choose_pad_token(model: Any, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Let model and tokenizer pad with a token that no text ends with, so that Transformers, which takes the last token
    that is not padding for the last of the text, reads the reward where it belongs.

    Encoders, which do not read the last token, keep theirs.

    Returns:
        The token; None where the tokenizer has no such token, and a text that ends with it is misread.
    """
    if not reads_last_token(model):
        return str(tokenizer.pad_token)
    vocabulary = tokenizer.get_vocab()
    special = [str(one) for one in tokenizer.added_tokens_decoder.values() if one.special]
    used = {str(tokenizer.eos_token), str(tokenizer.bos_token)}
    if tokenizer.chat_template:
        chat: Any = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        text = Frame(tokenizer).render(chat, generation_prompt=False)
        used |= {one for one in special if one in text}
    wanted = [one for one in (str(tokenizer.pad_token), *loading.PAD_TOKENS, *special) if one not in used]
    found = next((one for one in wanted if one in vocabulary), None)
    if found is not None:
        tokenizer.pad_token = found
    config: Any = unwrap(model).config
    for one in {id(part): part for part in (config, config.get_text_config(decoder=True))}.values():
        one.pad_token_id = cast(int, tokenizer.pad_token_id)
    return found
