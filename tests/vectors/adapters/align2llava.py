"""Losses of ranked groups, the two stages over single answers, the choice of a review."""

from __future__ import annotations

from typing import Any

import torch

from coalign.curation.visual_instructions.selection import rewriting_wins, two_stages
from coalign.judging.protocol import Opinion, PairVerdict
from coalign.training.losses.bradley_terry import ranking_losses
from coalign.training.losses.listwise import pair_accuracy
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match inputs["kind"]:
        case "reward_pairwise":
            return _losses(inputs["scores"], inputs["ranks"])
        case "two_stage_filter":
            first, second = two_stages(
                inputs["question_scores"], inputs["answer_scores"], params["alpha"], params["beta"]
            )
            return {"stage1": first, "stage2": [list(one) for one in second]}
        case kind:
            assert kind == "review_choice"
            shown = zip(
                inputs["prefer_first_when_original_first"],
                inputs["prefer_first_when_rewrite_first"],
                strict=True,
            )
            return {"keep_rewrite": [rewriting_wins(_verdict(*one)) for one in shown]}


def _losses(scores: list[list[float]], ranks: list[list[int]]) -> dict[str, Any]:
    flat = torch.tensor([one for group in scores for one in group], dtype=torch.float64, requires_grad=True)
    values = -torch.tensor([one for group in ranks for one in group], dtype=torch.float64)
    index = torch.tensor([place for place, group in enumerate(scores) for _ in group])
    sums, pairs = ranking_losses(flat, values, index)
    told = pairs > 0
    by_groups = (sums / pairs)[told].mean()
    (slopes,) = torch.autograd.grad(by_groups, flat, retain_graph=True)
    return {
        "num_pairs": pairs,
        "per_group_loss": [
            one / count if count else None for one, count in zip(sums.tolist(), pairs.tolist(), strict=True)
        ],
        "loss_mean_over_groups": by_groups,
        "loss_mean_over_pairs": sums.sum() / pairs.sum(),
        "pair_accuracy": pair_accuracy(flat.detach(), values, index),
        "grad_scores_mean_over_groups": [one.tolist() for one in slopes.split(list(map(len, scores)))],
    }


def _verdict(original_first: bool, rewriting_first: bool) -> PairVerdict:
    """Of (original, rewriting), shown in this order and in the other."""
    choices = ("first" if original_first else "second", "second" if rewriting_first else "first")
    return PairVerdict(id="", opinions=(Opinion(choice=choices[0]), Opinion(choice=choices[1], swapped=True)))
