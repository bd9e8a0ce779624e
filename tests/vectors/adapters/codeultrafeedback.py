"""CodeUltraFeedback: the official parser, pairs of ratings, the benchmark's score and grade, DPO."""

from __future__ import annotations

from typing import Any

from coalign.curation.code.benchmark import preference_scores
from coalign.curation.code.feedback import extremes
from coalign.judging.asked.list_ratings import read_labelled_rating, read_list_ratings
from coalign.training.losses.pairwise import dpo_loss
from tests.vectors.given import Given

NOT_RATED = "N/A"


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "parse_annotation":
            read = read_list_ratings(inputs["text"], 4, layout="blocks")
            ratings = [NOT_RATED if one is None else str(one) for one in read.ratings]
            return {"ratings": ratings, "rationales": [*read.rationales], "error": None}
        case "binarize":
            ratings = [None if one == NOT_RATED else float(one) for one in inputs["ratings"]]
            best, worst = extremes(ratings) or ([], [])
            models = inputs["models"]
            return {
                "chosen_candidates": [models[place] for place in best],
                "rejected_candidates": [models[place] for place in worst],
                "rating_chosen": ratings[best[0]],
                "rating_rejected": ratings[worst[0]],
            }
        case "codal_score":
            ratings = [None if one == NOT_RATED else float(one) for one in inputs["ratings"]]
            names = [str(place // params["per_preference"]) for place in range(len(ratings))]
            means, average = preference_scores(ratings, names, missing="zero")
            return {"per_preference": [*means.values()], "average": average}
        case "parse_single_rating":
            rating = read_labelled_rating(inputs["text"])
            return {"rating": NOT_RATED if rating is None else rating}
    policy = inputs.tensors("policy_chosen", "policy_rejected")
    losses = dpo_loss(*policy, *inputs.tensors("ref_chosen", "ref_rejected"), beta=params["beta"])
    return {"losses": losses, "loss_per_pair": losses}
