"""The search with lookahead over a first-order chain, and the weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coalign.decoding.search.lookahead import Beam, Candidate, Extension, SearchSettings, search
from coalign.judging.rewards.mix import combine_rewards
from tests.decoding.chain import Chain
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "rewards" in inputs:
        combined = combine_rewards(inputs["rewards"], params["weights"])
        return {"combined": combined, "argmax": combined.index(max(combined))}
    start, end = inputs["start_token"], inputs["eos_token"]
    keywords = params["heuristic_arg"] if params["heuristic"] == "keyword_coverage" else None

    def coverage(tokens: Sequence[int]) -> float | None:
        if keywords is None:
            return None
        return sum(one in tokens for one in keywords) / len(keywords) if keywords else 0.0

    def value(one: Extension) -> float:
        found = coverage(one.tokens)
        if found is not None:
            return found
        return float(sum(token != end for token in one.tokens) <= params["heuristic_arg"])

    steps: list[dict[str, Any]] = []

    def trace(prompt: int, step: int, candidates: list[Candidate], kept: list[Beam]) -> None:
        rows = [
            {
                "tokens": [start, *one.tokens],
                "lookahead": [start, *one.seen],
                "logp": one.logp,
                "score": one.score,
            }
            for one in candidates
        ]
        steps.append({"step": step, "candidates": rows, "kept": [[start, *one.tokens] for one in kept]})

    names = {"max_new_tokens": "max_steps", "candidates": "top_k", "beams": "beam", "weight": "lambda"}
    given = {name: params[key] for name, key in names.items()}
    settings = SearchSettings(lookahead=params["lookahead"], past_the_end=True, **given)
    best = search(
        Chain(inputs["transition_logits"]),
        [[start]],
        lambda extensions: [value(one) for one in extensions],
        lambda texts: [ids[-1] == end for ids in texts],
        settings,
        trace=trace,
    )[0][0]
    return {
        "best_tokens": [start, *best.tokens],
        "best_logp": sum(best.logps),
        "soft_coverage": coverage(best.tokens),
        "trace": steps,
    }
