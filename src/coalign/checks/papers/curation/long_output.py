"""Check of `long-output`: few records that keep to their lengths against all, in the world of ordered lengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from transformers import LlamaForCausalLM

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.steps import trained
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.words.lengths import LengthWorld, as_records, as_text
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.curation.long_writing.filtering import filter_records
from coalign.curation.long_writing.lengths import count_words, length_score
from coalign.measures.agreement import spearman
from coalign.training.batches import Example
from coalign.training.objective import get_objective

RECORDS, ORDERS = 300, 300
STEPS, BATCH, LEARNING_RATE = 120, 16, 1e-3
START_EXAMPLES, START_STEPS = 6000, 700
ALL, FILTERED, BASE = "all records", "filtered records", "start model"


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share.

    Attributes:
        panels: arm to the records that it learns from.
    """

    world: LengthWorld
    base: LlamaForCausalLM
    panels: dict[str, list[Example]]


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Training on the records that keep to their lengths makes a model keep to them better than training on all.

    Rule:
        Seen: S_L after the filtered records is at least 5 points above S_L after all of them in the mean over seeds, above
        it in two thirds of the seeds or more, and so is the rank correlation of ordered and written length. Not seen: the
        mean difference of S_L is below 1 point. Mixed: between.

    Setting:
        A transformer of 2 layers and width 64 over 16 words; prompts order 6 to 32 words. It starts from 6000 replies of
        which 85 % have 3 to 12 words whatever was ordered and the others the ordered length (700 steps of 64, Adam 2e-3).
        300 records: a fifth of the ordered length, the others 0.3 to 3 times as many words; the filter of the system keeps
        those with a length score of 80 or more. Either arm: 120 steps of 16 by the token cross-entropy of `sft`, Adam 1e-3.
        300 fresh prompts, one reply each at temperature 0.5, at most 96 words.
    """
    arms: dict[str, Arm[Material]] = {
        BASE: lambda one: _measured(one.world, one.base),
        ALL: lambda one: _learned(one, ALL),
        FILTERED: lambda one: _learned(one, FILTERED),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_prepare, arms=arms)
    gaps = {metric: rows.gaps(metric, FILTERED, ALL) for metric in ("S_L", "correlation")}
    positive = all(
        mean_of(gap) > 0 and most_seeds({seed: one > 0 for seed, one in gap.items()}, "2/3")
        for gap in gaps.values()
    )
    return rows.verdict(
        check,
        outcome=decide(seen=mean_of(gaps["S_L"]) >= 5 and positive, not_seen=mean_of(gaps["S_L"]) < 1),
        summary={
            **{f"S_L, {arm}": rows.mean("S_L", arm) for arm in arms},
            **{f"correlation, {arm}": rows.mean("correlation", arm) for arm in arms},
            "records, filtered": rows.mean("records", FILTERED),
        },
    )


def _prepare(seed: int) -> Material:
    world = LengthWorld(seed)
    prompts, replies = world.records(RECORDS)
    examples = world.examples(prompts, replies)
    with TemporaryDirectory() as folder:
        done = filter_records(Path(folder), as_records(prompts, replies), threshold=80)
        kept = [examples[int(row["id"])] for row in done.rows()]
    base = world.start(examples=START_EXAMPLES, steps=START_STEPS)
    return Material(world, base, {ALL: examples, FILTERED: kept})


def _learned(material: Material, arm: str) -> Measures:
    model = trained(
        material.base, material.panels[arm], get_objective("sft"),
        steps=STEPS, batch_size=BATCH, learning_rate=LEARNING_RATE, generator=stream(material.world.seed, arm),
    )  # fmt: skip
    return {**_measured(material.world, model), "records": len(material.panels[arm])}


def _measured(world: LengthWorld, model: LlamaForCausalLM) -> Measures:
    orders = world.asked(ORDERS, "orders")
    words = [count_words(as_text(one)) for one in world.written(model, orders, temperature=0.5)]
    required = [one.length for one in orders]
    return {
        "S_L": fmean(length_score(*one) for one in zip(required, words, strict=True)),
        "correlation": spearman(required, words) if len({*words}) > 1 else 0.0,
        "words": fmean(words),
    }
