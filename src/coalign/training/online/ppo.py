"""PPO with a value head: advantages of every token by generalised advantage estimation over what the head expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from coalign.core.options import Count, Fraction, NonNegative, Positive, option
from coalign.training.kl_options import KlOptions
from coalign.training.losses import policy_gradient as pg
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

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.types import ResponseLogps


@dataclass(kw_only=True)
class PpoOptions(KlOptions):
    """Constants of PPO."""

    __group__ = "Objective"
    least_samples: ClassVar[int] = 1

    beta: NonNegative = option(
        0.05, "weight of the KL divergence to the reference; 0: no reference", source="TRL"
    )
    kl_in: Literal["reward", "advantage", "loss"] = option(
        "reward", "take the divergence off the reward of each token, or add it to its loss"
    )
    kl_estimator: pg.KlEstimator = option(
        "k1", "k1: log-ratio, k2: half its square, k3: never negative", source="TRL"
    )
    epsilon: Positive = option(0.2, "ratios are clipped below 1 - epsilon", source="PPO paper")
    epsilon_high: Positive | None = option(None, "and above 1 + epsilon_high, by default epsilon")
    discount: Fraction = option(1.0, "gamma: what a reward one token later is worth", source="TRL")
    trace: Fraction = option(0.95, "lambda of the advantage estimation", source="GAE paper; TRL")
    value_weight: Positive = option(0.1, "weight of the value loss", source="TRL")
    value_clip: Positive | None = option(0.2, "how far a value may move in one rollout", source="TRL")
    whiten: bool = option(True, "put the advantages of a rollout on mean 0 and deviation 1")
    reward_clip: Positive | None = option(
        None,
        "hold the reward of each token, divergence included, between minus this and this",
        source="arXiv 2412.15838, official code: 50",
    )
    average: Literal["tokens", "responses"] = option(
        "tokens",
        "a step is the mean over its tokens, or over its responses of the mean over their tokens",
        source="responses: arXiv 2412.15838, official code",
    )
    baseline: Literal["none", "reference"] = option(
        "none",
        "learn from a reward as it is, or less that of one response of the start model to the same prompt, sampled before the "
        "training: prompts are then equally hard",
        source="reference: arXiv 2404.00934",
    )
    samples: Count = option(1, "responses sampled to every prompt", group="Method")
    prompts_per_step: Count = option(16, "prompts of one optimizer step", group="Method")
    updates: Count = option(4, "passes over a rollout", source="TRL", group="Method")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_in == "advantage":
            raise ValueError("kl_in: advantage is for methods without a value head, expected reward or loss")
        if self.epsilon >= 1:
            raise ValueError(f"epsilon: {self.epsilon} leaves no lower bound, expected a number below 1")


def token_rewards(rollout: Rollout, known: Known, constants: PpoOptions) -> Tensor:
    """[N] rewards: that of the response at its last token (0 where it does not count), and, where the divergence is in the reward,
    less `beta` times its estimate at each token; the sum held within `reward_clip`.
    """
    in_reward = constants.beta and constants.kl_in == "reward"
    apart = token_divergences(known, constants) if in_reward else []
    pieces = []
    for row, (ids, reward) in enumerate(
        zip(rollout.response_ids, rollout.rewards.flatten().nan_to_num(0.0), strict=True)
    ):
        piece = torch.zeros(len(ids), dtype=torch.float64)
        piece[-1] = reward
        if in_reward:
            piece -= constants.beta * apart[row]
        pieces.append(piece)
    rewards = torch.cat(pieces)
    if constants.reward_clip is not None:
        rewards = rewards.clamp(-constants.reward_clip, constants.reward_clip)
    return rewards


def ppo_steps(rollout: Rollout, known: Known, constants: PpoOptions, cut: Cut) -> list[Step]:
    """Every token has an advantage of its own; a step is the mean over the tokens of its responses that count, or with `average:
    responses` the mean over these responses of the mean over their tokens.
    """
    assert known.values is not None
    lengths = torch.tensor([len(one) for one in rollout.response_ids])
    advantages, returns = pg.generalised_advantages(
        token_rewards(rollout, known, constants),
        torch.cat(known.values).double(),
        lengths,
        discount=constants.discount,
        trace=constants.trace,
    )
    counted = ~rollout.rewards.flatten().isnan()
    if constants.whiten:
        kept = pg.per_token(counted, lengths)
        advantages[kept] = pg.whiten(advantages[kept])
    n = rollout.rewards.shape[1]
    made = []
    for prompts in split_prompts(len(rollout.ids), cut.minibatches):
        mine = torch.zeros_like(counted)
        mine[prompts.start * n : prompts.stop * n] = True
        weights = pg.response_weights(
            lengths, counted & mine, "dapo" if constants.average == "tokens" else "grpo"
        )
        units = [[row] for row in (counted & mine).nonzero().flatten().tolist()]
        parts = make_parts(
            rollout, known, units, weights, cut,
            advantages=torch.split(advantages, lengths.tolist()),
            returns=torch.split(returns, lengths.tolist()),
        )  # fmt: skip
        made.append(Step(parts))
    return made


def ppo(policy: ResponseLogps, part: Part, constants: PpoOptions) -> tuple[Tensor, Metrics]:
    """PPO: Schulman et al. 2017 (arXiv 1707.06347), equations 7 and 9, with advantages of arXiv 1506.02438, equation 16.

    The clipped surrogate of each token plus `value_weight` times the clipped squared error of the value head.
    """
    assert part.predicted is not None
    assert part.values is not None
    assert part.returns is not None
    logps, lengths = policy.token_logps, policy.lengths
    ratios = (logps - (logps.detach() if part.old is None else part.old)).exp()
    losses, clipped = pg.clipped_surrogate(
        ratios, part.advantages.to(logps.dtype), low=constants.epsilon, high=constants.epsilon_high
    )
    if constants.beta and constants.kl_in == "loss":
        losses = losses + constants.beta * loss_divergences(policy, part, constants)
    returns = part.returns.to(logps.dtype)
    errors = pg.clipped_value_loss(part.predicted, part.values.to(logps.dtype), returns, constants.value_clip)
    weights = pg.per_token(part.weights, lengths).to(logps.dtype)
    total = ((losses + constants.value_weight * errors) * weights).sum()
    said = {
        "clip/fraction": clipped.float(),
        "value/loss": errors.detach(),
        "value/mean": part.predicted.detach(),
        "value/return": returns,
    }
    return total, {**common_metrics(policy, part), **said}


PPO = OnlineMethod(
    name="ppo",
    constants=PpoOptions,
    steps=ppo_steps,
    loss=ppo,
    needs_old=lambda constants, steps: True,
    needs_reference=lambda constants: constants.beta > 0,
    equation=r"-\frac1{\sum_i|y_i|}\sum_{i,t}\min\bigl(\rho_{i,t}A_{i,t},\;\mathrm{clip}(\rho_{i,t},1-\epsilon,1+\epsilon)A_{i,t}\bigr)"
    r"+c\,(V_{i,t}-G_{i,t})^2,\qquad A_{i,t}=\textstyle\sum_{l\ge0}(\gamma\lambda)^l\delta_{i,t+l}",
    when="one sample a prompt, and credit for single tokens: a value head takes the place of the group",
    value_head=True,
)
