"""VIF-RAG: the 22 rules, benchmark scores, cross-validated programs (in the sandbox), mean scores of replies."""

from __future__ import annotations

from typing import Any

from coalign.core.processes.sandbox import SandboxOptions
from coalign.curation.instructions.benchmark import Scored, benchmark_scores
from coalign.curation.instructions.execution import sandboxed
from coalign.curation.instructions.rules import mean_score
from coalign.curation.instructions.written import cross_validate
from coalign.judging.verifiers.following import follow, parse_instruction, parse_instructions
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "check":
            rule = parse_instruction(params["instruction_id"], params["kwargs"])
            found = [follow([rule], "", one) for one in inputs["responses"]]
            return {"strict": [one.strict[0] for one in found], "loose": [one.loose[0] for one in found]}
        case "benchmark_score":
            return {"scores": benchmark_scores([_scored(row) for row in inputs["data"]])}
        case "cross_validate":
            return _cross_validated(inputs["raw_replies"], params)
        case _:
            means = [mean_score(one) or 0.0 for one in inputs["replies"]]
            return {"result": [{"mean": one, "kept": one > params["threshold"]} for one in means]}


def _scored(row: dict[str, Any]) -> Scored:
    rules = parse_instructions(row["instruction_id_list"], row["kwargs"])
    return Scored(row["type"], follow(rules, "", row["response"]))


def _cross_validated(replies: list[str], params: dict[str, Any]) -> dict[str, Any]:
    found = cross_validate(
        replies,
        sandboxed(SandboxOptions(), 5.0),
        min_functions=params["min_functions"],
        min_cases=params["min_cases"],
        min_accuracy=params["accuracy_threshold"],
    )
    if found.reason:
        return {"kept": False}
    return {
        "kept": True,
        "n_functions": len(found.functions),
        "function_accuracy": dict(found.functions),
        "kept_cases": sorted(map(list, found.cases)),
    }
