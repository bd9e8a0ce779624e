"""Models on disk: Hugging Face layout, safetensors, whole or absent."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path, write_json
from coalign.data.media.prompts import processor_of
from coalign.data.templates import TemplateText
from coalign.models import adapters
from coalign.models.files.defaults import disk_errors
from coalign.models.generation.endings import stop_token_ids
from coalign.models.quiet import no_weight_bars

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def save_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    merge: bool = False,
    max_shard_size: str | None = None,
) -> Path:
    """Write model and tokenizer to `path`, replacing what is there; `loading.load_model` reads it back.

    A model with an adapter is written as the adapter alone, which records its base (a hub id, or an absolute
    folder). It is merged first on request, and always when its base exists nowhere else (a model that was itself
    merged from an adapter). `model` itself is not changed; merging copies it. A whole model is written in the format
    that `loading.load_model` noted on it: its own on disk, or the one that was asked for.

    Args:
        merge: fold an adapter into its base.
        max_shard_size: of a whole model, such as `2GB`; by default Transformers'.

    Where the tokenizer was given another chat template, the token that ends its turns ends generation as well.

    Raises:
        ModelError: the disk is full (nothing is left at `path`), or the merged weights are not finite.
    """
    plain = model
    if adapters.has_adapter(model) and (merge or not base_name(cast("PeftModel", model))):
        plain = adapters.merge(copy.deepcopy(cast("PeftModel", model)))
        plain.name_or_path = plain.config.name_or_path = ""
    with atomic_path(path) as temporary, disk_errors(path), no_weight_bars():
        temporary.mkdir()
        if adapters.has_adapter(plain):
            adapters.save_adapter(cast("PeftModel", plain), temporary)
        else:
            _save_whole(cast("PreTrainedModel", plain), tokenizer, temporary, max_shard_size)
        (processor_of(tokenizer) or tokenizer).save_pretrained(str(temporary))
        if not any(temporary.glob("*.safetensors")):
            raise ModelError(f"Nothing was written for {type(model).__name__}: it has no weights.")
    return path


def saved_format(model: torch.nn.Module) -> torch.dtype | None:
    """The format in which a whole model will be saved, where that is another than it has now."""
    return getattr(model, "saved_dtype", None)


def _save_whole(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, max_shard_size: str | None
) -> None:
    dtype = saved_format(model)
    weights = None if dtype is None else _in_format(model, dtype)
    if dtype is not None and not all(one.isfinite().all() for one in (weights or {}).values()):
        logger.warning("Weights are beyond %s, so the model is saved as it is (%s).", dtype, model.dtype)
        dtype = weights = None
    shards = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    with _stops_at(model, tokenizer):
        cast(Any, model).save_pretrained(str(folder), state_dict=weights, **shards)
    if dtype is not None:
        path = folder / "config.json"
        write_json(path, _with_dtype(json.loads(path.read_text(encoding="utf-8")), dtype))


def _in_format(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights on the CPU in another format; shared ones stay shared, and those that must be float32 stay so."""
    names = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    kept = {one for name in names for one in getattr(model, name, None) or ()}
    made: dict[Any, Tensor] = {}
    found = {}
    for name, one in model.state_dict().items():
        narrow = one.is_floating_point() and kept.isdisjoint(name.split("."))
        key = (one.data_ptr(), one.shape, one.stride(), one.dtype)
        if key not in made or not one.numel():
            made[key] = one.detach().to("cpu", dtype if narrow else one.dtype)
        found[name] = made[key]
    return found


def _with_dtype(config: Any, dtype: torch.dtype) -> Any:
    """A configuration that says this format, in all its parts."""
    if not isinstance(config, dict):
        return config
    said = {"dtype": str(dtype).removeprefix("torch.")} if config.get("dtype") else {}
    return {**{name: _with_dtype(value, dtype) for name, value in config.items()}, **said}


@contextlib.contextmanager
def _stops_at(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Inside the block the generation configuration ends at the turns of a chat template that was chosen."""
    config = getattr(model, "generation_config", None)  # a classifier has none
    if config is None or not isinstance(tokenizer.chat_template, TemplateText):
        yield
        return
    before = config.eos_token_id
    config.eos_token_id = stop_token_ids(model, tokenizer)
    try:
        yield
    finally:
        config.eos_token_id = before


def base_name(model: PeftModel) -> str | None:
    """Hub id or folder of the model under the adapter; None when no place holds it."""
    return next(iter(model.peft_config.values())).base_model_name_or_path or None
