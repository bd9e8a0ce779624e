"""RAG-RewardBench: accuracies of rewards and of judges in both orders, the judges' filter, implicit rewards, correlation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from coalign.evaluation.rag_rewardbench import pair_accuracy
from coalign.evaluation.retrieval.labelling import judge_filter
from coalign.evaluation.retrieval.preferring import generative_accuracy, preference_credits
from coalign.measures.detection import pearson
from coalign.models.implicit_reward import SequenceLogps
from tests.vectors.given import Given

PLACES = {"A": "first", "B": "second", "tie": "tie"}


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "pair_accuracy":
            pairs = zip(inputs["chosen_scores"], inputs["rejected_scores"], strict=True)
            credits = preference_credits([one - other for one, other in pairs], "half")
            return asdict(pair_accuracy(credits, inputs["subsets"], inputs["category_of_subset"]))
        case "generative_accuracy":
            orders = (
                [PLACES.get(one) for one in inputs[f"verdict_chosen_{place}"]]
                for place in ("first", "second")
            )
            found = generative_accuracy(*orders)
            n = len(found.credits)
            return {
                "average": sum(found.credits) / n,
                "strict": sum(found.strict) / n,
                "first_position_rate": found.first_position_rate,
            }
        case "judge_filter":
            limits = {name: params[name] for name in ("max_spread", "min_mean_gap")}
            return asdict(judge_filter(inputs["judge_scores"], **limits))
        case "implicit_reward":
            policy, reference = (
                SequenceLogps([inputs[name]], [inputs["lengths"]]) for name in ("policy_logp", "ref_logp")
            )
            (reward,), (mean,) = policy.rewards(reference, beta=params["beta"]), policy.means()
            return {"reward": reward, "reference_free": policy.sums[0], "length_normalised": mean}
        case op:
            assert op == "pearson"
            return {"r": pearson(inputs["x"], inputs["y"])}
