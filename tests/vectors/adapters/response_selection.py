"""Response selection: perplexity, IFD, hidden states, selection, CAR, spread, weighted correlation, the examples' window."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from coalign.curation.answer_styles import scores
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "perplexity":
            logps = inputs["answer_token_logprobs"]
            found = [scores.perplexity(one) for one in logps]
            sums = [math.fsum(one) for one in logps]
            return {
                "perplexity": found,
                "sequence_logprob": sums,
                "sequence_prob": [math.exp(one) for one in sums],
                "mean_perplexity": fmean(found),
            }
        case "ifd":
            both = zip(inputs["conditional_logprobs"], inputs["answer_only_logprobs"], strict=True)
            return {
                "ratio": [scores.ifd_ratio(-fmean(one), -fmean(other)) for one, other in both],
                "perplexity": [scores.perplexity(one) for one in inputs["conditional_logprobs"]],
            }
        case "hidden_similarity":
            pairs = zip(inputs["hidden_a"], inputs["hidden_b"], strict=True)
            layers = [scores.layer_similarities(one, other) for one, other in pairs]
            return {
                "last_layer_cosine": [one[-1] for one in layers],
                "mean_dissimilarity_all_layers": fmean(1 - one.mean() for one in layers),
            }
        case "diversity":
            values = {name: float(one) for name, one in inputs["accuracy"].items()}
            cv = scores.spread(values, ignore=params["ignore"])
            kept = [one for name, one in values.items() if name not in params["ignore"]]
            return {"cv": cv, "sd": cv * fmean(kept)}
        case "weighted_spearman":
            return {"value": scores.weighted_mean(inputs["rho"], inputs["weights"])}
        case "car":
            return {"car": scores.reward_per_loss(inputs["reward"], inputs["loss"], beta=params["beta"])}
        case "example_cycle":
            places = [
                scores.example_places(one, inputs["pool_size"], params["n_examples"], official=True)
                for one in range(inputs["n_questions"])
            ]
            return {"indices": places}
        case _:
            return _selection(inputs)


def _selection(inputs: Given) -> dict[str, Any]:
    found = scores.rank(inputs["scores"], "lower", scores.over_questions("mean"), resamples=1)
    rho, regret = scores.against_truth(found.scores, inputs["accuracy"], "lower")
    return {
        "mean_score": found.scores,
        "ranking": found.order,
        "chosen": found.chosen,
        "rank_min": [found.ranks()[name] for name in inputs["names"]],
        "spearman_neg_score_vs_accuracy": rho,
        "regret": regret,
    }
