"""The loss on pairs with scores, divergences over likely tokens, advantages of groups, rows of samples, merging, prompts."""

from __future__ import annotations

from typing import Any

import torch

from coalign.measures.anchors import anchor_quality
from coalign.measures.texts.templates import common_in_order, template_similarity
from coalign.models.merging.arithmetic import linear, model_stock, task_arithmetic
from coalign.models.scoring.packed_rows import checkpoint_cost, padded_utilisation, sequential_pack
from coalign.training.losses.bradley_terry import bradley_terry_losses
from coalign.training.losses.likely_tokens import divergences, likely_tokens
from coalign.training.losses.policy_gradient import group_advantages
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["function"]:
        case "reward_loss":
            known = torch.tensor(inputs["has_score"], dtype=torch.bool)
            scores = [
                torch.where(known, inputs.tensor(name), torch.nan)
                for name in ("chosen_scores", "rejected_scores")
            ]
            losses = bradley_terry_losses(
                *inputs.tensors("chosen_rewards", "rejected_rewards"), score_weight=params["alpha"], scores=(scores[0], scores[1])
            )  # fmt: skip
            return inputs.completed({"losses": losses, "per_pair": losses})
        case "top_k_kl":
            policy, reference, mask = inputs.tensors("policy_logits", "reference_logits", "mask")
            likely = likely_tokens(reference, params["k"])
            kl = divergences(policy, likely)
            mean = (kl * mask).sum() / mask.sum().clamp(min=1)
            return inputs.completed({"selected": likely.ids, "kl": kl, "mean": mean, "loss": mean})
        case "group_advantages":
            rewards = inputs.tensor("rewards")
            return {"advantages": group_advantages(rewards, scale="group", epsilon=params["epsilon"])}
        case "sequential_pack":
            found = sequential_pack(inputs["lengths"], params["capacity"])
            kept = [inputs["lengths"][place] for row in found.rows for place in row]
            return {
                "bins": [list(one) for one in found.rows],
                "cu_seqlens": [list(one) for one in found.boundaries],
                "position_ids": found.position_ids,
                "utilisation": found.utilisation,
                "padded_utilisation_batch_of_all": padded_utilisation(kept, max(len(kept), 1)),
            }
        case "checkpoint_cost":
            layers, stored = inputs["num_layers"], inputs["activations_per_layer"]
            cost = checkpoint_cost(inputs["hidden_size"], stored, layers)
            return {
                "cost": cost,
                "best_k": cost.index(min(cost)) + 1,
                "continuous_k": (layers / stored) ** 0.5,
            }
        case "merge":
            base, models = inputs.tensor("base"), list(inputs.tensor("models"))
            stock = model_stock(base, models)
            return {
                "linear": linear(models, params["weights"]),
                "task_arithmetic": task_arithmetic(base, models, [1.0] * len(models), params["lambda"]),
                "cos_theta": stock.cosine,
                "t": stock.share,
                "model_stock": stock.weights,
            }
        case "prompt_quality":
            return {"score": anchor_quality(inputs["votes"], tie_credit=params["tie_credit"])}
        case "lcs_template_similarity":
            given = inputs["a"], inputs["b"]
            return {"lcs": common_in_order(*given), "similarity": template_similarity(*given)}
        case other:
            raise ValueError(f"function {other!r}")
