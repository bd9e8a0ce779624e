"""Scorers of every place: query tokens and the words of a prompt read the picture together, and each says how well it is
shown. Two bodies have the same three methods: BLIP-2's Q-Former, and joint layers over any dual encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from coalign.vision.fine_grained.losses import match_probabilities, overall_scores

if TYPE_CHECKING:
    from transformers import Blip2ForImageTextRetrieval

MASK_WIDTHS = (256, 128, 64, 16)


class Body(Protocol):
    """What the heads stand on.

    Attributes:
        width: of the states.
        queries: Q query tokens.
    """

    width: int
    queries: int

    def seen(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] pixels to [B, N, Dv] image tokens."""
        ...

    def joint(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, Q + L, D] states of the query tokens and of the text, each of which sees all others and the image.

        Args:
            images: [B, N, Dv] of `seen`.
            ids, mask: [B, L] tokens and 1 where they are no padding.
        """
        ...

    def text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, L, D] states of the text alone."""
        ...


@dataclass(frozen=True)
class Scored:
    """What a model says of a batch.

    Attributes:
        logits: [B, Q + L, 2] does not match, matches.
        marks: [B, L] probability that a token is of an element.
        queries: Q.
    """

    logits: Tensor
    marks: Tensor
    queries: int

    @property
    def overall(self) -> Tensor:
        """[B] from 1 to 5."""
        return overall_scores(match_probabilities(self.logits), self.queries)

    @property
    def tokens(self) -> Tensor:
        """[B, L] how well each token is shown, 0 to 1."""
        return match_probabilities(self.logits)[:, self.queries :]


class FineGrainedScorer(nn.Module):
    """A match head on every place of the joint states, and a mask head on the states of the text alone.

    Args:
        body: an `nn.Module` with the methods of `Body`.
        match: `Linear(width -> 2)`; BLIP-2's own ITM head, or a new one.
    """

    def __init__(
        self, body: Any, match: nn.Linear | None = None, widths: Sequence[int] = MASK_WIDTHS
    ) -> None:
        super().__init__()
        self.body = body
        self.match = match if match is not None else nn.Linear(body.width, 2)
        layers: list[nn.Module] = []
        for size, width in zip([body.width, *widths[:-1]], widths, strict=True):
            layers += [nn.Linear(size, width), nn.ReLU()]
        self.mark = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        for layer in self.mark:
            if isinstance(layer, nn.Linear):  # source: official code
                nn.init.normal_(layer.weight, std=1 / (body.width + 1))
                nn.init.zeros_(layer.bias)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Scored:
        """Of [B, 3, H, W] pixels and [B, L] tokens with their mask."""
        return self.of_seen(self.body.seen(pixels), ids, mask)

    def of_seen(self, images: Tensor, ids: Tensor, mask: Tensor) -> Scored:
        """As `forward`, of image tokens [B, N, Dv]."""
        logits = self.match(self.body.joint(images, ids, mask).to(self.match.weight.dtype))
        marks = self.mark(self.body.text(ids, mask).to(logits.dtype)).squeeze(-1).sigmoid()
        return Scored(logits, marks, self.body.queries)


class QFormerBody(nn.Module):
    """BLIP-2's Q-Former under a frozen vision tower, whose last norm learns (official training configuration)."""

    def __init__(self, model: Blip2ForImageTextRetrieval) -> None:
        super().__init__()
        self.model = model
        former: Any = model.config.qformer_config
        self.width: int = former.hidden_size
        self.queries = model.query_tokens.shape[1]

    def freeze(self) -> None:
        """Let everything stay but the Q-Former, its embeddings, the query tokens and the vision tower's last norm."""
        self.requires_grad_(False)
        for part in (self.model.qformer, self.model.embeddings, self.model.vision_model.post_layernorm):
            part.requires_grad_(True)
        self.model.query_tokens.requires_grad_(True)

    def seen(self, pixels: Tensor) -> Tensor:
        return self.model.vision_model(pixel_values=pixels).last_hidden_state

    def joint(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        queries = self.model.query_tokens.expand(len(ids), -1, -1)
        places = torch.cat([mask.new_ones(queries.shape[:-1]), mask], dim=1)
        return self.model.qformer(
            self.model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=self.queries,
            attention_mask=places,
            encoder_hidden_states=images,
            encoder_attention_mask=mask.new_ones(images.shape[:-1]),
        ).last_hidden_state

    def text(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.model.embeddings(input_ids=ids)
        return self.model.qformer(states, query_length=0, attention_mask=mask).last_hidden_state


class JointLayers(nn.Module):
    """Layers of their own over the tokens of a dual encoder: [queries ; text] attend to each other and to the image.

    Args:
        encoder: with `image(pixels).tokens` [B, N, Dv] and `text(ids, mask=...).tokens` [B, L, Dt]; frozen, and saved by
            name alone.
        image_width, text_width: Dv and Dt.
        width, heads, layers, queries: of the joint layers.
    """

    def __init__(
        self,
        encoder: Any,
        image_width: int,
        text_width: int,
        *,
        width: int = 256,
        heads: int = 4,
        layers: int = 2,
        queries: int = 8,
    ) -> None:
        super().__init__()
        self._encoder = [encoder]  # not a part: its weights are its own
        self.width, self.queries = width, queries
        self.sizes = {"width": width, "heads": heads, "layers": layers, "queries": queries}
        self.query_tokens = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        self.of_image, self.of_text = (
            nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width)) for size in (image_width, text_width)
        )
        layer = nn.TransformerDecoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))

    def freeze(self) -> None:
        """Nothing more than is frozen already."""

    @property
    def encoder(self) -> Any:
        return self._encoder[0]

    def seen(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return self.encoder.image(pixels).tokens

    def joint(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        queries = self.query_tokens.expand(len(ids), -1, -1)
        states = torch.cat([queries, self.of_text(self.text_tokens(ids, mask))], dim=1)
        hidden = torch.cat([mask.new_ones(queries.shape[:-1]), mask], dim=1) == 0
        return self.layers(states, self.of_image(images), tgt_key_padding_mask=hidden)

    def text(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.of_text(self.text_tokens(ids, mask))

    def text_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, L, Dt] what the frozen text tower says of each token."""
        with torch.no_grad():
            return self.encoder.text(ids, mask=mask).tokens
