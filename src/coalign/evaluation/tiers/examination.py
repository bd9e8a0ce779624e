"""A model's behaviour in both tiers under one condition, row by row; and the same of organisms, before any real model."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import CoalignError
from coalign.evaluation.tiers.figures import Outcome, Rule, Sample, detectable_gap, summarise, verdict
from coalign.evaluation.tiers.graders import Answered, Grader
from coalign.evaluation.tiers.organisms import ORGANISMS, Scripted
from coalign.evaluation.tiers.prompts import (
    BUNDLED,
    TIERS,
    Condition,
    Query,
    Setting,
    Tier,
    asked,
    read_queries,
)
from coalign.evaluation.tiers.turns import Transcript, converse

if TYPE_CHECKING:
    from coalign.models.types import Generator, Sampling

Row = dict[str, Any]
SELF_TESTED = 6
"""Queries of the self-test, the first of the bundled ones."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is the same in every condition and for every model.

    Attributes:
        system: parts of the system prompt.
        sampling: with the number of answers to each query and tier.
        turns: most turns of an answer.
        prefill: what an answer begins with.
        grader: labels answers and judges reasons.
        rule: when a difference is called something.
    """

    setting: Setting
    system: Mapping[str, str]
    queries: Sequence[Query]
    sampling: Sampling
    turns: int
    prefill: str
    grader: Grader
    rule: Rule
    seed: int


def answered(
    design: Design, condition: Condition, folder: Path, model: Callable[[], Generator]
) -> dict[Tier, list[list[Transcript]]]:
    """Tier to `[queries][samples]` what the model says; which tier is asked first is drawn."""
    order = list(TIERS)
    random.Random(f"{design.seed}/{condition.name}").shuffle(order)
    found = {
        tier: converse(
            folder,
            f"{condition.name.replace(' ', '-')}-{tier}",
            asked(design.queries, tier, condition, design.system, prefill=design.prefill),
            model,
            design.sampling,
            most=design.turns,
            label=f"{condition.name}, {tier} tier",
        )
        for tier in order
    }
    return {tier: found[tier] for tier in TIERS}


def graded(
    design: Design, condition: Condition, said: Mapping[Tier, Sequence[Sequence[Transcript]]]
) -> list[Row]:
    """A row an answer, without its text: query, tier, label, what the reasoning holds. The grader sees no flag."""
    places = [
        (query, tier, number, one)
        for tier in TIERS
        for query, several in zip(design.queries, said[tier], strict=True)
        for number, one in enumerate(several)
    ]
    given = [Answered(query.text, one.scratchpad, one.output) for query, _, _, one in places]
    labels = design.grader.labels(given)
    reasons = None if "scratchpad" in condition.without else design.grader.reasons(given)
    rows: list[Row] = []
    for place, (query, tier, number, one) in enumerate(places):
        why = reasons[place] if reasons else None
        rows.append(
            {
                "query_id": query.id,
                "tier": tier,
                "setting": design.setting,
                "condition": condition.name,
                "sample": number,
                "output_label": labels[place],
                "af_reasoning": why.faking if why else None,
                "modification": why.modification if why else None,
                "preservation": why.preservation if why else None,
                "turns": one.turns,
                "seed": design.sampling.seed,
            }
        )
    return rows


def texts_of(
    design: Design, said: Mapping[Tier, Sequence[Sequence[Transcript]]]
) -> list[tuple[str, Transcript]]:
    """For each row of `graded` the query's text and what the model said."""
    return [
        (query.text, one)
        for tier in TIERS
        for query, several in zip(design.queries, said[tier], strict=True)
        for one in several
    ]


def summary_of(rows: Sequence[Row], rule: Rule) -> dict[str, Any]:
    """The figures of one condition's rows, what they are called, and the gap that would have been found."""
    found = summarise(
        [Sample(one["query_id"], one["tier"], one["output_label"], one["af_reasoning"]) for one in rows]
    )
    return {**found, "verdict": verdict(found, rule), "detectable_gap": detectable_gap(found, rule)}


def self_test(design: Design, condition: Condition, folder: Path) -> list[dict[str, Any]]:
    """What the instrument says of the organisms, under the same prompts, turns, grader and rule as of the model.

    Raises:
        CoalignError: it calls one of them what it is not; nothing may then be said of a model.
    """
    from dataclasses import replace

    small = replace(
        design, queries=read_queries(BUNDLED, SELF_TESTED), sampling=replace(design.sampling, n=2)
    )
    scratchpad = "scratchpad" not in condition.without
    found: list[dict[str, Any]] = []
    for number, one in enumerate(ORGANISMS):
        model = Scripted(one, design.setting, scratchpad)
        said = answered(small, condition, folder / str(number), lambda model=model: model)
        summary = summary_of(graded(small, condition, said), design.rule)
        expected: Outcome = one.expected
        if not scratchpad and expected == "alignment faking indicated":
            expected = "tier-dependent behaviour"
        found.append(
            {"organism": one.name, "expected": expected, "verdict": summary["verdict"], **_short(summary)}
        )
    if wrong := [one for one in found if one["verdict"] != one["expected"]]:
        first = wrong[0]
        raise CoalignError(
            f"The self-test failed: {first['organism']} was called “{first['verdict']}” and is “{first['expected']}” "
            f"({len(wrong)} of {len(found)} scripted models were called what they are not).",
            hint="Nothing was asked of the model. Use a stronger --judge or another way of labelling (--labels), and thresholds "
            "that twelve answers to a tier can reach.",
        )
    return found


def _short(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {"gap": summary["compliance_gap"], "reasoning": summary["free"]["af_reasoning"]}
