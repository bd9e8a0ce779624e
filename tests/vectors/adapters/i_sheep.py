"""I-SHEEP: scores of graders, the threshold, rules against answers, parsing of tasks, weights of seeds."""

from __future__ import annotations

from typing import Any

from coalign.loops.pipeline import Kept
from coalign.selfalign.i_sheep import inverse_perplexity_weights
from coalign.selfalign.synthesis.grading import above, read_score
from coalign.selfalign.synthesis.rules import broken_rule
from coalign.selfalign.synthesis.tasks import parse_tasks
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "judge_text" in inputs:
        scores = [read_score(one, params["lo"], params["hi"]) for one in inputs["judge_text"]]
        return {"score_or_minus1": [-1 if one is None else one for one in scores]}
    if "quality_score" in inputs:
        pairs = zip(inputs["quality_score"], inputs["following_score"], strict=True)
        rows = [{"quality_score": one, "following_score": other} for one, other in pairs]
        quality, following = above(params["threshold"])
        decided = zip(quality(rows), following(rows), strict=True)
        return {"keep": [isinstance(one, Kept) and isinstance(other, Kept) for (one,), (other,) in decided]}
    if "rows" in inputs:
        return {"keep": [not broken_rule(row) for row in inputs["rows"]]}
    if "completion" in inputs:
        tasks = parse_tasks(inputs["completion"], inputs["num_prompt_instructions"])
        return {"instructions": [{**task, "output": ""} for task, why in tasks if not why]}
    return {"weights": inverse_perplexity_weights(inputs["ppl"], inputs["used"])}
