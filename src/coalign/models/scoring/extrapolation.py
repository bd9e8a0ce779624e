"""Log-probabilities under logits that go on from a reference past a model: a guess at a model trained further.

`h_g = (1 + strength) h - strength h_ref`, in the space of logits, token by token, and normalised afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from coalign.models.modules import evaluation
from coalign.models.scoring.engine import Path, in_passes, resolve_path, response_logits
from coalign.models.scoring.token_head import CHUNK_ELEMENTS, token_logps_from_logits, wide

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.models.types import ResponseLogps, Responses

BATCH_TOKENS = 1024
"""Tokens of a pass: the whole logits of both models are alive in it."""


def extrapolated_logits(logits: Tensor, reference_logits: Tensor, strength: float) -> Tensor:
    """`(1 + strength) h - strength h_ref`, elementwise, in float32 or float64 and not normalised.

    Args:
        logits, reference_logits: [..., V].
        strength: 0 gives the logits themselves.
    """
    return (1 + strength) * logits.to(wide(logits)) - strength * reference_logits.to(wide(logits))


def score_extrapolated(
    model: nn.Module,
    reference: Callable[[], AbstractContextManager[nn.Module]],
    responses: Responses,
    strength: float,
    *,
    batch_tokens: int = BATCH_TOKENS,
    path: Path = "auto",
) -> tuple[ResponseLogps, ResponseLogps]:
    """(extrapolated, reference) log-probabilities of every response token, as `score_responses` gives them.

    Both models are computed without gradient and without dropout; two passes of a batch are in memory at a time, with
    whole logits.

    Args:
        reference: the block in which the frozen model computes; it may be `model` with its adapter switched off.
        strength: how far past the model, 0 for the model itself.
    """
    way = resolve_path(model, path, responses)

    def both(part: Responses) -> Tensor:
        logits, rows, targets = response_logits(model, part, way)
        with reference() as frozen:
            reference_logits, *_ = response_logits(frozen, part, way)
        found = logits.new_empty(len(targets), 2, dtype=wide(logits))
        for start in range(0, len(targets), size := max(1, CHUNK_ELEMENTS // logits.shape[-1])):
            some = slice(start, start + size)
            compared = reference_logits[rows[some]]
            mixed = extrapolated_logits(logits[rows[some]], compared, strength)
            found[some, 0] = token_logps_from_logits(mixed, targets[some])
            found[some, 1] = token_logps_from_logits(compared, targets[some])
        return found

    with torch.no_grad(), evaluation(model):
        pair = in_passes(both, responses, batch_tokens)
    extrapolated, compared = (replace(pair, token_logps=pair.token_logps[:, one]) for one in (0, 1))
    return extrapolated, compared


__all__ = ["extrapolated_logits", "score_extrapolated"]
