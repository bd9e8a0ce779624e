"""The objectives on responses that the policy samples itself: RLOO, GRPO and its variants, online DPO.

Each is a declaration (`OnlineMethod`): its constants, how a rollout becomes steps with advantages and weights, and the loss of
scored responses. `coalign.loops.reinforcement` samples, rewards and trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.errors import ConfigError
from coalign.core.options import NonNegative, OptionGroup, Positive, option
from coalign.training.kl_options import KlOptions
from coalign.training.losses import policy_gradient as pg
from coalign.training.losses.pairs import reward_metrics
from coalign.training.losses.pairwise import dpo_loss, ipo_loss
from coalign.training.online.policy_gradient import (
    Cut,
    Known,
    Metrics,
    OnlineMethod,
    Part,
    Rollout,
    Step,
    common_metrics,
    loss_divergences,
    make_parts,
    split_prompts,
    token_divergences,
)
from coalign.training.online.ppo import PPO

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.types import ResponseLogps

EqualGroups = Literal["count", "leave out"]


@dataclass(kw_only=True)
class SurrogateOptions(KlOptions):
    """Advantages, ratio clipping and what the loss is divided by."""

    __group__ = "Objective"

    scale_rewards: pg.Scale = option(
        "group",
        "divide advantages by the deviation of the group's rewards, of the batch's, or by nothing (dr_grpo)",
        source="arXiv 2402.03300",
    )
    loss_type: pg.LossType = option(
        "dapo",
        "mean over responses of their token mean (grpo), over all tokens of a step (dapo), over responses of the sum by a "
        "constant length (dr_grpo), or over responses of their sum (sequence)",
        source="TRL; arXiv 2503.14476",
    )
    importance_level: pg.Level = option(
        "token",
        "probability ratio of a token, of a response as its geometric mean (sequence: GSPO), or of a response (sum)",
        source="arXiv 2402.03300; GSPO: 2507.18071",
    )
    epsilon: Positive = option(0.2, "ratios are clipped below 1 - epsilon", source="PPO paper")
    epsilon_high: Positive | None = option(
        None, "and above 1 + epsilon_high, by default epsilon (clip-higher: 0.28)", source="arXiv 2503.14476"
    )
    delta: Positive | None = option(
        None, "ratios are cut off above this for worse responses too", source="arXiv 2505.07291"
    )
    equal_groups: EqualGroups = option(
        "count", "whether prompts whose responses all have one reward count in the divisor of the loss"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon >= 1:
            raise ValueError(f"epsilon: {self.epsilon} leaves no lower bound, expected a number below 1")
        if self.delta is not None and self.delta <= 1 + (self.epsilon_high or self.epsilon):
            raise ValueError(f"delta: {self.delta} is inside the clip, expected a number above 1 + epsilon")


@dataclass(kw_only=True)
class GrpoOptions(SurrogateOptions):
    """Constants of GRPO."""

    __group__ = "Objective"


@dataclass(kw_only=True)
class RlooOptions(SurrogateOptions):
    """Constants of REINFORCE leave-one-out."""

    __group__ = "Objective"

    beta: NonNegative = option(
        0.05, "weight of the KL divergence to the reference; 0: no reference", source="TRL"
    )
    kl_in: Literal["reward", "advantage", "loss"] = option("reward", "as of grpo")
    kl_estimator: pg.KlEstimator = option(
        "k1", "k1: log-ratio, k2: half its square, k3: never negative", source="arXiv 2402.14740, equation 2"
    )
    scale_rewards: pg.Scale = option(
        "none", "divide advantages by the deviation of the group's rewards, of the batch's, or by nothing"
    )
    loss_type: pg.LossType = option("sequence", "as of grpo; sequence: REINFORCE over whole responses")
    importance_level: pg.Level = option("sum", "as of grpo; sum: ratios of whole responses", source="TRL")


@dataclass(kw_only=True)
class OnlineDpoOptions(OptionGroup):
    """Constants of online DPO."""

    __group__ = "Objective"

    beta: Positive = option(0.1, "inverse temperature of the implicit reward", source="TRL")
    loss_type: Literal["sigmoid", "ipo"] = option("sigmoid", "DPO's logistic loss, or IPO's squared one")


def penalised(rewards: Tensor, known: Known, constants: KlOptions) -> Tensor:
    """Rewards [P, n] less `beta` times the estimated divergence of each response, where the divergence is in the reward."""
    if not (constants.beta and constants.kl_in == "reward"):
        return rewards
    sums = [float(one.sum()) for one in token_divergences(known, constants)]
    return rewards - constants.beta * torch.tensor(sums, dtype=rewards.dtype).reshape(rewards.shape)


def surrogate_steps(baseline: pg.Baseline) -> Any:
    """`OnlineMethod.steps` for advantages over this baseline: each response has one advantage, the same for all its tokens."""

    def steps(rollout: Rollout, known: Known, constants: SurrogateOptions, cut: Cut) -> list[Step]:
        rewards = penalised(rollout.rewards, known, constants)
        advantages = pg.group_advantages(rewards, baseline=baseline, scale=constants.scale_rewards).flatten()
        learns = (~rewards.isnan()).sum(1, keepdim=True) >= 2
        if constants.equal_groups == "leave out":
            learns &= ~pg.equal_groups(rollout.rewards)[:, None]
        counted = (learns & ~rewards.isnan()).flatten()
        lengths = torch.tensor([len(one) for one in rollout.response_ids])
        pieces = [one.expand(length) for one, length in zip(advantages, lengths.tolist(), strict=True)]
        if constants.beta and constants.kl_in == "advantage":
            apart = token_divergences(known, constants)
            pieces = [one - constants.beta * less for one, less in zip(pieces, apart, strict=True)]
        made = []
        for prompts in split_prompts(len(rewards), cut.minibatches):
            mine = torch.zeros_like(counted)
            n = rewards.shape[1]
            mine[prompts.start * n : prompts.stop * n] = True
            weights = pg.response_weights(
                lengths, counted & mine, constants.loss_type, longest=rollout.longest
            )
            units = [[row] for row in (counted & mine).nonzero().flatten().tolist()]
            made.append(Step(make_parts(rollout, known, units, weights, cut, advantages=pieces)))
        return made

    return steps


def surrogate(policy: ResponseLogps, part: Part, constants: SurrogateOptions) -> tuple[Tensor, Metrics]:
    """GRPO and RLOO: the clipped surrogate of arXiv 1707.06347, equation 7, on group advantages (arXiv 2402.03300, equation 3).

    With `kl_in: loss` each token has `beta` times the estimated divergence added, divided like its loss.
    """
    logps, lengths = policy.token_logps, policy.lengths
    old = logps.detach() if part.old is None else part.old
    ratios = pg.importance_ratios(logps, old, lengths, constants.importance_level)
    losses, clipped = pg.clipped_surrogate(
        ratios, part.advantages.to(logps.dtype), low=constants.epsilon, high=constants.epsilon_high, ceiling=constants.delta
    )  # fmt: skip
    if constants.importance_level == "sum":
        losses = losses / pg.per_token(lengths, lengths)  # one term a response, not one a token
    metrics = common_metrics(policy, part)
    if constants.beta and constants.kl_in == "loss":
        losses = losses + constants.beta * loss_divergences(policy, part, constants)
    total = (losses * pg.per_token(part.weights, lengths).to(logps.dtype)).sum()
    return total, {**metrics, "clip/fraction": clipped.float()}


def pair_steps(rollout: Rollout, known: Known, constants: OnlineDpoOptions, cut: Cut) -> list[Step]:
    """The best and the worst response of each prompt; the loss is the mean over the pairs of a step."""
    best, worst, usable = pg.best_and_worst(rollout.rewards)
    n = rollout.rewards.shape[1]
    made = []
    for prompts in split_prompts(len(best), cut.minibatches):
        kept = [one for one in prompts if bool(usable[one])]
        weights = torch.zeros(rollout.rewards.numel(), dtype=torch.float64)
        units = []
        for prompt in kept:
            first, second = prompt * n + int(best[prompt]), prompt * n + int(worst[prompt])
            # The sign says which of both is the better one; in a part rows are in rising order.
            weights[first], weights[second] = 1 / len(kept), -1 / len(kept)
            units.append(sorted([first, second]))
        made.append(Step(make_parts(rollout, known, units, weights, cut)))
    return made


def online_dpo(policy: ResponseLogps, part: Part, constants: OnlineDpoOptions) -> tuple[Tensor, Metrics]:
    """Online DPO: Guo et al. 2024 (arXiv 2402.04792), on the best and the worst of n samples."""
    assert part.reference is not None
    better = part.weights[0::2] > 0
    sums, reference = policy.sums(), pg.token_sums(part.reference, policy.lengths)

    def sides(values: Tensor) -> tuple[Tensor, Tensor]:
        first, second = values[0::2], values[1::2]
        return torch.where(better, first, second), torch.where(better, second, first)

    (chosen, rejected), (old_chosen, old_rejected) = sides(sums), sides(reference)
    if constants.loss_type == "ipo":
        losses = ipo_loss(
            chosen, rejected, old_chosen, old_rejected, *sides(policy.lengths), tau=constants.beta
        )
    else:
        losses = dpo_loss(chosen, rejected, old_chosen, old_rejected, beta=constants.beta)
    rewards = [
        constants.beta * (one - other) for one, other in ((chosen, old_chosen), (rejected, old_rejected))
    ]
    total = (losses * part.weights[0::2].abs().to(losses.dtype)).sum()
    return total, {**common_metrics(policy, part), **reward_metrics(*rewards)}


def _needs_old(constants: SurrogateOptions, steps: int) -> bool:
    return steps > 1 or bool(constants.beta and constants.kl_in != "loss")


_METHODS = (
    OnlineMethod(
        name="grpo",
        constants=GrpoOptions,
        steps=surrogate_steps("mean"),
        loss=surrogate,
        needs_old=_needs_old,
        needs_reference=lambda constants: constants.beta > 0,
        equation=r"-\frac1{\sum_i|y_i|}\sum_i\sum_t\min\bigl(\rho_{i,t}A_i,\;\mathrm{clip}(\rho_{i,t},1-\epsilon_{low},"
        r"1+\epsilon_{high})A_i\bigr),\qquad A_i=\frac{r_i-\mathrm{mean}(r)}{\mathrm{std}(r)}",
        when="rewards that programs can check: several samples a prompt are each other's baseline; no value model",
    ),
    OnlineMethod(
        name="rloo",
        constants=RlooOptions,
        steps=surrogate_steps("leave_one_out"),
        loss=surrogate,
        needs_old=_needs_old,
        needs_reference=lambda constants: constants.beta > 0,
        equation=r"-\frac1R\sum_i\Bigl(r_i-\tfrac1{n-1}\textstyle\sum_{j\ne i}r_j\Bigr)\log\pi_\theta(y_i\mid x)",
        when="the unbiased gradient of a reward less its divergence from the reference, without scales or token tricks",
    ),
    OnlineMethod(
        name="online-dpo",
        constants=OnlineDpoOptions,
        steps=pair_steps,
        loss=online_dpo,
        unit=2,
        needs_old=lambda constants, steps: False,
        needs_reference=lambda constants: True,
        equation=r"-\log\sigma\bigl(\beta(h_w-h_l)\bigr),\qquad (y_w,y_l)\sim\pi_\theta\ \text{ranked by a reward or judge}",
        when="a judge or reward whose order can be trusted more than its numbers: only the best and worst sample are compared",
    ),
    PPO,
)  # fmt: skip


def online_methods() -> dict[str, OnlineMethod]:
    """The methods by name."""
    return {one.name: one for one in _METHODS}


def get_online_method(name: str) -> OnlineMethod:
    """The method `name`.

    Raises:
        ConfigError: there is none; the known ones are listed.
    """
    known = online_methods()
    if name not in known:
        raise ConfigError(f"{name!r} is not an online method, expected one of: {', '.join(known)}")
    return known[name]
