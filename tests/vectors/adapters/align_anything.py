"""The loss of pairs on the official slice of each row, that of reward models, a step of PPO, the all-modality score."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coalign.measures.media.modalities import all_modality_score, all_modality_terms
from coalign.training.losses import policy_gradient as pg
from coalign.training.losses.bradley_terry import bradley_terry_losses
from coalign.training.losses.pairs import reward_metrics
from coalign.training.losses.pairwise import dpo_loss
from coalign.training.online.policy_gradient import Known, Rollout
from coalign.training.online.ppo import PpoOptions, token_rewards
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["function"]:
        case "dpo_loss":
            return _dpo(inputs, params["beta"])
        case "reward_model_loss":
            better, worse = inputs.tensors("chosen_rewards", "rejected_rewards")
            # The official term is a mean over all 2B rewards, ours a sum over both of a pair.
            losses = bradley_terry_losses(better, worse, reward_l2=params["regularization"] / 2)
            return {"losses": losses, "accuracy": (better > worse).float().mean()}
        case "ppo_step":
            return _ppo(inputs, params)
        case _:
            given = [inputs[one] for one in ("instruction_scores", "synergy_scores", "selection_votes")]
            how = {"all_three": inputs["outputs_all_three"]}
            return {"terms": all_modality_terms(*given, **how), "score": all_modality_score(*given, **how)}


def _dpo(inputs: Given, beta: float) -> dict[str, Any]:
    """The official code takes the last n tokens of a row and leaves out the first of them, whatever is there."""
    ids, lengths = torch.tensor(inputs["input_ids"]), inputs["response_lens"]
    half, width = len(ids) // 2, max(lengths) - 1

    def sliced(logits: Tensor) -> Tensor:
        rows = []
        for row, count in enumerate(lengths):
            logps = logits[row, -count:].log_softmax(-1)[:-1]
            kept = logps.gather(-1, ids[row, -count:][1:, None])[:, 0]
            rows.append(torch.nn.functional.pad(kept, (0, width - len(kept))))
        return torch.stack(rows)

    policy, reference = map(sliced, inputs.tensors("policy_logits", "reference_logits"))
    sums, frozen = policy.sum(1), reference.sum(1)
    losses = dpo_loss(sums[:half], sums[half:], frozen[:half], frozen[half:], beta=beta)
    rewards = beta * (sums - frozen)
    told = reward_metrics(rewards[:half], rewards[half:])
    return {
        "losses": losses,
        "token_log_probs": policy,
        "reward_margin": told["rewards/margins"],
        "better_sample_reward": told["rewards/chosen"],
        "worse_sample_reward": told["rewards/rejected"],
        "reward_accuracy": told["rewards/accuracies"].mean(),
    }


def _ppo(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    names = ("log_probs", "old_log_probs", "ref_log_probs", "values", "old_values", "sequence_mask")
    policy, old, reference, values, old_values, mask = inputs.tensors(*names)
    start, width = inputs["start"], policy.shape[1]
    ends = (mask * torch.arange(1, width + 1)).argmax(1) + 1
    constants = PpoOptions(
        beta=params["kl_coeff"],
        discount=params["gamma"],
        trace=params["gae_lambda"],
        epsilon=params["clip_range_ratio"],
        value_clip=params["clip_range_value"],
        reward_clip=params["clip_range_score"],
        whiten=False,
        average="responses",
    )

    def shaped(reward: Tensor, until: Tensor) -> list[Tensor]:
        cut = [range(int(one)) for one in until]
        rollout = Rollout([""] * len(cut), [], [list(one) for one in cut], reward[:, None])
        known = Known(
            old=tuple(one[: len(each)] for one, each in zip(old, cut, strict=True)),
            reference=tuple(one[: len(each)] for one, each in zip(reference, cut, strict=True)),
        )
        found = token_rewards(rollout, known, constants)
        return list(torch.split(found, [len(one) for one in cut]))

    reward = inputs.tensor("reward")
    whole = shaped(torch.full_like(reward, torch.nan), torch.full((len(reward),), width))
    rewards = torch.stack(
        [torch.cat([one, more[len(one) :]]) for one, more in zip(shaped(reward, ends), whole, strict=True)]
    )
    lengths = ends - start
    picked = [
        torch.cat([one[row, start : int(ends[row])] for row in range(len(ends))])
        for one in (rewards, old_values, policy, old, values)
    ]
    advantages, returns = pg.generalised_advantages(
        picked[0], picked[1], lengths, discount=constants.discount, trace=constants.trace
    )
    weights = pg.response_weights(lengths, torch.ones_like(lengths, dtype=torch.bool), "grpo")
    each = pg.per_token(weights, lengths)
    surrogate, _ = pg.clipped_surrogate((picked[2] - picked[3]).exp(), advantages, low=constants.epsilon)
    errors = pg.clipped_value_loss(picked[4], picked[1], returns, constants.value_clip)
    actor, critic = (surrogate * each).sum(), (errors * each).sum()

    def padded(flat: Tensor) -> Tensor:
        rows = torch.split(flat, lengths.tolist())
        return torch.stack([torch.nn.functional.pad(one, (0, width - start - len(one))) for one in rows])

    return {
        "shaped_rewards": rewards,
        "advantages": padded(advantages),
        "returns": padded(returns),
        "actor_loss": actor,
        "critic_loss": critic,
        "grad_log_probs": torch.autograd.grad(actor, policy)[0],
        "grad_values": torch.autograd.grad(critic, values)[0],
    }
