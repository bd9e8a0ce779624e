"""ACT: the ranking loss on one prompt's responses, and the aggregation of verifier values."""

from __future__ import annotations

from typing import Any

import torch

from coalign.judging.verifiers.constraints import aggregate_csr, cross_response_csr
from coalign.models.types import ResponseLogps
from coalign.training.losses.listwise import best_responses, ordered_pairs, ranking_hinge_loss
from coalign.training.losses.supervised import nll_loss
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "verifier_values" in inputs:
        return {"csr": aggregate_csr(inputs["verifier_values"])}
    if "pair_satisfied" in inputs:
        return {"csr": cross_response_csr(inputs["pair_satisfied"])}
    csr, counted = inputs.tensor("csr"), inputs.tensor("mask").bool()
    record_index = torch.zeros(len(csr), dtype=torch.long)
    scored = ResponseLogps(inputs.tensor("token_logps")[counted], counted.sum(dim=1), record_index)
    assert params["length_normalised"]
    scores = scored.means()
    rank_loss = ranking_hinge_loss(
        scores, csr, record_index, margin=params["margin"], reduction=params["pair_reduction"]
    ).squeeze(0)
    best = best_responses(csr, record_index)
    ft_loss = nll_loss(scored.sums()[best], scored.lengths[best], reduction="mean").squeeze(0)
    return {
        "seq_scores": scores,
        "rank_loss": rank_loss,
        "n_pairs": len(ordered_pairs(csr, record_index)[0]),
        "best_index": int(best),
        "ft_loss": ft_loss,
        "loss": rank_loss + params["ft_weight"] * ft_loss,
    }
