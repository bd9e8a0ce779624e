"""Rewards of image-text pairs: a head on the features of two towers, or on the state of an encoder that reads both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import BlipForImageTextRetrieval

FUSION_WIDTHS = (1024, 128, 64, 16)
EMBEDDING_WIDTHS = (128, 64)


class RewardModel(nn.Module):
    """A reward that is known up to a constant and a unit, and is standardised after its training.

    Attributes:
        center, unit: mean and standard deviation of the rewards of the training captions.
    """

    center: Tensor
    unit: Tensor

    def __init__(self, inputs: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size, width in zip([inputs, *widths[:-1]], widths, strict=True):
            layers += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)]
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))

    def standardise(self, rewards: Tensor) -> None:
        """From now on rewards are `(r - mean) / deviation` of these, which were given before."""
        spread = rewards.float().std() if len(rewards) > 1 else torch.ones(())
        self.center.copy_(self.center + self.unit * rewards.float().mean())
        self.unit.copy_(self.unit * spread.clamp(min=1e-6))

    def finished(self, states: Tensor) -> Tensor:
        """[B, D] states to [B] standardised rewards, in float32."""
        return (self.head(states.float()).squeeze(-1) - self.center) / self.unit


class EmbeddingReward(RewardModel):
    """A reward on what a frozen dual encoder says of picture and text: `[z * w, cos, z, w, log(1 + words)] -> MLP -> 1`.

    The cosine is among the inputs: without it a few hundred rankings are not enough to learn what it says.

    Args:
        width: D of the pooled features.
    """

    def __init__(self, width: int, widths: Sequence[int] = EMBEDDING_WIDTHS, dropout: float = 0.2) -> None:
        super().__init__(3 * width + 2, widths, dropout)

    def forward(self, images: Tensor, texts: Tensor, words: Tensor) -> Tensor:
        """[B] rewards.

        Args:
            images, texts: [B, D] pooled features, normalised here.
            words: [B] words of the captions.
        """
        z, w = (nn.functional.normalize(one.float(), dim=-1) for one in (images, texts))
        product = z * w
        cosine = product.sum(-1, keepdim=True)
        length = torch.log1p(words.to(z.dtype))[:, None]
        return self.finished(torch.cat([product, cosine, z, w, length], dim=-1))


class FusionReward(RewardModel):
    """A reward on the first state of BLIP's text encoder, which attends to the picture.

    Args:
        backbone: of any size; its ITM head stays as it is.
        frozen: share of the layers of each tower, from the first, that stay as they are.
    """

    def __init__(
        self,
        backbone: BlipForImageTextRetrieval,
        widths: Sequence[int] = FUSION_WIDTHS,
        dropout: float = 0.2,
        frozen: float = 0.7,
    ) -> None:
        text: Any = backbone.config.text_config
        super().__init__(text.hidden_size, widths, dropout)
        self.backbone = backbone
        freeze_first_layers(backbone, frozen)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor, image_index: Tensor) -> Tensor:
        """[B] rewards.

        Args:
            pixels: [N, 3, H, W], each picture once.
            ids, mask: [B, L] tokens of the captions.
            image_index: [B] the picture of each caption.
        """
        return self.finished(fused_states(self.backbone, pixels, ids, mask, image_index))


def fused_states(backbone: Any, pixels: Tensor, ids: Tensor, mask: Tensor, image_index: Tensor) -> Tensor:
    """[B, H] the first state of the text encoder that attends to the picture (the one that BLIP's ITM head reads)."""
    images = backbone.vision_model(pixel_values=pixels).last_hidden_state[image_index]
    seen = torch.ones(images.shape[:-1], dtype=torch.long, device=images.device)
    states = backbone.text_encoder(
        input_ids=ids, attention_mask=mask, encoder_hidden_states=images, encoder_attention_mask=seen
    )
    return states[0][:, 0]


def freeze_first_layers(backbone: Any, share: float) -> None:
    """Let the embeddings and the first `share` of the layers of both towers stay as they are, and what the reward does not
    use. Nothing is frozen with 0.
    """
    for name in ("vision_proj", "text_proj", "itm_head"):
        backbone.get_submodule(name).requires_grad_(False)
    if not share:
        return
    vision, text = backbone.vision_model, backbone.text_encoder
    vision.embeddings.requires_grad_(False)
    text.embeddings.requires_grad_(False)
    for layers in (vision.encoder.layers, text.encoder.layer):
        for layer in layers[: round(share * len(layers))]:
            layer.requires_grad_(False)
