"""The released weights of FGA-BLIP2 (`fga_blip2.pth`, of a fork of LAVIS) under the names that Transformers gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from coalign.core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pth", ".pt")
_PLACES = (
    (r"query_tokens", "body.model.query_tokens"),
    (r"itm_head\.", "match."),
    (r"mask_proj\.layers\.", "mark."),
    (r"ln_vision\.", "body.model.vision_model.post_layernorm."),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.", "body.model.qformer.layernorm."),
    (r"Qformer\.bert\.embeddings\.(?!position_ids)", "body.model.embeddings."),
    (r"Qformer\.bert\.encoder\.", "body.model.qformer.encoder."),
)
"""How names of the release begin, and how ours do. What is not here (projections, the frozen tower) is not used."""


def is_released(name: str) -> bool:
    """Whether a scorer is named by a file of the release."""
    return name.endswith(SUFFIXES)


def read_released(path: Path) -> dict[str, Tensor]:
    """Our names to the weights of a released file. Its pickle is read for tensors alone, nothing in it is run.

    Raises:
        ModelError: no such file, not one of tensors, or without the Q-Former and its heads.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickles fail in many ways
        raise ModelError(
            f"{path}: cannot be read as released weights ({str(error).splitlines()[0]})."
        ) from error
    weights = found.get("model", found) if isinstance(found, dict) else {}
    known = {our_name(name): value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    known.pop(None, None)
    for part in ("body.model.qformer.", "match.", "mark."):
        if not any(name is not None and name.startswith(part) for name in known):
            raise ModelError(f"{path}: has no weights of {part.rstrip('.')}, expected those of FGA-BLIP2.")
    return {name: value for name, value in known.items() if name is not None}


def our_name(name: str) -> str | None:
    """The name of a released weight in `model.FineGrainedScorer` on BLIP-2; None for what is not used there."""
    for begins, ours in _PLACES:
        found = re.match(begins, name)
        if found:
            return ours + name[found.end() :].replace("attention.self.", "attention.attention.")
    return None
