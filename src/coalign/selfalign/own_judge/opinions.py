"""What several judges of one model say of a pair: probabilities, how far apart they are, and which pairs they agree on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.training.objective import ScoredBatch


def implicit_probability(
    policy: tuple[Tensor, Tensor],
    reference: tuple[Tensor, Tensor],
    lengths: tuple[Tensor, Tensor],
    *,
    beta: float,
    length_penalty: float = 0.0,
) -> Tensor:
    """[R] S1: p_I = sig(r_a - r_b), r = beta (log pi - log pi_ref) - eta |y|.

    Args:
        policy, reference: ([R], [R]) log-probabilities of the first and second response, summed over their tokens.
        lengths: ([R], [R]) tokens of each.
        length_penalty: eta, reward taken off for each token.
    """
    first, second = (
        beta * (one - fixed) - length_penalty * n
        for one, fixed, n in zip(policy, reference, lengths, strict=True)
    )
    return (first - second).sigmoid()


def generative_probability(in_order: Tensor, swapped: Tensor) -> Tensor:
    """[...] S2: p_G, the mean over both orders of the probability of the letter that the first response stands under.

    Args:
        in_order: [..., 2] logits (or log-probabilities) of the letters A and B where the first response is shown as A.
        swapped: [..., 2] the same where it is shown as B.
    """
    return (
        (in_order[..., 0] - in_order[..., 1]).sigmoid() + (swapped[..., 1] - swapped[..., 0]).sigmoid()
    ) / 2


def disagreement(probabilities: Tensor) -> Tensor:
    """[R] S3, first term: mean over ordered pairs of judges i, j of KL(sg p_i || p_j); the target p_i has no gradient.

    Args:
        probabilities: [K, R] of K >= 2 judges; held within 1e-12 (1e-6 below float64) of 0 and 1.
    """
    p = _clamped(probabilities)
    target, other = p.detach()[:, None], p[None]
    kl = target * (target / other).log() + (1 - target) * ((1 - target) / (1 - other)).log()
    return kl.sum((0, 1)) / (len(p) * (len(p) - 1))


def mean_entropy(probabilities: Tensor) -> Tensor:
    """[R] S3, second term: entropy in nats of each judge's probability, averaged over the K judges."""
    p = _clamped(probabilities)
    return -(p * p.log() + (1 - p) * (1 - p).log()).mean(0)


def select(probabilities: Tensor, *, confidence: float) -> tuple[Tensor, Tensor]:
    """([R], [R]) S4: whether all judges are on one side of 1/2, each at least `confidence` sure; and whether the first
    response wins by the last judge, which is the verdict of all where they agree. Exactly 1/2 is a vote for the second. No gradient.
    """
    votes = probabilities.detach() > 0.5
    sure = torch.maximum(probabilities, 1 - probabilities).detach().amin(0) >= confidence
    return (votes == votes[:1]).all(0) & sure, votes[-1]


def _clamped(p: Tensor) -> Tensor:
    edge = 1e-12 if p.dtype == torch.float64 else 1e-6
    return p.clamp(edge, 1 - edge)


def judged_probabilities(batch: ScoredBatch, constants: Any) -> tuple[Tensor, Tensor]:
    """([K, R] probabilities of the implicit reward and of each judge, [R] DPO's margin z of first over second).

    Args:
        batch: a record's rows are those of `LetterJudge.contexts`.
        constants: `beta` and `length_penalty` of the implicit reward.
    """
    policy, reference = batch.policy.sums().view(batch.n_records, -1), batch.reference_sums()
    fixed, lengths = reference.view_as(policy), batch.policy.lengths.view_as(policy)
    pairs = [(one[:, 0], one[:, 1]) for one in (policy, fixed, lengths)]
    implicit = implicit_probability(
        pairs[0], pairs[1], pairs[2], beta=constants.beta, length_penalty=constants.length_penalty
    )
    letters = policy[:, 2:].view(batch.n_records, -1, 2, 2)
    judges = generative_probability(letters[:, :, 0], letters[:, :, 1])
    margins = constants.beta * ((pairs[0][0] - pairs[1][0]) - (pairs[0][1] - pairs[1][1]))
    return torch.cat([implicit[None], judges.T]), margins
