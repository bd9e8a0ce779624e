"""Pairwise and ranked losses, the aggregator, the last token, the router, labels that agree with themselves."""

from __future__ import annotations

from typing import Any

import torch

from coalign.models.scoring.sequence_states import last_attended
from coalign.rewards.dmoerm import aggregate_experts
from coalign.rewards.mixture.labels import consistent_label
from coalign.training.losses.bradley_terry import bradley_terry_losses, ranking_loss
from coalign.training.losses.listwise import ordered_pairs, ranking_accuracies
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "pairwise_loss":
            chosen, rejected = (_tensor(inputs[name]).requires_grad_() for name in ("chosen", "rejected"))
            losses = bradley_terry_losses(chosen, rejected)
            grads = torch.autograd.grad(losses.sum(), [chosen, rejected])
            return {"loss": losses, "grad_chosen": grads[0], "grad_rejected": grads[1]}
        case "ranked_group":
            rewards, values = _tensor(inputs["rewards"]).requires_grad_(), -_tensor(inputs["rank"])
            index = torch.zeros(len(values), dtype=torch.long)
            loss = ranking_loss(rewards, values, index)
            return {
                "loss": loss,
                "pairs": len(ordered_pairs(values, index)[0]),
                "grad_rewards": torch.autograd.grad(loss, rewards)[0],
                "agreement": ranking_accuracies(rewards.detach(), values, index).nan_to_num(0.0)[0],
            }
        case "aggregate_experts":
            names = ("expert_states", "w1", "b1", "w2", "b2", "prelu_slope")
            return {"reward": aggregate_experts(*(_tensor(inputs[name]) for name in names))}
        case "last_index":
            return {"index": last_attended(torch.tensor(inputs["attention_mask"]))}
        case "router":
            logits, labels = _tensor(inputs["logits"]).requires_grad_(), torch.tensor(inputs["labels"])
            loss = torch.nn.functional.cross_entropy(logits, labels)
            probs = logits.softmax(-1)
            return {
                "probs": probs,
                "choice": probs.argmax(-1),
                "loss": loss,
                "grad_logits": torch.autograd.grad(loss, logits, retain_graph=True)[0],
                "double_softmax_loss_of_official_code": torch.nn.functional.cross_entropy(probs, labels),
            }
        case "consistent_label":
            return {"rank": consistent_label(inputs["answer_original_order"], inputs["answer_swapped_order"])}
        case other:
            raise ValueError(f"op {other!r}")


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
