"""The loss over ranked captions with ties, and the cut at a share of the scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from coalign.loops.steps.choices import Top
from coalign.training.losses.bradley_terry import ranking_losses
from coalign.training.losses.listwise import pair_accuracy
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match inputs["kind"]:
        case "reward_pairwise":
            sizes = list(map(len, inputs["scores"]))
            rewards = torch.tensor(
                [one for each in inputs["scores"] for one in each], dtype=torch.float64, requires_grad=True
            )
            values = -torch.tensor([one for each in inputs["ranks"] for one in each], dtype=torch.float64)
            index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
            sums, pairs = ranking_losses(rewards, values, index)
            kept = pairs > 0
            loss = (sums[kept] / pairs[kept]).mean()
            (gradient,) = torch.autograd.grad(loss, rewards)
            losses = (sums / pairs).tolist()
            return {
                "num_pairs": pairs.tolist(),
                "per_group_loss": [None if math.isnan(one) else one for one in losses],
                "loss_mean_over_groups": loss,
                "loss_mean_over_pairs": sums.sum() / pairs.sum(),
                "pair_accuracy": pair_accuracy(rewards.detach(), values, index),
                "grad_scores_mean_over_groups": [one.tolist() for one in gradient.split(sizes)],
            }
        case "select_top":
            top = Top("top", "score", share=params["fraction"], rounding="down")
            return {"kept": list(top.choose(np.array(inputs["scores"])).groups)}
        case other:
            raise ValueError(f"kind {other!r}")
