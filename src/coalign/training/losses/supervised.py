"""Supervised fine-tuning, alone and as a term of other objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from coalign.training.losses.numerics import mean_logps
from coalign.training.objective import Losses, NoConstants, ScoredBatch, objective

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["sum", "mean"]


def nll_loss(
    policy_logps: Tensor, lengths: Tensor, *, reduction: Literal["sum", "mean", "token_mean"] = "sum"
) -> Tensor:
    """[R] negative log-likelihood of each response.

    Args:
        policy_logps: [R] sums over response tokens.
        lengths: [R] counted response tokens.
        reduction: over the tokens of a response, `sum` or `mean`; `token_mean` gives every record the mean over all
            tokens of the batch, as TRL's CPO and ORPO do. Objectives do not offer it: it depends on which records
            share a micro-batch.
    """
    if reduction == "sum":
        return -policy_logps
    if reduction == "mean":
        return -mean_logps(policy_logps, lengths)
    return -(policy_logps.sum() / lengths.sum().clamp(min=1)).expand_as(policy_logps)


@objective(
    "sft",
    data="demonstration",
    reference=False,
    normalise="tokens",
    equation=r"-\frac{1}{\sum_{y} |y|} \sum_{y} \sum_t \log \pi_\theta(y_t \mid x, y_{<t})",
    when="There are answers to imitate; also the start for every other objective.",
)
def sft(batch: ScoredBatch, constants: NoConstants) -> Losses:
    """Token cross-entropy of the demonstrations: the mean over all response tokens of a step.

    Raises:
        ValueError: a record has more than one response.
    """
    if len(batch.record_index) != batch.n_records:
        raise ValueError(
            f"{len(batch.record_index)} responses for {batch.n_records} demonstrations, expected one each"
        )
    logps = batch.policy.sums()
    return Losses(
        nll_loss(logps, batch.policy.lengths),
        {"logps/chosen": logps.detach(), "nll/token": -batch.policy.means().detach()},
    )
