"""Weights as a difference of low rank to those of another model: a fine-tuned model of 90 MB in one or two."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

UP, DOWN, PLUS = ".up", ".down", ".plus"
"""Endings of a matrix's two factors, and of what is added whole."""


def low_rank_difference(
    weights: Mapping[str, Tensor], base: Mapping[str, Tensor], rank: int
) -> dict[str, Tensor]:
    """What turns `base` into `weights`, nearly: of each matrix the best difference of `rank` (by its singular values), of
    all else, and of what the base has not, the whole difference. In half precision; what did not change is left out.

    Raises:
        ValueError: a weight of the base is missing or has another shape.
    """
    found: dict[str, Tensor] = {}
    for name, old in base.items():
        if name not in weights or weights[name].shape != old.shape:
            raise ValueError(f"{name}: not in both models with one shape")
    for name, new in weights.items():
        change = (new.float() - base[name].float()) if name in base else new.float()
        if not change.any():
            continue
        if change.dim() == 2 and min(change.shape) > rank and name in base:
            u, values, v = torch.linalg.svd(change, full_matrices=False)
            roots = values[:rank].sqrt()
            found[name + UP] = (u[:, :rank] * roots).half().contiguous()
            found[name + DOWN] = (roots[:, None] * v[:rank]).half().contiguous()
        else:
            found[name + PLUS] = change.half().contiguous()
    return found


def with_difference(base: Mapping[str, Tensor], difference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that `low_rank_difference` was made of, as float32.

    Raises:
        KeyError: half of a pair of factors is missing.
        RuntimeError: shapes that do not fit those of the base.
    """
    weights = {name: value.float() for name, value in base.items()}
    for name, value in difference.items():
        if name.endswith(PLUS):
            target = name.removesuffix(PLUS)
            weights[target] = weights[target] + value.float() if target in weights else value.float()
        elif name.endswith(UP):
            target = name.removesuffix(UP)
            weights[target] = weights[target] + value.float() @ difference[target + DOWN].float()
    return weights
