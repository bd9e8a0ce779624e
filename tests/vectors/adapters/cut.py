"""CUT: both terms as means over the batch's tokens, flags by response token, gradients by both halves' logits.

The code takes one unlikelihood weight for all records, that of the first judged one; -1 marks a record without judgment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from coalign.models.types import ResponseLogps
from coalign.preference.cut import contrast_token_loss, cut_loss, inappropriate_tokens
from tests.vectors.autograd import gradients_of, tensors
from tests.vectors.logits import response_logps

LOGITS = ("logits_with_judgment", "logits_without_judgment")


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    given = tensors(inputs, *LOGITS, gradients=LOGITS)
    judged = torch.tensor([weight != -1 for weight in inputs["weight_unlike"]])
    with_judgment = response_logps(given[LOGITS[0]], torch.tensor(inputs["labels"]))
    likelihood = -with_judgment.token_logps.mean()
    contrast, flags = torch.zeros(()), torch.zeros(0)
    if judged.any():
        plain = response_logps(given[LOGITS[1]], torch.tensor(inputs["labels_without_judgment"]))
        plain_logps, judged_logps = _tokens(plain, judged), _tokens(with_judgment, judged)
        flags = inappropriate_tokens(judged_logps, plain_logps, threshold=params["threshold"])
        weight = next(one for one in inputs["weight_unlike"] if one != -1)
        contrast = contrast_token_loss(plain_logps, flags, unlikelihood_weight=weight).mean()
    lengths = torch.where(judged, with_judgment.lengths, 0)
    loss = cut_loss(contrast, likelihood, judged.any())
    return {
        "loss": loss,
        "mle_loss": likelihood,
        "contrast_loss": contrast,
        "inappropriate_flags": [one.int().tolist() for one in torch.split(flags, lengths.tolist())],
        **gradients_of(loss, given, expected),
    }


def _tokens(logps: ResponseLogps, records: torch.Tensor) -> torch.Tensor:
    return logps.token_logps[records[logps.segment_ids]]
