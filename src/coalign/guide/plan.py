"""A project in three steps: data, training, evaluation, after the map of the process.

Nodes follow from the situation, systems from the nodes: primary ones before those that are also there, at most three a
step. Where a node has no system that fits, a method of no one paper stands in, or the step says that nothing covers it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from coalign.guide.advice import Advice, Advised, advise, as_row, filled
from coalign.guide.situation import Situation
from coalign.guide.taxonomy import taxonomy

MOST = 3
BUILT_IN = {
    "B.2.1": ("supervised fine-tuning", "coalign run sft --data {data} --model {model}"),
    "B.2.3.1": ("DPO", "coalign run dpo --data {data} --model {model}"),
    "B.2.2": ("GRPO on a reward", "coalign run grpo --prompts {data} --reward REWARD --model {model}"),
    "B.3.4": ("people judge pairs, blind", "coalign annotate RESPONSES"),
    "B.3.3": ("a judge compares two models, both orders", "coalign judge RESPONSES"),
}
"""Node to a method of no one paper: in words, and its command."""
COMPARED = {"preferences", "rankings", "feedback", "bad", "judgments", "conversations"}
GATHERED = {"demonstrations", "texts", "responses"}


@dataclass(frozen=True)
class Step:
    """A step of the plan.

    Attributes:
        nodes: of the process map, with the reason for each.
        systems: that fit, from these nodes.
        built_in: (words, command) of methods of no one paper.
        left_out: other systems of the nodes, and why they do not fit.
        notes: what goes with any of them.
    """

    name: str
    nodes: dict[str, str]
    systems: list[Advice]
    built_in: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def plan(situation: Situation, *, data: str = "DATA") -> list[Step]:
    """Data, training and evaluation for a situation."""
    advised, anything = advise(situation, data=data), advise(replace(situation, goal=[]), data=data)
    steps = [
        _step("Data", _data_nodes(situation), "B.1", advised, anything, situation, data),
        _step("Training", _training_nodes(situation), "B.2", advised, anything, situation, data),
        _step("Evaluation", _evaluation_nodes(situation), "B.3", advised, anything, situation, data),
    ]
    if situation.budget != "cluster" and situation.access == "weights":
        steps[1].notes.append("B.2.4: train an adapter of few weights (the default of every training here)")
    if situation.risk == "high":
        steps[2].notes.append(
            "The stakes are high: let people judge a part, blind, and say how far they agree with the judge"
        )
    return steps


def _data_nodes(situation: Situation) -> dict[str, str]:
    have, nodes = {*situation.have}, {}
    if have & COMPARED:
        nodes["B.1.1.4"] = "what people preferred is there"
    if situation.strong:
        nodes["B.1.2"] = "a stronger model can write data"
    if have & GATHERED:
        nodes["B.1.3"] = "there are instructions: choose among them first"
    return nodes or {"B.5": "there is nothing to learn from: decode otherwise, train nothing"}


def _training_nodes(situation: Situation) -> dict[str, str]:
    if situation.access != "weights":
        return {"B.5": "the weights cannot be trained"}
    have, nodes = {*situation.have}, {}
    if have & {"preferences", "rankings", "feedback", "bad", "conversations"}:
        nodes["B.2.3.1"] = "pairs, rankings, or good and bad responses"
    if "judgments" in have:
        nodes["B.2.3.2"] = "critiques in words"
    if situation.reward and situation.budget != "cpu":
        nodes["B.2.2"] = "a reward, and time to sample"
    if have & {"demonstrations", "responses", "texts"}:
        nodes["B.2.1"] = "texts to imitate"
    if situation.strong and not situation.people and "B.2.3.1" not in nodes:
        nodes["B.2.3.1"] = "a judge can rank the model's own responses"
    return nodes or {"B.2.3.1": "the model's own responses, ranked by rules or by itself"}


def _evaluation_nodes(situation: Situation) -> dict[str, str]:
    nodes = {
        "B.3.2": "a closed set of fixed answers",
        "B.3.3": "an open set of free answers",
        "B.3.5.1": "a judge whose order bias is controlled",
        "B.3.5": "judges instead of people",
    }
    if situation.people or situation.risk == "high":
        nodes["B.3.4"] = "people, where the stakes are high"
    return nodes


def _step(
    name: str,
    nodes: dict[str, str],
    root: str,
    advised: Advised,
    anything: Advised,
    situation: Situation,
    data: str,
) -> Step:
    tree = taxonomy("process")
    under = [one for one in tree.nodes for top in nodes if one.id == top or one.id.startswith(f"{top}.")]
    primary = {slug for one in under for slug in one.primary}
    also = {slug for one in under for slug in one.also} - primary
    below_root = {slug for one in tree.nodes if one.id.startswith(root) for slug in one.systems}
    wanted = [one for one in advised.systems if situation.goal and one.slug in below_root]
    fitting = anything.systems if name != "Evaluation" else _evaluators(situation)
    found = [one for part in (primary, also) for one in fitting if one.slug in part]
    if name == "Evaluation":  # one of each kind
        firsts = [next((one for one in found if one.slug in tree.node(node).systems), None) for node in nodes]
        found = [*(one for one in firsts if one is not None), *found]
    chosen = list({one.slug: one for one in [*wanted, *found] if one.runs}.values())[:MOST]
    why, named = {**advised.left_out, **anything.left_out}, {one.slug for one in chosen}
    left_out = {slug: why[slug] for slug in sorted(primary | also) if slug in why and slug not in named}
    built_in = [
        (words, filled(command, data, situation.model))
        for node, (words, command) in BUILT_IN.items()
        if node in nodes
    ]
    return Step(name, nodes, chosen, built_in, left_out)


def _evaluators(situation: Situation) -> list[Advice]:
    """Systems that measure need no data beforehand: responses come out of training."""
    return advise(replace(situation, goal=[], have=[]), data="RESPONSES").systems


def as_rows(steps: list[Step]) -> list[dict[str, Any]]:
    """A plan as JSON."""
    return [
        {
            "step": one.name,
            "nodes": one.nodes,
            "systems": [as_row(system) for system in one.systems],
            "built_in": [{"method": words, "command": command} for words, command in one.built_in],
            "left_out": one.left_out,
            "notes": one.notes,
        }
        for one in steps
    ]
