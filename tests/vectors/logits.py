"""Log-probabilities of labelled tokens from dense logits, as the scoring engine would return them."""

from __future__ import annotations

import torch
from torch import Tensor

from coalign.models.types import ResponseLogps

IGNORED = -100


def response_logps(logits: Tensor, labels: Tensor) -> ResponseLogps:
    """Of [R, T, V] logits and [R, T] labels (-100 outside the response), shifted by one inside."""
    targets, predictions = labels[:, 1:], logits[:, :-1].log_softmax(-1)
    counted = targets != IGNORED
    picked = predictions.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return ResponseLogps(picked[counted], counted.sum(1), torch.arange(len(labels)))
