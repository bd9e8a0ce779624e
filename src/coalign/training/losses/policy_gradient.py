"""Policy gradients: advantages within groups, clipped surrogates, estimators of the KL divergence, divisors.

Pure functions on the samples of an optimizer step. Rewards are [P, n]: n responses to each of P prompts, NaN where a
response does not count (nobody could score it, or it was masked): it then is in no mean, no deviation and no divisor.
Tokens are ragged as the scoring engine gives them: [N] values, response after response, and [B] lengths; nothing is
padded, so no token value decides what counts.

Everything is divided beforehand by what the whole optimizer step holds (`response_weights`), so that the gradient is a
plain sum over responses and does not depend on how they are spread over micro-batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Baseline = Literal["mean", "leave_one_out", "none"]
Scale = Literal["group", "batch", "none"]
LossType = Literal["grpo", "dapo", "dr_grpo", "sequence"]
Level = Literal["token", "sequence", "sum"]
KlEstimator = Literal["k1", "k2", "k3"]

SCALE_EPSILON = 1e-4
"""Added to a standard deviation that is divided by (as in TRL)."""


def group_advantages(
    rewards: Tensor, *, baseline: Baseline = "mean", scale: Scale = "none", epsilon: float = SCALE_EPSILON
) -> Tensor:
    """Advantage of each response over the others to its prompt.

    `mean`: `r_i - mean(r)` (GRPO: Shao et al. 2024, arXiv 2402.03300, section 4.1). `leave_one_out`: `r_i` minus the mean of
    the other responses, `k / (k - 1) (r_i - mean(r))` with k counted responses (RLOO: Ahmadian et al. 2024, arXiv
    2402.14740, equation 6). `none`: the reward itself.

    Args:
        rewards: [P, n]; NaN does not count.
        scale: divide by the standard deviation (n - 1 in the divisor, plus `epsilon`) of the group's rewards (GRPO), of all
            rewards of the batch (arXiv 2508.08221), or not at all (Dr. GRPO: arXiv 2503.20783).

    Returns:
        [P, n]; 0 where a reward is NaN, and for a group with a single counted response, which is compared with nothing
        (without baseline its reward stays).
    """
    counted = ~rewards.isnan()
    values = rewards.masked_fill(~counted, 0.0)
    k = counted.sum(1, keepdim=True)
    mean = values.sum(1, keepdim=True) / k.clamp(min=1)
    centred = (values - mean) * counted
    advantages = values if baseline == "none" else centred
    if baseline == "leave_one_out":
        advantages = centred * k / (k - 1).clamp(min=1)
    if scale == "group":
        deviation = (centred.square().sum(1, keepdim=True) / (k - 1).clamp(min=1)).sqrt()
        advantages = advantages / (deviation + epsilon)
    elif scale == "batch":
        alone = values[counted]
        deviation = alone.std() if alone.numel() > 1 else alone.new_zeros(())
        advantages = advantages / (deviation + epsilon)
    return advantages * counted


def equal_groups(rewards: Tensor) -> Tensor:
    """[P] whether all counted rewards [P, n] of a group are the same number: such a group prefers nothing. True also for
    groups with fewer than two counted responses.
    """
    counted = ~rewards.isnan()
    highest = rewards.masked_fill(~counted, -torch.inf).amax(1)
    lowest = rewards.masked_fill(~counted, torch.inf).amin(1)
    return (counted.sum(1) < 2) | (highest <= lowest)


def response_weights(lengths: Tensor, counted: Tensor, loss_type: LossType, *, longest: int = 0) -> Tensor:
    """What each token's loss is multiplied by, so that the step's loss is the sum over all its tokens.

    With R counted responses in the step: `grpo`: 1 / (R |y|), the mean over responses of their mean over tokens (arXiv
    2402.03300, equation 3). `dapo`: 1 / sum of |y|, the mean over the step's tokens (arXiv 2503.14476, equation 8; TRL's
    `bnpo` is the same where a step is one batch). `dr_grpo`: 1 / (R L), a constant length L (arXiv 2503.20783). `sequence`:
    1 / R, the mean over responses of their sum over tokens (REINFORCE, RLOO).

    Args:
        lengths: [B] tokens of each response of the whole step.
        counted: [B] whether it is learnt from.
        longest: L, the most tokens that a response may have; of `dr_grpo` alone.

    Returns:
        [B] float64; 0 where a response does not count.

    Raises:
        ValueError: `dr_grpo` without a length.
    """
    tokens = lengths.clamp(min=1).double()
    size = counted.sum().clamp(min=1).double()
    if loss_type == "dr_grpo" and longest < 1:
        raise ValueError("dr_grpo divides by a constant length, expected longest of at least 1")
    divisors = {
        "grpo": size * tokens,
        "dapo": (tokens * counted).sum().clamp(min=1).expand(len(tokens)),
        "dr_grpo": (size * longest).expand(len(tokens)),
        "sequence": size.expand(len(tokens)),
    }
    return counted / divisors[loss_type]


def importance_ratios(policy: Tensor, old: Tensor, lengths: Tensor, level: Level = "token") -> Tensor:
    """[N] probability ratio of the policy in training to the policy that sampled, for each token.

    `token`: of the token itself. `sequence`: of the whole response, its geometric mean over tokens (GSPO: Zheng et al. 2025,
    arXiv 2507.18071, equation 7), the same for all its tokens. `sum`: of the whole response, `pi(y|x) / pi_old(y|x)`.

    Args:
        policy: [N] token log-probabilities, with gradient.
        old: [N] the same when the responses were sampled, without gradient.
        lengths: [B], sum N.
    """
    log_ratios = policy - old.detach()
    if level == "token":
        return log_ratios.exp()
    segments = _segments(lengths)
    sums = log_ratios.new_zeros(len(lengths)).index_add(0, segments, log_ratios)
    if level == "sequence":
        sums = sums / lengths.clamp(min=1)
    return sums.exp()[segments]


def clipped_surrogate(
    ratios: Tensor,
    advantages: Tensor,
    *,
    low: float = 0.2,
    high: float | None = None,
    ceiling: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`-min(r A, clip(r, 1 - low, 1 + high) A)` (PPO: Schulman et al. 2017, arXiv 1707.06347, equation 7).

    Args:
        ratios: [N].
        advantages: [N], constants.
        high: upper bound of its own, clip-higher (DAPO, arXiv 2503.14476, equation 10); by default `low`.
        ceiling: ratios above it are cut off on the side of negative advantages too, where the minimum has no bound (dual-clip:
            arXiv 1912.09729; INTELLECT-2, arXiv 2505.07291, section 3.4; TRL's `delta`).

    Returns:
        [N] losses; [N] whether the clip decided, so that the token gets no gradient.
    """
    advantages = advantages.detach()
    bounded = ratios if ceiling is None else ratios.clamp(max=ceiling)
    clipped = ratios.clamp(1 - low, 1 + (low if high is None else high))
    losses = -torch.minimum(bounded * advantages, clipped * advantages)
    off = ((ratios > clipped) & (advantages > 0)) | ((ratios < clipped) & (advantages < 0))
    if ceiling is not None:
        off = off | ((ratios > ceiling) & (advantages < 0))
    return losses, off


def kl_estimates(policy: Tensor, reference: Tensor, estimator: KlEstimator) -> Tensor:
    """[N] estimates of KL(policy || reference) at tokens that the policy sampled, in nats.

    With `d = log pi - log pi_ref`: `k1` d; `k2` d² / 2; `k3` exp(-d) - 1 + d (Schulman 2020, "Approximating KL divergence").
    k1 and k3 have the KL divergence as their expectation under the policy; k2 has it to second order.

    In a *reward* the value counts, as a constant. On policy k1 then gives the gradient of KL(pi || pi_ref); k2 that of
    E[d²] / 2 - KL(pi || pi_ref); k3 that of KL(pi || pi_ref) - KL(pi_ref || pi).
    In a *loss* the derivative counts. On policy k1 then has the expectation 0 and holds nothing; k2 gives the gradient of
    KL(pi || pi_ref), since its derivative is `d grad log pi`; k3 that of the forward KL(pi_ref || pi), its derivative being
    `(1 - pi_ref / pi) grad log pi`. Tests hold each of these by enumeration.

    Args:
        policy, reference: [N] log-probabilities of the tokens.
    """
    d = policy - reference.detach()
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d.square() / 2
    return torch.expm1(-d) + d


def token_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """[B] sums of ragged token values [N] over each response; 0 for one without tokens."""
    return values.new_zeros(len(lengths)).index_add(0, _segments(lengths), values)


def per_token(values: Tensor, lengths: Tensor) -> Tensor:
    """[N] the value [B] of each token's response."""
    return values.repeat_interleave(lengths)


def best_and_worst(rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pair that online DPO learns from (Guo et al. 2024, arXiv 2402.04792; with more than two samples the extremes).

    Args:
        rewards: [P, n]; NaN does not count.

    Returns:
        [P] place of the best and [P] of the worst response of each group, the first of equals; [P] whether there is a pair: two
        counted responses of different reward.
    """
    counted = ~rewards.isnan()
    best = rewards.masked_fill(~counted, -torch.inf).argmax(1)
    worst = rewards.masked_fill(~counted, torch.inf).argmin(1)
    return best, worst, ~equal_groups(rewards)


def generalised_advantages(
    rewards: Tensor, values: Tensor, lengths: Tensor, *, discount: float = 1.0, trace: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the tokens of each response (Schulman et al. 2016, arXiv 1506.02438, equation 16).

    `delta_t = r_t + discount V_{t+1} - V_t`, `A_t = delta_t + discount trace A_{t+1}`; after the last token the value is 0, as of
    an end.

    Args:
        rewards: [N] at each token; a reward of the whole response stands at its last token.
        values: [N] of the state before each token.
        lengths: [B], sum N.

    Returns:
        [N] advantages and [N] returns (advantages plus values), both without gradient.
    """
    values = values.detach()
    last = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    last[lengths.cumsum(0)[lengths > 0] - 1] = True
    following = torch.cat([values[1:], values.new_zeros(1)]).masked_fill(last, 0.0)
    deltas = rewards + discount * following - values
    advantages = torch.zeros_like(deltas)
    for one, delta in zip(
        torch.split(advantages, lengths.tolist()), torch.split(deltas, lengths.tolist()), strict=True
    ):
        running = delta.new_zeros(())
        for step in range(len(delta) - 1, -1, -1):
            running = delta[step] + discount * trace * running
            one[step] = running
    return advantages, advantages + values


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """[N] `max((V - G)², (clip(V, V_old ± clip) - G)²) / 2`, as PPO is implemented (openai/baselines); no clip with None.

    Args:
        values: [N] with gradient.
        old: [N] values when the responses were sampled.
        returns: [N] targets, constants.
    """
    losses = (values - returns).square()
    if clip is not None:
        bounded = old + (values - old).clamp(-clip, clip)
        losses = torch.maximum(losses, (bounded - returns).square())
    return losses / 2


def whiten(values: Tensor) -> Tensor:
    """[N] less their mean, over their standard deviation (n - 1; plus 1e-8); fewer than two values stay as they are."""
    if len(values) < 2:
        return values
    return (values - values.mean()) / (values.std() + 1e-8)


def _segments(lengths: Tensor) -> Tensor:
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def varied(rewards: Tensor, least: float) -> Tensor:
    """[P] whether the rewards of a prompt's responses differ enough to learn from: a population variance of at least `least`
    (ChatGLM-RLHF, arXiv 2404.00934, section 3).

    Args:
        rewards: [P, n], NaN where a response has none; fewer than two say nothing, and the prompt is not learnt on.
    """
    known = ~rewards.isnan()
    count = known.sum(1).clamp(min=1)
    means = rewards.nan_to_num(0.0).sum(1) / count
    squares = torch.where(known, rewards - means[:, None], 0.0) ** 2
    return (squares.sum(1) / count >= least) & (known.sum(1) >= 2)


def above_reference(rewards: Tensor, reference: Tensor) -> Tensor:
    """[P, n] `r(x, y) - r(x, y_ref)`: 0 where the policy answers as the start model did (arXiv 2404.00934, section 3).

    Args:
        rewards: [P, n] of the responses.
        reference: [P] of the one response of the start model to each prompt.
    """
    return rewards - reference[:, None]
