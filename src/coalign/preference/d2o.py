"""D2O: unlearn bad answers with examples of bad answers only.

Negating Negatives: Alignment without Human Positive Samples via Distributional Dispreference Optimization
(arXiv 2403.03419). The rejected answer of people is set against the distribution of what the model says by itself:
the mean over K sampled answers stands where DPO has one chosen answer, so no single bad sample is learned.

    coalign run d2o --data bad_answers.jsonl --model default

Takes thumbs-down records or pairs; of a pair only the rejected side is used.

Reconstruction: there is no official code. The loss is the paper's equation 3 with one model as both references, as in
the paper's experiments. Drawing the anchors again from the model in training is mentioned, its intervals are not
given: they are options, off by default. Samples equal to the negative are left out (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from coalign.core.options import Positive, option
from coalign.preference.anchors import NEGATIVE, check_anchored
from coalign.training.objective import Losses, ScoredBatch, objective


def d2o_margins(
    anchor_log_ratios: Tensor, negative_log_ratios: Tensor, *, alpha: float, beta: float
) -> Tensor:
    """[R] `z = beta h(anchors) - alpha h(negative)`.

    Args:
        anchor_log_ratios: [R] mean over the K self-samples of `S_policy - S_reference` (sums over response tokens).
        negative_log_ratios: [R] the same of the human negative.
        alpha, beta: weights of negative and anchors.
    """
    return beta * anchor_log_ratios - alpha * negative_log_ratios


def d2o_loss(anchor_log_ratios: Tensor, negative_log_ratios: Tensor, *, alpha: float, beta: float) -> Tensor:
    """[R] `-log sig(beta/K sum_i [S_policy(y_i) - S_ref(y_i)] - alpha [S_policy(y_l) - S_ref(y_l)])`: equation 3.

    The mean over the K self-samples is inside the sigmoid: it cannot be taken over losses. With K = 1 and
    alpha = beta this is DPO with a self-sample as the chosen answer. Arguments as in `d2o_margins`; gradients flow
    through both, the caller keeps the reference out of them.
    """
    return F.softplus(-d2o_margins(anchor_log_ratios, negative_log_ratios, alpha=alpha, beta=beta))


def split_anchors(values: Tensor, is_negative: Tensor, record_index: Tensor) -> tuple[Tensor, Tensor]:
    """([R] mean over each record's anchors, [R] value of its negative).

    Args:
        values: [B] one value a response.
        is_negative: [B] true for the human negative.
        record_index: [B] the record of each response, 0..R-1.

    Raises:
        ValueError: a record does not have exactly one negative and at least one anchor.
    """
    counts = torch.bincount(record_index)
    negatives = torch.bincount(record_index[is_negative], minlength=len(counts))
    if bool((negatives != 1).any()) or bool((counts < 2).any()):
        raise ValueError("every record needs one negative (score 0) and at least one self-sample (score 1)")
    zeros = values.new_zeros(len(counts))
    anchors = zeros.index_add(0, record_index[~is_negative], values[~is_negative]) / (counts - 1)
    return anchors, zeros.index_add(0, record_index[is_negative], values[is_negative])


@dataclass(kw_only=True)
class D2OConstants:
    """Constants of D2O."""

    alpha: Positive = option(0.1, "weight of the human negative", source="paper, section 4")
    beta: Positive = option(0.1, "weight of the mean over self-samples", source="paper, section 4")


@objective(
    "d2o",
    data="ranking",
    reference=True,
    constants=D2OConstants,
    prepare=check_anchored,
    equation=r"-\log \sigma\left(\frac{\beta}{K} \sum_{i=1}^{K} \log\frac{\pi_\theta(y_i|x)}{\pi_{ref}(y_i|x)} - \alpha \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}\right)",
    when="Only bad answers are labelled, or the chosen answers of pairs are not to be trusted.",
)
def d2o(batch: ScoredBatch, constants: D2OConstants) -> Losses:
    """D2O (arXiv 2403.03419), equation 3, over rankings of self-samples (score 1) and one negative (score 0)."""
    if batch.reference is None:
        raise ValueError("D2O needs log-probabilities under the reference")
    log_ratios = batch.policy.sums() - batch.reference.sums().detach()
    anchors, negatives = split_anchors(log_ratios, batch.values == NEGATIVE, batch.record_index)
    losses = d2o_loss(anchors, negatives, alpha=constants.alpha, beta=constants.beta)
    chosen, rejected = constants.beta * anchors.detach(), constants.alpha * negatives.detach()
    metrics = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
    }
    return Losses(losses, metrics)
