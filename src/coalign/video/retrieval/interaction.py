"""Similarity of texts and clips: frames weighted by each text, and concepts that shared queries read out of both.

`global_similarity` and `local_similarity` are differentiable, for a training batch; `score` is the same for whole collections
without a gradient, in blocks and without a vector a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.core.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

BLOCK_TEXTS, BLOCK_CLIPS = 2048, 64
"""Pairs that are scored at once: about what a core's cache holds of their frames."""

HIDDEN = -1e30
"""In place of the logit of a padded frame."""


@dataclass(frozen=True)
class TextFeatures:
    """Texts as they are compared.

    Attributes:
        pooled: [A, D] not normalised.
        concepts: [A, Q, D] of unit length; None where only the pooled vectors are compared.
    """

    pooled: Tensor
    concepts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pooled)


@dataclass(frozen=True)
class ClipFeatures:
    """Clips as they are compared.

    Attributes:
        frames: [B, F, D] not normalised.
        mask: [B, F] 1 on frames, 0 on padding.
        concepts: [B, Q, D] of unit length; None where only frames are compared.
    """

    frames: Tensor
    mask: Tensor
    concepts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.frames)


def global_similarity(pooled: Tensor, frames: Tensor, mask: Tensor, temperature: float = 3.0) -> Tensor:
    """[A, B] cosine of every text with every clip, whose frames are weighted by what the text says of them:
    `u = softmax_f(e_a . F_bf / temperature)`, `v = sum_f u_f F_bf`, `cos(e_a, v)`.

    The softmax is over the clip's own frames. The official code takes it over padded ones too and multiplies by the mask, which
    shortens v and leaves the cosine as it is, until v vanishes in rounding. Source: paper, section III-B.

    Args:
        pooled: [A, D] and frames: [B, F, D], neither normalised.
        mask: [B, F] 1 on frames, 0 on padding.
    """
    logits = torch.einsum("ad,bfd->abf", pooled, frames) / temperature
    weights = logits.masked_fill(mask < 0.5, HIDDEN).softmax(-1)
    clips = torch.einsum("abf,bfd->abd", weights, frames)
    return torch.einsum(
        "ad,abd->ab",
        torch.nn.functional.normalize(pooled, dim=-1),
        torch.nn.functional.normalize(clips, dim=-1),
    )


def local_similarity(texts: Tensor, clips: Tensor) -> Tensor:
    """[A, B] mean over the Q queries of the cosine of what each reads in a text and in a clip.

    Args:
        texts: [A, Q, D] and clips: [B, Q, D] of unit length.
    """
    return texts.flatten(1) @ clips.flatten(1).T / texts.shape[1]


def score(
    texts: TextFeatures,
    clips: ClipFeatures,
    *,
    temperature: float = 3.0,
    local_weight: float = 0.5,
) -> Tensor:
    """[A, B] `global + local_weight * local` similarity of whole collections, float32, without gradient.

    The weighted clip vector v of a pair is never made: `e . v` is the weighted sum of the products that the weights come from,
    and `|v|^2 = u^T G u` with G the [F, F] inner products of the clip's frames. Memory beside features and result: one block.
    """
    found = torch.empty(len(texts), len(clips))
    with progress(len(clips), "Scoring", "clip") as bar:
        for columns, block in score_blocks(texts, clips, temperature=temperature, local_weight=local_weight):
            found[:, columns] = block
            bar.advance(columns.stop - columns.start)
    return found


def score_blocks(
    texts: TextFeatures, clips: ClipFeatures, *, temperature: float = 3.0, local_weight: float = 0.5
) -> Iterator[tuple[slice, Tensor]]:
    """The columns of `score` block by block: places of the clips and [A, b] scores."""
    with torch.inference_mode():
        pooled = texts.pooled.float()
        units = torch.nn.functional.normalize(pooled, dim=-1).T.contiguous()  # [D, A]
        lengths = pooled.norm(dim=-1).clamp(min=1e-12)
        local = local_weight and texts.concepts is not None and clips.concepts is not None
        for start in range(0, len(clips), BLOCK_CLIPS):
            columns = slice(start, min(start + BLOCK_CLIPS, len(clips)))
            frames, mask = clips.frames[columns].float(), clips.mask[columns].float()
            count, per_clip, width = frames.shape
            padded = bool((mask < 0.5).any())
            gram = frames @ frames.transpose(1, 2)
            block = torch.empty(len(texts), count)
            for first in range(0, len(texts), BLOCK_TEXTS):
                rows = slice(first, min(first + BLOCK_TEXTS, len(texts)))
                # texts innermost: the softmax over few frames then runs over long rows
                cosines = (frames.reshape(-1, width) @ units[:, rows]).view(count, per_clip, -1)
                logits = cosines * (lengths[rows] / temperature)
                if padded:
                    logits.masked_fill_(mask[..., None] < 0.5, HIDDEN)
                weights = logits.softmax(1)
                above = (weights * cosines).sum(1)
                below = (weights * torch.bmm(gram, weights)).sum(1).clamp(min=1e-24).sqrt()
                block[rows] = (above / below).T
            if local:
                assert texts.concepts is not None
                assert clips.concepts is not None
                block += local_weight * local_similarity(
                    texts.concepts.float(), clips.concepts[columns].float()
                )
            yield columns, block
