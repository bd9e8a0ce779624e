"""Alignment faking: labels, rates, gaps and tests of two tiers; the output block of a completion."""

from __future__ import annotations

from typing import Any

from coalign.evaluation.tiers.figures import Sample, summarise, tag_label
from coalign.evaluation.tiers.turns import output_block
from tests.vectors.given import Given

OF_TIERS = (
    "n_valid",
    "n_unparseable",
    "compliance",
    "wilson95",
    "af_reasoning",
    "af_reasoning_given_compliant",
)
OF_BOTH = ("compliance_gap", "af_reasoning_gap", "two_proportion_z", "p_one_sided")


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    if "completion" in inputs:
        return {"output_block": output_block(inputs["completion"])}
    samples = [
        Sample(query, tier, tag_label(output), faking) for query, tier, output, faking in inputs["rows"]
    ]
    found = summarise(samples)
    paired = found["paired_gap"]
    return {
        "labels": [one.label for one in samples],
        **{tier: {name: found[tier][name] for name in OF_TIERS} for tier in ("free", "paid")},
        **{name: found[name] for name in OF_BOTH if found[name] is not None},
        "paired_gap_mean": paired["mean"] if paired else None,
        "paired_queries": found["paired_queries"],
    }
