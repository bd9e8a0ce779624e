"""The head of a text and clip retriever above any image-text model: layers over frames, queries that read both modalities."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coalign.core.errors import ModelError
from coalign.core.files import atomic_path, write_json
from coalign.models.quiet import no_weight_bars
from coalign.pairs.encoders import Encoded, ImageTextEncoder

HEAD, WEIGHTS = "retrieval_head.json", "retrieval_head.safetensors"
HIDDEN = -1e6
"""Added to the attention to padded frames. Source: the official code."""


@dataclass(frozen=True)
class HeadSizes:
    """Sizes of a head.

    Attributes:
        width: D of the joint space.
        positions: most frames.
        temporal_heads, temporal_inner, activation: of the layers over frames; those of a CLIP text model of the same width, so
            that its layers can be where they begin.
    """

    width: int
    positions: int
    queries: int = 8
    decoder_layers: int = 3
    temporal_layers: int = 4
    heads: int = 8
    feed_forward: int = 2048
    dropout: float = 0.1
    temporal_heads: int = 1
    temporal_inner: int = 256
    activation: str = "quick_gelu"


class Head(nn.Module):
    """Frames in their context, and what shared queries read out of frames and of words."""

    def __init__(self, sizes: HeadSizes) -> None:
        from transformers import CLIPTextConfig
        from transformers.models.clip.modeling_clip import CLIPEncoderLayer

        super().__init__()
        self.sizes = sizes
        width = sizes.width
        text_config: Any = CLIPTextConfig
        config = text_config(
            hidden_size=width,
            intermediate_size=sizes.temporal_inner,
            num_attention_heads=sizes.temporal_heads,
            hidden_act=sizes.activation,
            attn_implementation="sdpa",
        )
        self.places = nn.Embedding(sizes.positions, width)
        nn.init.normal_(self.places.weight, std=0.01)
        self.temporal = nn.ModuleList(CLIPEncoderLayer(config) for _ in range(sizes.temporal_layers))
        self.queries = nn.Parameter(torch.rand(sizes.queries, width))
        layer = nn.TransformerDecoderLayer(
            width, sizes.heads, sizes.feed_forward, sizes.dropout, "relu", batch_first=True
        )
        self.reader = nn.TransformerDecoder(layer, sizes.decoder_layers) if sizes.decoder_layers else None

    def start_from(self, text_model: Any) -> None:
        """Begin the layers over frames, and the positions, as the first ones of a CLIP text model of the same sizes."""
        table = text_model.embeddings.position_embedding.weight
        for own, given in zip(self.temporal, text_model.encoder.layers, strict=False):
            own.load_state_dict(given.state_dict())
        count = min(self.sizes.positions, len(table))
        with torch.no_grad():
            self.places.weight[:count] = table[:count].detach()

    def frames(self, frames: Tensor, mask: Tensor) -> Tensor:
        """[B, F, D] frames in the context of their clip: what the layers make of them, added to them.

        Args:
            frames: [B, F, D] pooled pictures; mask: [B, F] 1 on frames, 0 on padding.
        """
        if not self.temporal:
            return frames
        states = frames + self.places.weight[: frames.shape[1]]
        hidden = ((1 - mask) * HIDDEN)[:, None, None, :].expand(-1, 1, frames.shape[1], -1).to(frames)
        for layer in self.temporal:
            states = layer(states, hidden)
        return states + frames

    def concepts(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, Q, D] of unit length: what the queries read out of words or frames.

        Args:
            memory: [B, N, D].
            mask: [B, N] 1 where the memory counts; None: all of it.
        """
        assert self.reader is not None
        hidden = None if mask is None else mask < 0.5
        asked = self.queries.expand(len(memory), -1, -1)
        return nn.functional.normalize(self.reader(asked, memory, memory_key_padding_mask=hidden), dim=-1)


class Retriever(nn.Module):
    """An image-text model with a head.

    Args:
        encoder: any CLIP- or SigLIP-like model of Transformers.
        hides_padding: queries do not look at padded words and frames.
    """

    def __init__(self, encoder: ImageTextEncoder, head: Head, *, hides_padding: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.backbone = encoder.model
        self.head = head
        self.hides_padding = hides_padding

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Everything that the losses read: `pooled` [B, D], `frames` [B, F, D], `mask` [B, F], and with queries `texts` and `clips` [B, Q, D].

        Args:
            batch: `ids` and `words` [B, L], `pixels` [B, F, 3, H, W], `mask` [B, F].
        """
        pooled, texts = self.texts(batch["ids"], batch["words"])
        frames, clips = self.clips(batch["pixels"], batch["mask"])
        found = {"pooled": pooled, "frames": frames, "mask": batch["mask"]}
        return found if texts is None or clips is None else {**found, "texts": texts, "clips": clips}

    def texts(self, ids: Tensor, words: Tensor) -> tuple[Tensor, Tensor | None]:
        """([B, D], [B, Q, D] or None where nothing is read by queries) of texts.

        Args:
            ids: [B, L]; words: [B, L] 1 on tokens, 0 on padding. Text models hide or read padding as they have learnt to.
        """
        found = self.encoder.text(ids)
        if self.head.reader is None:
            return found.pooled.float(), None
        states = joint_tokens(self.encoder, found).float()
        return found.pooled.float(), self.head.concepts(states, words if self.hides_padding else None)

    def clips(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """([B, F, D], [B, Q, D] or None) of clips.

        Args:
            pixels: [B, F, 3, H, W]; mask: [B, F] 1 on frames, 0 on padding.
        """
        batch, count = mask.shape
        pooled = self.encoder.image(pixels.flatten(0, 1)).pooled.float()
        frames = self.head.frames(pooled.view(batch, count, -1), mask)
        if self.head.reader is None:
            return frames, None
        return frames, self.head.concepts(frames, mask if self.hides_padding else None)


def joint_tokens(encoder: ImageTextEncoder, found: Encoded) -> Tensor:
    """[B, L, D] states of the words in the joint space, by the projection of the pooled one.

    Raises:
        ModelError: the model has none, and its states have another width.
    """
    if hasattr(encoder.model, "text_projection"):
        return encoder.project_tokens(found, "text")
    head = getattr(encoder.model.text_model, "head", None)
    states = head(found.tokens) if head is not None else found.tokens
    if states.shape[-1] != encoder.width:
        raise ModelError(
            f"{encoder.name}: words have the width {states.shape[-1]}, expected {encoder.width}."
        )
    return states


def new_head(encoder: ImageTextEncoder, **sizes: Any) -> Head:
    """A head for an encoder; its layers over frames begin as those of the text model where that is CLIP's and as wide."""
    text_model, width = getattr(encoder.model, "text_model", None), encoder.width
    config: Any = getattr(text_model, "config", None)
    alike = getattr(config, "model_type", "") == "clip_text_model" and config.hidden_size == width
    own = (
        {
            "temporal_heads": config.num_attention_heads,
            "temporal_inner": config.intermediate_size,
            "activation": config.hidden_act,
        }
        if alike
        else {"temporal_heads": max(width // 64, 1), "temporal_inner": 4 * width}
    )
    head = Head(HeadSizes(width, **{**own, **sizes}))
    if alike:
        head.start_from(text_model)
    return head


def save_retriever(model: Retriever, folder: Path, **settings: Any) -> Path:
    """Write encoder, head and settings to a folder, whole or not at all. The encoder is a folder of Transformers."""
    from safetensors.torch import save_file

    with atomic_path(folder) as temporary, no_weight_bars():
        model.encoder.save(temporary)
        weights = {name: one.detach().cpu().contiguous() for name, one in model.head.state_dict().items()}
        save_file(weights, str(temporary / WEIGHTS), metadata={"format": "pt"})
        about = {**settings, "hides_padding": model.hides_padding, "sizes": asdict(model.head.sizes)}
        write_json(temporary / HEAD, about)
    return folder


def load_retriever(folder: Path, *, device: str = "auto") -> tuple[Retriever, dict[str, Any]]:
    """A retriever and its settings, from the folder that `save_retriever` wrote or from a run folder.

    Raises:
        ModelError: there is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = folder / "model" if (folder / "model" / HEAD).exists() else folder
    try:
        settings = json.loads((place / HEAD).read_text(encoding="utf-8"))
        head = Head(HeadSizes(**settings["sizes"]))
        head.load_state_dict(load_file(str(place / WEIGHTS)))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: no retriever that can be loaded ({str(error).splitlines()[0]}).",
            hint="A run folder of a training, or its folder `model`, is needed.",
        ) from error
    encoder = ImageTextEncoder.load(place, device=device)
    model = Retriever(encoder, head, hides_padding=settings["hides_padding"])
    return model.to(next(encoder.model.parameters()).device).eval(), settings
