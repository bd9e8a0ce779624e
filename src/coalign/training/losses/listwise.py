"""Objectives on rankings of any length: a hinge on every ordered pair, alone and as RRHF, and the steps of PRO.

Pure functions on the responses of R records laid end to end: `scores`, `values`, `record_index` are [B], record_index
non-decreasing in 0..R-1. `values` order the responses of a record (higher is better); equal values, and NaN, make no
pair. Values are constants; gradients flow through the log-probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from coalign.core.options import NonNegative, option
from coalign.training.losses.numerics import mean_logps
from coalign.training.losses.supervised import Reduction, nll_loss
from coalign.training.objective import Losses, ScoredBatch, objective

if TYPE_CHECKING:
    from torch import Tensor

Temperature = Literal["reward", "none"]
"""Gaps in reward as inverse temperatures, or none: the order alone counts."""


def ordered_pairs(values: Tensor, record_index: Tensor) -> tuple[Tensor, Tensor]:
    """([P], [P]) rows of the better and of the worse response of every pair of one record with different values."""
    same = record_index[:, None] == record_index[None, :]
    better, worse = (same & (values[:, None] > values[None, :])).nonzero(as_tuple=True)
    return better, worse


def best_responses(values: Tensor, record_index: Tensor) -> Tensor:
    """[R] the row of the highest value of each record, the first one on ties; NaN counts as lowest."""
    if len(values) == 0:
        return record_index
    size = int(record_index[-1]) + 1
    values = values.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    highest = values.new_full((size,), -torch.inf).scatter_reduce(0, record_index, values, "amax")
    rows = torch.arange(len(values), device=values.device)
    candidates = torch.where(values == highest[record_index], rows, len(values))
    return rows.new_full((size,), len(values)).scatter_reduce(0, record_index, candidates, "amin")


def ranking_hinge_loss(
    scores: Tensor,
    values: Tensor,
    record_index: Tensor,
    *,
    margin: float = 0.0,
    margin_of: Literal["gap", "pair"] = "gap",
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """[R] `sum over pairs with v_i > v_j of max(0, s_j - s_i + margin (v_i - v_j))`; 0 for a record without pairs.

    With margin 0 the ranking term of RRHF (Yuan et al. 2023, arXiv 2304.05302, equation 2); with a margin that grows
    with the gap in value the constraint-ranking loss of ACT (arXiv 2403.06326).

    Args:
        scores: [B] length-normalised log-probabilities.
        values, record_index: [B], see the module.
        margin: nats per token for a value gap of 1, or for every pair alike.
        margin_of: a unit of the gap in value, or a pair, however wide its gap: then values order and no more.
        reduction: over the pairs of a record.
    """
    losses = scores.new_zeros(int(record_index[-1]) + 1 if len(record_index) else 0)
    better, worse = ordered_pairs(values, record_index)
    gaps = (values[better] - values[worse]).to(scores.dtype)
    margins = margin * (gaps if margin_of == "gap" else torch.ones_like(gaps))
    hinges = torch.nn.functional.relu(scores[worse] - scores[better] + margins)
    losses = losses.index_add(0, record_index[better], hinges)
    if reduction == "mean":
        losses = losses / torch.bincount(record_index[better], minlength=len(losses)).clamp(min=1)
    return losses


def ranking_accuracies(scores: Tensor, values: Tensor, record_index: Tensor) -> Tensor:
    """[R] share of the ordered pairs of each record that the scores order alike; NaN for a record without pairs."""
    size = int(record_index[-1]) + 1 if len(record_index) else 0
    better, worse = ordered_pairs(values, record_index)
    hits = (scores[better] > scores[worse]).to(scores.dtype)
    counts = torch.bincount(record_index[better], minlength=size)
    return hits.new_zeros(size).index_add(0, record_index[better], hits) / counts


def pair_accuracy(scores: Tensor, values: Tensor, record_index: Tensor) -> float:
    """Share of all ordered pairs of all records that the scores order alike, equal scores counting half; NaN without any."""
    better, worse = ordered_pairs(values, record_index)
    gaps = scores[better] - scores[worse]
    return float(((gaps > 0).double() + 0.5 * (gaps == 0)).mean())


def ranking_metrics(batch: ScoredBatch, scores: Tensor) -> dict[str, Tensor]:
    """Accuracy over ordered pairs, and score and log-probability of the best and of the last-ranked response.

    Args:
        scores: [B] what the objective ranks by.
    """
    scores, logps = scores.detach(), batch.policy.sums().detach()
    best = best_responses(batch.values, batch.record_index)
    worst = best_responses(-batch.values, batch.record_index)
    return {
        "rewards/chosen": scores[best],
        "rewards/rejected": scores[worst],
        "rewards/margins": scores[best] - scores[worst],
        "rewards/accuracies": ranking_accuracies(scores, batch.values, batch.record_index),
        "logps/chosen": logps[best],
        "logps/rejected": logps[worst],
    }


def pro_rank_losses(
    scores: Tensor, rewards: Tensor, *, temperature: Temperature = "reward", eps: float = 1e-10
) -> Tensor:
    """`loss_k = log( eps + exp(s_k m_k) + sum_{i>k} exp(s_i d_ki) ) - s_k m_k` for every step k of a ranking:
    PRO (Song et al. 2023, arXiv 2306.17492), equation 7.

    `d_ki = R_k - R_i` is the inverse temperature of a negative, `m_k` the largest of them that of the positive.
    With temperature `none`, d and m are 1, and responses tied with k are left out; a step without a lower reward
    is 0.

    Args:
        scores: [G, n] length-averaged log-probabilities, best response first.
        rewards: [G, n] non-increasing; constants. Equal ones give temperature 0: a constant loss without gradient.
        temperature: how rewards act.
        eps: 1e-10 in the official code, 0 in the paper.

    Returns:
        [G, n - 1] losses, not reduced.
    """
    steps = []
    for k in range(scores.shape[-1] - 1):
        gaps = (rewards[:, k, None] - rewards[:, k + 1 :]).to(scores.dtype)
        if temperature == "reward":
            positive = scores[:, k] * gaps.amax(dim=-1)
            negatives = scores[:, k + 1 :] * gaps
        else:
            positive = scores[:, k]
            negatives = scores[:, k + 1 :].masked_fill(gaps <= 0, -torch.inf)
        terms = [positive[:, None], negatives]
        if eps > 0:
            terms.append(torch.full_like(positive, math.log(eps))[:, None])
        step = torch.logsumexp(torch.cat(terms, dim=-1), dim=-1) - positive
        steps.append(step if temperature == "reward" else step.masked_fill((gaps <= 0).all(dim=-1), 0))
    return torch.stack(steps, dim=-1)


def sorted_by_length(batch: ScoredBatch) -> list[tuple[Tensor, Tensor]]:
    """For each ranking length n: ([G] records, [G, n] rows of their responses, best first, ties in file order)."""
    by_length: dict[int, tuple[list[int], list[Tensor]]] = {}
    for record, rows in enumerate(batch.groups()):
        order = torch.sort(batch.values[rows], descending=True, stable=True).indices
        records, grouped = by_length.setdefault(len(rows), ([], []))
        records.append(record)
        grouped.append(rows[order])
    device = batch.record_index.device
    return [(torch.tensor(records, device=device), torch.stack(rows)) for records, rows in by_length.values()]


@dataclass(kw_only=True)
class RRHFConstants:
    """Constants of RRHF."""

    __group__ = "Objective"

    rank_weight: NonNegative = option(1.0, "weight of the ranking term", source="paper (100 in its code)")
    length_penalty: NonNegative = option(
        1.0, "power of the length that scores are divided by", source="paper"
    )
    sft_reduction: Reduction = option(
        "sum", "likelihood of the best response over its tokens", source="paper"
    )


@objective(
    "rrhf",
    data="ranking",
    reference=False,
    constants=RRHFConstants,
    equation=r"\sum_{R_i < R_j} \max(0, a_i - a_j) - \log \pi_\theta(y_{best}|x), \quad a = \tfrac{1}{|y|}\log \pi_\theta(y|x)",
    when="Several scored responses a prompt, no reference, and a loss that is nearly plain fine-tuning.",
)
def rrhf(batch: ScoredBatch, constants: RRHFConstants) -> Losses:
    """RRHF, Yuan et al. 2023 (arXiv 2304.05302), equations 1 to 4.

    The likelihood term is the batch's mean over records like every loss here; the official code takes the first
    record of a batch only.
    """
    logps, lengths = batch.policy.sums(), batch.policy.lengths
    scores = mean_logps(logps, lengths, constants.length_penalty)
    ranking = ranking_hinge_loss(scores, batch.values, batch.record_index)
    best = best_responses(batch.values, batch.record_index)
    nll = nll_loss(logps[best], lengths[best], reduction=constants.sft_reduction)
    metrics = {"losses/ranking": ranking.detach(), "nll": nll.detach(), **ranking_metrics(batch, scores)}
    return Losses(constants.rank_weight * ranking + nll, metrics)
