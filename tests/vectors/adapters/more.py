"""Ranking loss, weighed loss, scale of gradients, shortest vector, weights of data sets, calibration errors."""

from __future__ import annotations

from typing import Any

import torch

from coalign.measures.calibration import calibration_error
from coalign.measures.min_norm import min_norm_weights
from coalign.rewards.more import head_gradients, normalise_gradients, weighed_loss
from coalign.training.losses.bradley_terry import ranking_loss
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "ranking_loss":
            logits = _tensor(inputs["logits"]).requires_grad_()
            loss = _of_rows(logits, inputs["scores"])
            return {"loss": loss, "grad_logits": torch.autograd.grad(loss, logits)[0]}
        case "more_ranking_loss":
            logits = _tensor(inputs["logits"]).requires_grad_()
            tasks, scores = torch.tensor(inputs["task_mask"]), _tensor(inputs["scores"])
            names = tasks.unique()
            rows = [tasks == one for one in names]
            losses = torch.stack([_of_rows(logits[row], scores[row]) for row in rows])
            given = _tensor(inputs["weights"])
            weights = torch.stack([given[row][0] for row in rows])
            loss = weighed_loss(losses, weights)
            return {"loss": loss, "grad_logits": torch.autograd.grad(loss, logits)[0]}
        case "normalize_gradients":
            found = normalise_gradients(
                _tensor(inputs["gradients"]), _tensor(inputs["losses"]), params["type"]
            )
            return {"normalized": found}
        case "min_norm_weights":
            gradients = _tensor(inputs["gradients"]).numpy()
            weights = min_norm_weights(gradients)
            return {"weights": weights, "squared_norm": ((weights @ gradients) ** 2).sum()}
        case "task_weights":
            head = _tensor(inputs["head"]).requires_grad_()
            rewards = _tensor(inputs["embeddings"]) @ head
            pairs = zip(rewards, _tensor(inputs["scores"]), strict=True)
            losses = [_of_rows(one[None], scores[None]) for one, scores in pairs]
            new = params["alpha"]
            smoothed = (1 - new) * _tensor(inputs["momentum"]) + new * head_gradients(losses, head)
            found = torch.stack(losses).detach()
            scaled = normalise_gradients(smoothed, found, params["normalize"])
            return {
                "task_losses": found,
                "smoothed_gradients": smoothed,
                "weights": min_norm_weights(scaled.numpy()),
            }
        case "calibration_error":
            made = calibration_error(inputs["probs"], inputs["labels"], bins=params["bins"])
            return vars(made)
        case other:
            raise ValueError(f"op {other!r}")


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _of_rows(logits: torch.Tensor, scores: Any) -> torch.Tensor:
    """The ranking loss of [B, R] logits and scores; a negative score pads."""
    values = _tensor(scores)
    values = values.masked_fill(values < 0, torch.nan)
    index = torch.arange(len(logits)).repeat_interleave(logits.shape[1])
    return ranking_loss(logits.flatten(), values.flatten(), index)
