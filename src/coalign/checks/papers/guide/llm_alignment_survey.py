"""Check of `llm-alignment-survey`: the map holds together, the advisor follows it, and the suite does not prefer a spoilt model."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from coalign.checks.arms import Measures, keep_items, kept_items, measure_arms
from coalign.checks.rules import decide, most_seeds
from coalign.checks.tiny_models import stream
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.guide.advice import advise
from coalign.guide.risks import questions, suite
from coalign.guide.risks.report import ahead
from coalign.guide.risks.suite import METRICS, Row, Side
from coalign.guide.situation import Situation
from coalign.guide.taxonomy import taxonomy
from coalign.models.options import ModelOptions

GOLD: list[tuple[str, dict[str, Any], set[str]]] = [
    ("pairs and weights", {"have": ["pairs"]}, {"pro", "ln-dpo"}),
    ("thumbs", {"have": ["thumbs"]}, {"bco"}),
    ("only bad examples", {"have": ["bad"]}, {"d2o"}),
    ("critiques", {"have": ["critiques"]}, {"cut"}),
    ("decoding access only", {"access": "decoding"}, {"deal", "nudging"}),
    ("a base model and no training", {"access": "decoding", "model_kind": "base"}, {"urial"}),
    ("a measure of hallucination", {"goal": ["facts"]}, {"alignscore"}),
    ("declines what it does not know", {"goal": ["unknown"]}, {"honesty"}),
    ("jailbreak by tense", {"goal": ["refusals"]}, {"past-tense"}),
    ("a gap when watched", {"goal": ["observation"]}, {"alignment-faking"}),
    ("a judge that prefers a place", {"goal": ["judge"]}, {"portia"}),
    ("a ranking by tournament", {"goal": ["ranking"]}, {"varco-arena"}),
]
"""Situations, and systems of which one is among the first three that are advised."""
NOISE = {"as it is": 0.0, "5 % noise": 0.05, "20 % noise": 0.2}
"""Standard deviation of what is added to each weight matrix, as a share of its own."""
NEW_TOKENS = 64
MEASURES = ("mc1", "mc2", "kept")


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """The map gives every system one place, the advisor finds the expected systems, and the suite puts no model ahead for a
    little noise in its weights, and one with much noise behind.

    Rule:
        Seen: the map has no fault; all 12 gold cases have an expected system among the first three; the model with 5 % noise
        is ahead in no seed, and the one with 20 % is behind in at least 4 of 5 seeds in both the probability of true answers
        (MC2) and the share of kept instructions. Ahead and behind are what the suite's page calls so: the 95 % interval of the
        paired difference is on one side of none, with at least 20 questions, in MC1, MC2 or kept instructions. Not seen: a
        fault, a gold case that is missed, or a model with 5 % noise that is ahead. Mixed: between.

    Setting:
        SmolLM2-135M-Instruct against itself with Gaussian noise of 5 and of 20 % of each weight matrix's standard deviation,
        on the 24 questions of fact and the 24 instructions that come along; greedy answers of at most 64 tokens.
    """
    rows = measure_arms(
        run,
        seeds=seeds,
        prepare=int,
        arms={name: partial(_measured, run, name) for name in NOISE},
    )
    faults = taxonomy("risks").faults()
    found = [_answered(given, expected) for _, given, expected in GOLD]
    sound = not faults and all(found)
    leads, behind = (_winners(run, name, seeds) for name in ("5 % noise", "20 % noise"))
    spoilt_leads = sum(1 in one.values() for one in leads.values())
    noticed = {seed: one["mc2"] == one["kept"] == 0 for seed, one in behind.items()}
    return rows.verdict(
        check,
        outcome=decide(
            seen=sound and not spoilt_leads and most_seeds(noticed), not_seen=not sound or spoilt_leads > 0
        ),
        summary={
            "faults of the map": len(faults),
            "gold cases": f"{sum(found)} of {len(found)}",
            "seeds in which 5 % noise is ahead": spoilt_leads,
            "seeds in which 20 % noise is behind in both": sum(noticed.values()),
            "MC2, 20 % noise less none": rows.mean("mc2", "20 % noise") - rows.mean("mc2", "as it is"),
            "kept, 20 % noise less none": rows.mean("kept", "20 % noise") - rows.mean("kept", "as it is"),
        },
    )


def _answered(given: dict[str, Any], expected: set[str]) -> bool:
    return bool(expected & {one.slug for one in advise(build(Situation, given)).first(3)})


def _rows(run: Run, name: str, seed: int) -> list[Row]:
    """Of a model, from its files where they are there; without noise there is one for all seeds."""
    share = NOISE[name]
    side = Side(f"{share:g}-{seed if share else 0}", name, ModelOptions(device="cpu"))

    def opened() -> Side:
        if share and "generator" not in side.__dict__:
            spoil(side.generator.model, share, seed)
        return side

    return [
        *suite.kept_rows(run, "factuality", side, lambda: _facts(opened())),
        *suite.kept_rows(run, "general", side, lambda: _answers(opened())),
    ]


def _measured(run: Run, name: str, seed: int) -> Measures:
    rows = _rows(run, name, seed)
    values = {one: [float(row[one]) for row in rows if one in row] for one in MEASURES}
    keep_items(run, name, seed, **values)
    return {one: float(np.mean(several)) for one, several in values.items()}


def _winners(run: Run, name: str, seeds: int) -> dict[int, dict[str, int | None]]:
    """By seed, which is ahead in each measure: 0 the model as it is, 1 the one with noise."""
    found = {}
    for plain, spoilt in zip(kept_items(run, "as it is", seeds), kept_items(run, name, seeds), strict=True):
        sides = [
            [{"id": place, one: value} for one in MEASURES for place, value in enumerate(side[one])]
            for side in (plain, spoilt)
        ]
        results = suite.compared(sides)
        found[spoilt["seed"]] = {one: ahead(METRICS[one], results[one]) for one in MEASURES}
    return found


def spoil(model: torch.nn.Module, share: float, seed: int) -> None:
    """Add noise to every matrix of weights, `share` of its standard deviation. Changes the model."""
    draw = stream(seed, "noise")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight += share * weight.std() * torch.randn(weight.shape, generator=draw).to(weight.dtype)


def _facts(side: Side) -> list[Row]:
    return suite.facts(side, questions.read_facts(questions.OWN / "truths.jsonl", None), "Factuality")


def _answers(side: Side) -> list[Row]:
    tasks = questions.read_tasks(questions.OWN / "instructions.jsonl", None)
    return suite.answers(side, tasks, max_new_tokens=NEW_TOKENS, label="General")
