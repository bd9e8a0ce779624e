"""Learning the order in which a judge puts responses: a ranking term, and the likelihood of its first response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coalign.core.options import NonNegative, option
from coalign.training.losses.listwise import (
    best_responses,
    pro_rank_losses,
    ranking_hinge_loss,
    ranking_metrics,
    sorted_by_length,
)
from coalign.training.losses.supervised import nll_loss
from coalign.training.objective import Losses, ScoredBatch, objective


@dataclass(kw_only=True)
class Constants:
    """Constants of learning a judge's order."""

    __group__ = "Objective"

    ranking: Literal["rrhf", "pro"] = option(
        "rrhf", "ranking term: a hinge on every pair, or the steps of PRO", source="reconstruction"
    )
    rank_weight: NonNegative = option(
        1.0, "weight of the ranking term; 0.2 was better in the check", source="reconstruction"
    )
    ft_weight: NonNegative = option(
        1.0, "weight of the likelihood of the judge's first response", source="reconstruction"
    )
    margin: NonNegative = option(
        0.0, "delta of the hinge, nats a token", source="reconstruction", only_with={"ranking": "rrhf"}
    )


@objective(
    "ranking_distillation",
    title="Ranking distillation",
    data="ranking",
    reference=False,
    constants=Constants,
    equation=r"w_r \sum_{i \prec j} \max(0,\; p_j - p_i + \delta) - w_f\, p_{first}, \qquad "
    r"p_i = \tfrac1{|y_i|}\textstyle\sum_t \log\pi_\theta(y_{i,t}\mid x, y_{i,<t})",
    when="Rankings by a judge whose order counts and whose scores do not.",
)
def ranking_distillation(batch: ScoredBatch, constants: Constants) -> Losses:
    """Ranking loss over a judge's order and likelihood of its first response (our reconstruction of 2310.16271).

    `batch.values` [B] order the responses of a record; ties make no pair. The first response wins a tie for the best.
    """
    means, lengths = batch.policy.means(), batch.policy.lengths
    if constants.ranking == "rrhf":
        rank = ranking_hinge_loss(
            means, batch.values, batch.record_index, margin=constants.margin, margin_of="pair"
        )
    else:
        rank = means.new_zeros(batch.n_records)
        for records, rows in sorted_by_length(batch):
            steps = pro_rank_losses(means[rows], batch.values[rows], temperature="none", eps=0.0)
            rank = rank.index_add(0, records, steps.sum(dim=-1))
    best = best_responses(batch.values, batch.record_index)
    likelihood = nll_loss(batch.policy.sums()[best], lengths[best], reduction="mean")
    metrics = {
        "losses/ranking": rank.detach(),
        "nll/token": likelihood.detach(),
        **ranking_metrics(batch, means),
    }
    return Losses(constants.rank_weight * rank + constants.ft_weight * likelihood, metrics)
