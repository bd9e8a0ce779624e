"""What the files of a model say before they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from coalign.models.files.places import Location


def cached_path(place: Location, name: str) -> str | None:
    """The path of one of a model's files on this machine, fetched where it has to be; None where there is none."""
    from transformers.utils import cached_file

    return cached_file(
        place.path,
        name,
        revision=place.revision,
        local_files_only=place.cached_only,
        _raise_exceptions_for_missing_entries=False,
    )


def own_dtype(place: Location, config: PretrainedConfig) -> torch.dtype | None:
    """The number format of the weights on disk: as the configuration says, else that of the first weight."""
    said = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return getattr(torch, said) if isinstance(said, str) else said or _first_dtype(place)


def _first_dtype(place: Location) -> torch.dtype | None:
    from safetensors import SafetensorError, safe_open

    file = cached_path(place, "model.safetensors")
    index = None if file else cached_path(place, "model.safetensors.index.json")
    if index:
        shards = json.loads(Path(index).read_text(encoding="utf-8")).get("weight_map", {})
        file = cached_path(place, next(iter(shards.values()), "model.safetensors"))
    if not file:
        return None
    try:
        with safe_open(file, "pt") as weights:
            named = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    except SafetensorError:  # told when the weights are read
        return None
    known = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    return next((dtype for name, dtype in known.items() if name in named), None)


def lost_steps(tokenizer: Any, place: Location) -> bool:
    """Whether Transformers dropped steps of the published `tokenizer.json`.

    Transformers 5 rebuilds the pre-tokenizer of some classes (GPT2Tokenizer: SmolLM2, StarCoder) without the rule
    that splits digits, which changes the tokens around numbers.
    """
    file = cached_path(place, "tokenizer.json") if getattr(tokenizer, "is_fast", False) else None
    if file is None:
        return False
    published = json.loads(Path(file).read_text(encoding="utf-8")).get("pre_tokenizer") or {}
    loaded = json.loads(tokenizer.backend_tokenizer.to_str()).get("pre_tokenizer")
    return published.get("type") == "Sequence" and published != loaded
