"""SCIR: two internal rewards of a pair, the penalty on their disagreement, the selection and the whole loss."""

from __future__ import annotations

from typing import Any

import torch

from coalign.models.types import ResponseLogps
from coalign.selfalign.own_judge.opinions import disagreement, judged_probabilities, mean_entropy, select
from coalign.selfalign.scir import Constants, internal_consistency
from coalign.training.objective import ScoredBatch
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    """A batch as training sees it: a pair's two responses, then the letters in both orders. The tokens of a response
    carry its sum in equal parts; logits of letters stand for their log-probabilities.
    """
    lengths = torch.stack(inputs.tensors("length_a", "length_b"), dim=1).long()
    n = len(lengths)
    sums = [
        torch.stack(inputs.tensors(f"{name}_logps_a", f"{name}_logps_b"), dim=1) for name in ("policy", "ref")
    ]
    letters = torch.cat(inputs.tensors("judge_logits_ab", "judge_logits_swapped"), dim=1)
    counts = torch.cat([lengths, torch.ones(n, 4, dtype=torch.long)], dim=1).flatten()
    rows = torch.arange(n).repeat_interleave(6)
    policy, reference = (
        ResponseLogps(
            (torch.cat([one, judged], dim=1).flatten() / counts).repeat_interleave(counts), counts, rows
        )
        for one, judged in zip(sums, (letters, torch.zeros_like(letters)), strict=True)
    )
    batch = ScoredBatch(policy, reference, rows, torch.full((6 * n,), float("nan")))
    constants = Constants(
        beta=params["beta"],
        length_penalty=params["length_penalty"],
        entropy_weight=params["entropy_weight"],
        min_confidence=params["keep_confidence"],
    )
    probabilities, margins = judged_probabilities(batch, constants)
    apart, entropy = disagreement(probabilities), mean_entropy(probabilities)
    keep, first = select(probabilities, confidence=params["keep_confidence"])
    total = internal_consistency(batch, constants).losses.mean()
    signed = torch.where(first, margins, -margins)[keep]
    return {
        "p_implicit": probabilities[0],
        "p_generative": probabilities[1],
        "consistency": apart,
        "entropy": entropy,
        "penalty": (apart + params["entropy_weight"] * entropy).mean(),
        "keep": keep.tolist(),
        "label_a_wins": first.tolist(),
        "dpo_loss_kept_mean": -torch.nn.functional.logsigmoid(signed).sum() / max(1, len(signed)),
        "total": total,
        "loss": total,
    }
