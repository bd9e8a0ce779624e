"""CycleAlign: the loss on one prompt's ranked responses, and the order on which two rankings agree."""

from __future__ import annotations

from typing import Any

import torch

from coalign.judging.ranking_cycles import agreed_order
from coalign.models.types import ResponseLogps
from coalign.training.losses.listwise import best_responses, ordered_pairs
from coalign.training.losses.ranking_distillation import Constants, ranking_distillation
from coalign.training.objective import ScoredBatch
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "white_box_order" in inputs:
        agreed = agreed_order(inputs["white_box_order"], inputs["black_box_order"])
        return {"agreement": agreed, "lcs_length": len(agreed)}
    assert params["length_normalised"]
    assert params["pair_reduction"] == "sum"
    values, counted = inputs.tensor("rank_score"), inputs.tensor("mask").bool()
    record_index = torch.zeros(len(values), dtype=torch.long)
    policy = ResponseLogps(inputs.tensor("token_logps")[counted], counted.sum(dim=1), record_index)
    constants = Constants(margin=params["margin"], ft_weight=params["ft_weight"])
    found = ranking_distillation(ScoredBatch(policy, None, record_index, values), constants)
    return {
        "seq_scores": policy.means(),
        "rank_loss": found.metrics["losses/ranking"].squeeze(0),
        "n_pairs": len(ordered_pairs(values, record_index)[0]),
        "best_index": int(best_responses(values, record_index)),
        "ft_loss": found.metrics["nll/token"].squeeze(0),
        "loss": found.losses.squeeze(0),
    }
