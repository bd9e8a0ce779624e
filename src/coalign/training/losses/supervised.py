"""Supervised fine-tuning, alone and as a term of other objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.options import option
from coalign.training.losses.numerics import mean_logps
from coalign.training.objective import Losses, Normalisation, ScoredBatch, objective

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


@dataclass(kw_only=True)
class SFTConstants:
    """Constants of supervised fine-tuning."""

    __group__ = "Objective"

    loss_average: Literal["tokens", "sequences"] = option(
        "tokens",
        "what the loss of a step is a mean over: its response tokens, or its sequences' own means, so that a long answer "
        "counts no more than a short one",
        source="sequences: LongAlign, arXiv 2401.18058, equation 2",
    )


def averaged_over(constants: Any) -> Normalisation:
    """What the loss is a mean over; tokens, where a system that fine-tunes has no such option."""
    return getattr(constants, "loss_average", "tokens")


@objective(
    "sft",
    data="demonstration",
    reference=False,
    normalise=averaged_over,
    constants=SFTConstants,
    equation=r"-\frac{1}{\sum_{y} |y|} \sum_{y} \sum_t \log \pi_\theta(y_t \mid x, y_{<t})",
    when="There are answers to imitate; also the start for every other objective.",
)
def sft(batch: ScoredBatch, constants: SFTConstants) -> Losses:
    """Token cross-entropy of the demonstrations: the mean over all response tokens of a step, or over its M sequences of their
    means, `(1/M) sum_i L_i / N_i` with N_i counted tokens (LongAlign, arXiv 2401.18058, equation 2).

    M is counted over the whole optimizer step, accumulation and processes included (the official weights take it from one
    micro-batch); a sequence without counted tokens has loss 0 and is not in M.

    Raises:
        ValueError: a record has more than one response.
    """
    if len(batch.record_index) != batch.n_records:
        raise ValueError(
            f"{len(batch.record_index)} responses for {batch.n_records} demonstrations, expected one each"
        )
    logps = batch.policy.sums()
    return Losses(
        nll_loss(
            logps,
            batch.policy.lengths,
            reduction="mean" if averaged_over(constants) == "sequences" else "sum",
        ),
        {"logps/chosen": logps.detach(), "nll/token": -batch.policy.means().detach()},
    )
