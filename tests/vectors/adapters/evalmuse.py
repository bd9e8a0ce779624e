"""The fine-grained objective, element masks, PN-VQA, variances of prompts, agreement with people."""

from __future__ import annotations

from typing import Any

import torch

from coalign.measures.score_agreement import score_agreement
from coalign.vision.fine_grained.elements import element_accuracy, element_mask, mean_label, prompt_variances
from coalign.vision.fine_grained.losses import (
    contrasted,
    fine_grained_losses,
    match_probabilities,
    overall_scores,
)
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match inputs["kind"]:
        case "fga_loss":
            names = ("itm_logits", "pred_mask", "mask", "token_score", "score", "var")
            given, queries = inputs.tensors(*names), params["num_query"]
            constants = {
                "queries": queries,
                "token_weight": params["token_weight"],
                "mask_weight": params["mask_weight"],
            }
            probabilities = match_probabilities(given[0])
            weighted = fine_grained_losses(*given, **constants)
            return inputs.completed(
                {
                    "losses": fine_grained_losses(*given, **constants, variance_weight="none"),
                    "loss_variance_weighted": weighted.mean().detach(),
                    "overall_score": overall_scores(probabilities, queries).detach(),
                    "token_prob": probabilities[:, queries:].detach(),
                }
            )
        case "element_mask":
            masks = [
                element_mask(*one)
                for one in zip(
                    inputs["prompt_token_ids"],
                    inputs["element_token_ids"],
                    inputs["element_score"],
                    strict=True,
                )
            ]
            return {
                "kept": [not one.missing for one in masks],
                "mask": [None if one.missing else list(map(int, one.mask)) for one in masks],
                "token_score": [None if one.missing else one.scores for one in masks],
            }
        case "pn_vqa":
            found = contrasted(inputs.tensor("p_yes_positive"), inputs.tensor("p_yes_negative"))
            return {"element_score": found, "overall": torch.mean(found)}
        case "prompt_variance":
            means = [mean_label(one) for one in inputs["total_score"]]
            return {"mean_score": means, "var": prompt_variances(inputs["prompts"], means)}
        case "correlation":
            found = score_agreement(inputs["pred"], inputs["human"])
            return {
                "srcc": found.srcc, "krcc": found.krcc, "plcc_raw": found.plcc_raw,
                "plcc_after_logistic": found.plcc, "rmse": found.rmse, "rmse_raw": found.rmse,
            }  # fmt: skip
        case "element_accuracy":
            return {"accuracy": element_accuracy(inputs["pred"], inputs["human"], params["threshold"])}
        case other:
            raise ValueError(f"kind {other!r}")
