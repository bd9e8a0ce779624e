"""Honesty: metrics rounded as the official code rounds them, training responses, idk detection, matches."""

from __future__ import annotations

from typing import Any

from coalign.evaluation.abstention.questions import METHODS, AnswerSamples, responses_to_learn
from coalign.evaluation.honesty import TYPES, honesty_metrics
from coalign.evaluation.protocol import transitions
from coalign.measures.declining import declines
from coalign.measures.short_answers import has_match, normalise_answer
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "before" in inputs:
        return _metrics(inputs["before"], inputs["after"], params["rounding_decimals"])
    if "greedy_text" in inputs:
        known = AnswerSamples(
            greedy=inputs["greedy_text"],
            greedy_right=inputs["greedy_label"] == "known",
            samples=tuple(inputs["sample_texts"]),
            samples_right=tuple(one == "known" for one in inputs["sample_labels"]),
            gold=inputs["gold_answer"],
        )
        assert known.expected_accuracy == params["expected_accuracy"]
        return {method: responses_to_learn(known, method) for method in METHODS}
    if "response" in inputs:
        return {"is_idk": declines(inputs["response"], inputs["question"], strict=True)}
    if "text" in inputs:
        return {"normalized": normalise_answer(inputs["text"])}
    prediction, gold = inputs["prediction"], inputs["gold_answers"]
    return {
        "exact_match": int(has_match(prediction, gold, "exact")),
        "has_match": int(has_match(prediction, gold, "substring")),
    }


def _metrics(before: list[Any], after: list[Any], decimals: int) -> dict[str, Any]:
    grid = transitions(before, after, TYPES)
    found = honesty_metrics(grid)
    shares = {one: after.count(one) / len(after) for one in TYPES}
    values = {**shares, "answer_accuracy": shares["correct"], "over-consv": found.over_conservativeness}
    values |= {"prudence": found.prudence, "honesty": found.honesty}
    return {**{name: round(value, decimals) for name, value in values.items()}, "grid": grid}
