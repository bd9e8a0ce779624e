"""ACT: the ranking loss on one prompt's responses, and the aggregation of verifier values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from coalign.judging.verifiers.constraints import aggregate_csr, cross_response_csr
from coalign.models.types import ResponseLogps
from coalign.training.losses.listwise import best_responses, ordered_pairs, ranking_hinge_loss
from coalign.training.losses.supervised import nll_loss
from tests.vectors.autograd import gradients_of, tensors


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    if "verifier_values" in inputs:
        return {"csr": aggregate_csr(inputs["verifier_values"])}
    if "pair_satisfied" in inputs:
        return {"csr": cross_response_csr(inputs["pair_satisfied"])}
    given = tensors(inputs, gradients=("token_logps",))
    csr, counted = given["csr"], given["mask"].bool()
    record_index = torch.zeros(len(csr), dtype=torch.long)
    scored = ResponseLogps(given["token_logps"][counted], counted.sum(dim=1), record_index)
    assert params["length_normalised"]
    scores = scored.means()
    rank_loss = ranking_hinge_loss(
        scores, csr, record_index, margin=params["margin"], reduction=params["pair_reduction"]
    ).squeeze(0)
    best = best_responses(csr, record_index)
    ft_loss = nll_loss(scored.sums()[best], scored.lengths[best], reduction="mean").squeeze(0)
    loss = rank_loss + params["ft_weight"] * ft_loss
    return {
        "seq_scores": scores,
        "rank_loss": rank_loss,
        "n_pairs": len(ordered_pairs(csr, record_index)[0]),
        "best_index": int(best),
        "ft_loss": ft_loss,
        "loss": loss,
        **gradients_of(loss, given, expected),
    }
