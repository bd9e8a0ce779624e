"""Models on disk: Hugging Face layout, safetensors, whole or absent."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path
from coalign.models import adapters
from coalign.models.files.defaults import disk_errors
from coalign.models.quiet import no_weight_bars

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    merge: bool = False,
) -> Path:
    """Write model and tokenizer to `path`, replacing what is there; `loading.load_model` reads it back.

    A model with an adapter is written as the adapter alone, which records its base (a hub id, or an absolute
    folder). It is merged first on request, and always when its base exists nowhere else (a model that was itself
    merged from an adapter). `model` itself is not changed; merging copies it.

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
            # peft would ask the hub about the base's vocabulary; embeddings are never part of the adapter
            cast(Any, plain).save_pretrained(str(temporary), save_embedding_layers=False)
        else:
            plain.save_pretrained(str(temporary))
        tokenizer.save_pretrained(str(temporary))
        if not any(temporary.glob("*.safetensors")):
            raise ModelError(f"Nothing was written for {type(model).__name__}: it has no weights.")
    return path


def base_name(model: PeftModel) -> str | None:
    """Hub id or folder of the model under the adapter; None when no place holds it."""
    return next(iter(model.peft_config.values())).base_model_name_or_path or None
