"""What a reward stands on: a dual encoder whose features it reads, or BLIP, which learns with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coalign.core.errors import ModelError
from coalign.curation.image_text.scorers import (
    BACKBONE,
    Blip,
    EmbeddingScorer,
    FusionScorer,
    PairScorer,
    Towers,
    load_head,
    read_settings,
)
from coalign.models.devices import pick_device
from coalign.models.files.identity import model_identity
from coalign.models.files.loading import load_pretrained
from coalign.models.files.processors import load_processor, model_type
from coalign.models.options import ModelOptions
from coalign.pairs.encoders import ImageTextEncoder

BLIP = "blip"


@dataclass(frozen=True)
class Encoder:
    """An encoder by its name.

    Attributes:
        identity: a hash of its weights, or the revision on the hub.
        reads: what it is.
    """

    name: str
    revision: str | None
    identity: str
    reads: Towers | Blip
    device: torch.device

    @property
    def plain_name(self) -> str:
        """What it scores without a reward."""
        return "BLIP-Score" if isinstance(self.reads, Blip) else "CLIPScore"

    def about(self) -> dict[str, Any]:
        """What is written of it beside a reward."""
        kind = "fusion" if isinstance(self.reads, Blip) else "embeddings"
        return {"kind": kind, "encoder": self.name, "revision": self.revision, "identity": self.identity}


def open_encoder(name: str, revision: str | None, device: str) -> Encoder:
    """Load an encoder by hub id or folder.

    Raises:
        ModelError: there is none, or it is neither BLIP for retrieval nor a dual encoder.
    """
    on = pick_device(device)
    identity = model_identity(ModelOptions(model=name, revision=revision))
    if model_type(name, revision) == BLIP:
        return Encoder(name, revision, identity, _blip(name, revision, on), on)
    return Encoder(
        name, revision, identity, Towers(ImageTextEncoder.load(name, revision=revision, device=device)), on
    )


def open_reward(folder: Path, device: str) -> PairScorer:
    """A reward that was saved, on its encoder.

    Raises:
        ModelError: the folder holds none, or its encoder cannot be loaded, or is another one than it was learnt on.
    """
    from coalign.curation.image_text.reward import EmbeddingReward, FusionReward

    about, on = read_settings(folder), pick_device(device)
    if about["kind"] == "fusion":
        blip = _blip(str(folder / BACKBONE), None, on)
        fused = FusionReward(blip.model)
        load_head(folder, fused)
        return FusionScorer(blip, fused.to(on).eval())
    encoder = open_encoder(about["encoder"], about["revision"], device)
    if encoder.identity != about["identity"]:
        raise ModelError(
            f"{folder}: was learnt on another {about['encoder']} than the one that is there now.",
            hint="A reward reads the features of the encoder that it was learnt on.",
        )
    assert isinstance(encoder.reads, Towers)
    model = EmbeddingReward(encoder.reads.encoder.width)
    load_head(folder, model)
    return EmbeddingScorer(encoder.reads, model.to(on).eval())


def _blip(name: str, revision: str | None, device: torch.device) -> Blip:
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    model: Any = load_pretrained(
        BlipForImageTextRetrieval,
        name,
        what="BLIP for retrieval",
        revision=revision,
        needs="Give the whole model.",
        dtype=torch.float32,
    )
    longest = int(model.config.text_config.max_position_embeddings)
    return Blip(model.to(device).eval(), load_processor(AutoProcessor, name, revision), longest)
