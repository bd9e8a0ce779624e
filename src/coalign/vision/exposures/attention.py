"""Hard attention by cosine between patches of two feature maps: for every place of one the best place of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import fold, normalize, unfold

if TYPE_CHECKING:
    from torch import Tensor

PATCH = 3


class Attended(NamedTuple):
    """What was found at every place of the query, P = H W places in rows.

    Attributes:
        values: [B, V, H, W] patches of the value at the places that were found, laid over each other and averaged.
        confidence: [B, 1, H, W] the largest cosine, through which alone gradients reach query, key and projection.
        places: [B, P] the place in the key; of equal cosines the first.
    """

    values: Tensor
    confidence: Tensor
    places: Tensor


def patch_cosines(query: Tensor, key: Tensor, projection: Tensor) -> Tensor:
    """[B, P key, P query] cosines between projected 3 x 3 patches (zeros beyond the border).

    Args:
        query, key: [B, C, H, W].
        projection: [E, 9 C], over patches with the channel as the slower index.
    """
    found = [normalize(projection @ unfold(one, PATCH, padding=1), dim=1) for one in (query, key)]
    return found[1].transpose(1, 2) @ found[0]


def luminance_attention(query: Tensor, key: Tensor, value: Tensor, projection: Tensor) -> Attended:
    """For every place of the query the value at the most similar place of the key (paper, section 3.2).

    Args:
        query, key: [B, C, H, W] features of the reference at the neighbour's exposure, and of the neighbour.
        value: [B, V, H, W] features of the neighbour that are moved.
        projection: as of `patch_cosines`.
    """
    height, width = query.shape[-2:]
    confidence, index = patch_cosines(query, key, projection).max(1)
    return Attended(moved_patches(value, index), confidence.reshape(len(query), 1, height, width), index)


def moved_patches(value: Tensor, index: Tensor) -> Tensor:
    """[B, V, H, W]: the 3 x 3 patches of `value` around the places `index` [B, P], laid at the places 0 to P - 1 and
    averaged where they overlap. Gradients reach `value`.
    """
    size = value.shape[-2:]
    patches = unfold(value, PATCH, padding=1)
    taken = patches.gather(2, index[:, None].expand(-1, patches.shape[1], -1))
    count = fold(torch.ones_like(taken[:1, : PATCH**2]), size, PATCH, padding=1)
    return fold(taken, size, PATCH, padding=1) / count
