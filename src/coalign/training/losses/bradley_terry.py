"""The loss of reward models: Bradley-Terry on pairs, with margins, label smoothing and a term that centres rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from coalign.training.losses.listwise import ordered_pairs
from coalign.training.losses.pairwise import logistic_loss

if TYPE_CHECKING:
    from torch import Tensor


def bradley_terry_losses(
    better: Tensor,
    worse: Tensor,
    margins: Tensor | float = 0.0,
    *,
    label_smoothing: float = 0.0,
    center_rewards_coefficient: float = 0.0,
    reward_l2: float = 0.0,
    score_weight: float = 0.0,
    scores: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """[P] `-(1 - e) log sig(z) - e log sig(-z) + c (r_b + r_w)^2 + k (r_b^2 + r_w^2) + a [(r_b - s_b)^2 + (r_w - s_w)^2]` with
    `z = r_b - r_w - m`, a pair each, not reduced.

    Without m, e and c the negative log-likelihood of Bradley and Terry (1952), as in Ouyang et al. 2022 (arXiv 2203.02155),
    equation 1. m: Touvron et al. 2023 (arXiv 2307.09288), equation 2. e: the assumed share of swapped labels. c: Eisenstein
    et al. 2023 (arXiv 2312.09244), appendix; rewards are only known up to a constant, and the term keeps it near 0.

    Args:
        better, worse: [P] rewards of the two responses of each pair.
        margins: [P] by how much the better one should be ahead; constants.
        label_smoothing: e, in [0, 0.5).
        center_rewards_coefficient: c.
        reward_l2: k (ChatGLM-RLHF, arXiv 2404.00934: it bounds rewards and centres them at 0).
        score_weight: a (Baichuan Alignment, arXiv 2410.14940, equation 1).
        scores: [P] of the two responses of each pair, s_b and s_w, in the units of the rewards; NaN where a response has
            none, whose term is 0 (the mean over pairs is not made smaller).
    """
    losses = logistic_loss(better - worse - margins, label_smoothing)
    if center_rewards_coefficient:
        losses = losses + center_rewards_coefficient * (better + worse) ** 2
    if reward_l2:
        losses = losses + reward_l2 * (better**2 + worse**2)
    if score_weight and scores is not None:
        for rewards, wanted in zip((better, worse), scores, strict=True):
            known = wanted.isfinite()
            misses = torch.where(known, rewards - torch.where(known, wanted, 0.0), 0.0)
            losses = losses + score_weight * misses**2
    return losses


def ranking_loss(rewards: Tensor, values: Tensor, record_index: Tensor) -> Tensor:
    """[] mean of `-log sig(r_i - r_j)` over all pairs of one record with `v_i > v_j`; 0 without any.

    Args:
        rewards: [B]; gradients flow.
        values: [B] how good each response is; equal ones, and NaN, are not compared.
        record_index: [B] the record of each response.
    """
    better, worse = ordered_pairs(values, record_index)
    losses = bradley_terry_losses(rewards[better], rewards[worse])
    return losses.sum() / max(len(losses), 1)


Ties = Literal["exclude", "half"]


def ranking_losses(
    rewards: Tensor, values: Tensor, record_index: Tensor, *, ties: Ties = "exclude"
) -> tuple[Tensor, Tensor]:
    """([R], [R]) sum of the losses over the pairs of each record, and how many these are.

    A pair with `v_i > v_j` has the loss `-log sig(r_i - r_j)`. With ties `half` a pair of equal values has
    `-(log sig(d) + log sig(-d)) / 2`, so that rewards of ties are drawn together; with `exclude` it is none. A record
    without pairs has 0 of both.

    Args:
        rewards: [B]; gradients flow.
        values: [B] how good each response is; NaN is not compared.
        record_index: [B] the record of each response, non-decreasing.
    """
    size = int(record_index[-1]) + 1 if len(record_index) else 0
    first, second = ordered_pairs(values, record_index)
    losses = bradley_terry_losses(rewards[first], rewards[second])
    if ties == "half":
        same = (record_index[:, None] == record_index) & (values[:, None] == values)
        one, other = same.triu(diagonal=1).nonzero(as_tuple=True)
        losses = torch.cat([losses, logistic_loss(rewards[one] - rewards[other], 0.5)])
        first = torch.cat([first, one])
    sums = rewards.new_zeros(size).index_add(0, record_index[first], losses)
    return sums, record_index[first].bincount(minlength=size)


def record_means(values: Tensor, record_index: Tensor, size: int) -> Tensor:
    """[R] means of the values [P] of each record; 0 for a record without any.

    Args:
        record_index: [P] the record of each value.
        size: R.
    """
    sums = values.new_zeros(size).index_add(0, record_index, values)
    return sums / record_index.bincount(minlength=size).clamp(min=1)
