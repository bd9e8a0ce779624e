"""Losses over batches of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from torch import Tensor


def similarity(image: Tensor, text: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """[B, K] cosine similarity of every image with every text, times `scale`.

    Args:
        image: [B, D] features of any length.
        text: [K, D] features of any length.
    """
    return scale * normalize(image, dim=-1) @ normalize(text, dim=-1).T


def contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor | float, positives: Tensor | None = None
) -> Tensor:
    """The symmetric contrastive loss (Radford et al. 2021, InfoNCE both ways), one loss a pair.

    With logits s = scale cos(image_i, text_j), the loss of pair i is half the cross-entropy of image i over the texts plus
    half that of text i over the images. Where a row has several positives, its target is uniform over them:
    -mean over positives p of log softmax(s_i)_p, so that no positive is a negative of another.

    Args:
        image, text: [B, D] features of any length; row i of both is a pair.
        scale: of the logits, 1 / temperature.
        positives: [B, B] True where image i and text j belong together, the diagonal included; None: the diagonal.

    Returns:
        [B] losses.

    Raises:
        ValueError: different numbers of images and texts, or a row or column without a positive.
    """
    if image.shape != text.shape:
        raise ValueError(f"images {tuple(image.shape)} and texts {tuple(text.shape)}, expected equal shapes")
    logits = similarity(image, text, scale)
    if positives is None:
        return -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()) / 2
    target = positives.to(logits.dtype)
    counts = target.sum(1), target.sum(0)
    if any(bool((one == 0).any()) for one in counts):
        raise ValueError("an image or a text of the batch has no positive, expected at least one each")
    by_image = (logits.log_softmax(1) * target).sum(1) / counts[0]
    by_text = (logits.log_softmax(0) * target).sum(0) / counts[1]
    return -(by_image + by_text) / 2


def pairwise_sigmoid_loss(
    image: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float, positives: Tensor | None = None
) -> Tensor:
    """The sigmoid loss (Zhai et al. 2023, SigLIP): each pair of an image and a text is a decision of its own.

    Args:
        image, text, scale, positives: as of `contrastive_loss`.
        bias: added to the logits.

    Returns:
        [B] losses, of image i the sum over the texts.
    """
    logits = similarity(image, text, scale) + bias
    same = positives if positives is not None else torch.eye(len(logits), device=logits.device).bool()
    return torch.nn.functional.softplus(torch.where(same, -logits, logits)).sum(1)
