"""Which reply a turn of the user judges, the filter by the checklist in both orders, Cohen's kappa."""

from __future__ import annotations

from typing import Any

from coalign.curation.feedback.checklists import checklist_outcome
from coalign.curation.feedback.signals import Signal, locate
from coalign.judging.protocol import MIRRORED, Choice
from coalign.measures.agreement import cohen_kappa
from tests.vectors.given import Given

LETTERS: dict[str, Choice] = {"A": "first", "B": "second", "tie": "tie"}


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "turns" in inputs:
        return {"feedback": _located(inputs["turns"])}
    if "rater1" in inputs:
        return {"kappa": cohen_kappa(inputs["rater1"], inputs["rater2"]).mean}
    orders = zip(inputs["verdict_order1"], inputs["verdict_order2"], strict=True)
    result = [checklist_outcome([LETTERS[one], MIRRORED[LETTERS[other]]]) for one, other in orders]
    return {"result": result, "keep": [one == "win" for one in result]}


def _located(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    messages: Any = [
        {"role": role, "content": one[key]}
        for one in turns
        for role, key in (("user", "user"), ("assistant", "model"))
    ]
    found = locate(messages, [Signal(one["sat"], one["dsat"]) for one in turns])
    return [
        {
            "feedback_turn": one.turn,
            "polarity": one.polarity,
            "prompt_turns": [message["content"] for message in one.prompt],
            "judged_response": one.judged,
            "judged_role": "dispreferred" if one.polarity == "dsat" else "not used as dispreferred",
        }
        for one in found
    ]
