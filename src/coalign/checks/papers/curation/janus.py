"""Check of `janus`: unseen combinations of stated values are followed by who learned from many of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from torch import nn

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.steps import reference_logps, trained
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.copying.stated import StatedWorld, demonstrations, pairs
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.curation.stated_values.rating import benchmark_score, item_scores, outcomes_of, win_tie_rates
from coalign.training.objective import get_objective

STEPS = 600
FEW = 10
"""Combinations that the second baseline learns from."""
TRIED = (
    "While the sizes were chosen (seeds 100 to 102): DPO from the model that was fine-tuned on all rows, which meets nearly "
    "everything, lowered its share by 0.005 to 0.024."
)


@dataclass
class Material:
    """What the arms of a seed share.

    Attributes:
        baseline, few: what both baselines meet.
        start: tuned on one system message an instruction; DPO goes on from it.
    """

    world: StatedWorld
    baseline: list[list[float]]
    few: list[list[float]]
    start: nn.Module


def tuned(
    world: StatedWorld, *, combinations: int | None = None, stated: bool = True, systems: int = 3
) -> nn.Module:
    """A model fine-tuned on rows of the first so many combinations, `systems` of them an instruction."""
    rows = [mine[:systems] for mine in world.rows(world.combinations[0][:combinations])]
    return trained(
        world.untrained_model(),
        demonstrations(rows, stated=stated),
        get_objective("sft"),
        steps=STEPS,
        batch_size=64,
        learning_rate=1e-3,
        generator=stream(world.seed, "order"),
    )


def prepare(seed: int) -> Material:
    """The world of a seed, what both baselines meet, and the model that DPO starts from."""
    world = StatedWorld(seed)
    baseline = world.satisfied(tuned(world, stated=False), stated=False)
    few = world.satisfied(tuned(world, combinations=FEW))
    return Material(world, baseline, few, tuned(world, systems=1))


def measured(material: Material, found: list[list[float]]) -> Measures:
    """Of what an arm meets: mean, share of items met in everything, ties and wins against both baselines."""
    mine = item_scores(found)
    rates = {
        name: win_tie_rates(outcomes_of(mine, item_scores(other)))["tie_plus_win"]
        for name, other in (("values unstated", material.baseline), ("few combinations", material.few))
    }
    return {
        "satisfied": benchmark_score(found) or 0.0,
        "all four": fmean(one == 1 for one in mine),
        **{f"tie or win against {name}": value for name, value in rates.items()},
    }


def dpo_arm(material: Material) -> Measures:
    """200 steps of DPO on cross-system pairs, from a model fine-tuned on one system message an instruction."""
    world = material.world
    records = pairs(world.rows(world.combinations[0]), world.seed)
    objective = get_objective("dpo")
    model = trained(
        material.start,
        records,
        objective,
        objective.constants(beta=0.1),
        steps=200,
        batch_size=32,
        learning_rate=2e-5,
        generator=stream(world.seed, "pairs/order"),
        reference=reference_logps(material.start, records),
    )
    return measured(material, world.satisfied(model))


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Learning from 200 combinations of stated values makes a model follow combinations that it never saw; learning from 10
    of them, or from answers whose values were not stated, does not.

    Rule:
        Seen: in every seed the mean share of the four values that are met on unseen combinations, after fine-tuning on
        200 combinations, is at least 0.10 above that of both baselines (values unstated; 10 combinations), answers tie
        or win against the first baseline on more than 60 % of the items, and DPO on cross-system pairs, which as in the
        paper goes on from a model fine-tuned on one system message an instruction, does not lower that model's share by
        more than 0.01. Otherwise not seen.

    Setting:
        Copying as stated: three of 12 words in a stated order, case, with a stated separator and ending, 256 combinations
        of which 56 are unseen in training; a transformer of 2 layers and width 64 from scratch. 2,000 instructions under
        3 combinations each, 600 steps of 64 rows, Adam 1e-3; DPO with beta 0.1, 200 steps of 32 pairs at 2e-5. 300
        held-out instructions under unseen combinations, answered greedily.
    """
    arms: dict[str, Arm[Material]] = {
        "values unstated": lambda material: measured(material, material.baseline),
        "10 combinations": lambda material: measured(material, material.few),
        "200 combinations": lambda material: measured(
            material, material.world.satisfied(tuned(material.world))
        ),
        "one message an instruction": lambda material: measured(
            material, material.world.satisfied(material.start)
        ),
        "one message, then DPO": dpo_arm,
    }
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    treated = "200 combinations"
    over_unstated = rows.gaps("satisfied", treated, "values unstated")
    over_few = rows.gaps("satisfied", treated, "10 combinations")
    wins = rows.values("tie or win against values unstated", treated)
    dpo = rows.gaps("satisfied", "one message, then DPO", "one message an instruction")
    seen = (
        min(*over_unstated.values(), *over_few.values()) >= 0.10
        and min(wins.values()) > 0.6
        and min(dpo.values()) >= -0.01
    )
    return rows.verdict(
        check,
        outcome=decide(seen=seen),
        summary={
            "satisfied, 200 - unstated": mean_of(over_unstated),
            "satisfied, 200 - 10 combinations": mean_of(over_few),
            "tie or win against unstated": mean_of(wins),
            "tie or win against 10 combinations": rows.mean("tie or win against few combinations", treated),
            "satisfied, DPO - before": mean_of(dpo),
        },
        tried=[TRIED],
    )
