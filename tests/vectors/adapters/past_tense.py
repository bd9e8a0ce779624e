"""Rates after k attempts, the official rule judge and the reading of ratings."""

from __future__ import annotations

from typing import Any

from coalign.judging.refused_requests import RuleJudge, read_rating
from coalign.measures.attack_success import attempts_used, first_success, single_attempt_rate, success_curve
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "response" in inputs:
        return {"rule_based_non_refusal": RuleJudge("rules_gcg").verdicts([""], [inputs["response"]])[0]}
    if "judge_text" in inputs:
        assert params["success_rating"] == 10
        return {"success": bool(read_rating(inputs["judge_text"]))}
    rows = [[bool(one) for one in row] for row in inputs["success_by_request_and_attempt"]]
    return {
        "asr_at_k_percent": [100 * one.mean for one in success_curve(rows, params["max_attempts"])],
        "first_success_index": [first_success(row) for row in rows],
        "attempts_used_with_early_stop": [attempts_used(row) for row in rows],
        "mean_single_attempt_rate_percent": 100 * single_attempt_rate(rows),
    }
