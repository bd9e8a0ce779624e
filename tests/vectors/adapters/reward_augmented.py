"""Reward-augmented data: relabelled rows, goal rewards, and DPO with label smoothing.

The `official_nosys_as_is` cases keep a documented defect of the official script, which does not swap the responses of
the second row. The library follows the paper's rule; the adapter puts the defect on top of it to show the difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coalign.data.records import Preference
from coalign.preference.data.goal_conditioning import goal_reward, relabel_pair
from coalign.training.losses.pairwise import dpo_loss
from tests.vectors.autograd import gradients_of, tensors

POLICY = ("policy_chosen_logps", "policy_rejected_logps")


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    if "prompt" in inputs:
        return {"rows": _rows(inputs, params)}
    if "goal" in inputs:
        given = tensors(inputs)
        return {"goal_reward": goal_reward(given["score"], given["goal"])}
    given = tensors(inputs, gradients=POLICY)
    losses = dpo_loss(
        *(given[name] for name in POLICY),
        given["ref_chosen_logps"],
        given["ref_rejected_logps"],
        beta=params["beta"],
        label_smoothing=params["label_smoothing"],
    )
    return {"losses": losses, "loss": losses.mean(), **gradients_of(losses.mean(), given, expected)}


def _rows(inputs: dict[str, Any], params: dict[str, Any]) -> list[dict[str, Any]]:
    pair = Preference(
        prompt=[{"role": "user", "content": inputs["prompt"]}],
        chosen=inputs["chosen"],
        rejected=inputs["rejected"],
        chosen_score=inputs["score_chosen"],
        rejected_score=inputs["score_rejected"],
    )
    placement = "system" if params["template"] == "system" else "user"
    rows = [_row(one) for one in relabel_pair(pair, placement=placement)]
    if "defect" in params.get("expect", ""):
        rows[1]["preferred"], rows[1]["dispreferred"] = rows[1]["dispreferred"], rows[1]["preferred"]
    return rows


def _row(row: Preference) -> dict[str, Any]:
    first = row.prompt[0]
    return {
        "goal_shown": first["content"].split("\n\n")[0].rsplit(" ", 1)[1],
        "system_first": first["role"] == "system",
        "preferred": row.chosen,
        "dispreferred": row.rejected,
    }
