"""Losses of two towers: pairs against each other, masked words, ranking by identity."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100


def masked_word_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropy over masked tokens, and how many there are.

    Args:
        logits: [B, L, V].
        labels: [B, L], -100 where nothing is masked.
    """
    total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, (labels != IGNORED).sum()


def ranking_hinge(positive: Tensor, negative_text: Tensor, negative_image: Tensor, margin: float) -> Tensor:
    """[B] `max(0, margin - s(v,t+) + s(v,t-)) + max(0, margin - s(t,v+) + s(t,v-))` of similarities [B]."""
    return torch.relu(margin - positive + negative_text) + torch.relu(margin - positive + negative_image)


def ranking_losses(similarity: Tensor, identities: Tensor, margin: float) -> Tensor:
    """[B] the hinge of each pair against its hardest negatives of another identity in the batch; 0 where there is none.

    Args:
        similarity: [B, B] of pictures (rows) and texts (columns); row i and column i are a pair.
        identities: [B].
    """
    other = identities[:, None] != identities[None, :]
    hard = similarity.masked_fill(~other, float("-inf"))
    losses = ranking_hinge(similarity.diagonal(), hard.amax(1), hard.amax(0), margin)
    return torch.where(other.any(1), losses, similarity.new_zeros(()))


def mask_words(
    ids: Sequence[int],
    words: Sequence[int | None],
    draw: random.Random,
    *,
    share: float,
    mask: int,
    vocabulary: int,
) -> tuple[list[int], list[int]]:
    """Token ids with whole words masked, and labels that are -100 elsewhere.

    Each word is masked with the chance `share`, all of its tokens alike: 80 % become the mask token, 10 % random tokens, 10 %
    stay. Of a text with words at least one is.

    Args:
        words: number of the word that each token belongs to; None for special tokens.
    """
    numbers = sorted({one for one in words if one is not None})
    chosen = {one for one in numbers if draw.random() < share}
    if numbers and not chosen:
        chosen = {numbers[draw.randrange(len(numbers))]}
    kinds = {one: draw.random() for one in sorted(chosen)}
    masked, labels = list(ids), [IGNORED] * len(ids)
    for place, word in enumerate(words):
        if word in chosen:
            labels[place] = ids[place]
            kind = kinds[word]
            if kind < 0.9:
                masked[place] = mask if kind < 0.8 else draw.randrange(vocabulary)
    return masked, labels
