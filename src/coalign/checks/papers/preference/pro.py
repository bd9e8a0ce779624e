"""Check of `pro`: rankings of five and of two, in the world of copying; the order of given responses."""

from __future__ import annotations

from pathlib import Path

from coalign.checks.arms import measure_arms
from coalign.checks.rules import clearly_above, decide, exceeds, mean_of, most_seeds
from coalign.checks.starts import Start, start_with, training_arm, untrained_arm
from coalign.checks.steps import best_only
from coalign.checks.worlds.copying.copying import CopyingWorld
from coalign.checks.worlds.records.default_model import drawn, share_in_order
from coalign.checks.worlds.records.reading import read_groups
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.pro import Constants


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """PRO learns more from rankings of five than of two, and from two more than fine-tuning on the better one, in a
    world of copying.

    Rule:
        Seen: gold of PRO on rankings of 5 above PRO on rankings of 2 in at least 4 of 5 seeds and by more than 0.005 in
        the mean, and PRO on rankings of 2 above fine-tuning on the better of the two by more than 2 standard errors of
        the paired gaps. Not seen: the first in fewer seeds, or the second within 1 standard error. Mixed: between.

    Setting:
        Copying letters: transformer of 2 layers and width 48, 1200 prompts with 5 of its own samples each, scores are
        gold with noise; rankings of 2 are two of the five. 300 steps of 32 prompts, Adam 3e-4. 400 fresh prompts, 4
        samples each.
    """
    arms = {
        "SFT": untrained_arm,
        "PRO, 5 ranked": training_arm("pro", Constants(), "five"),
        "PRO, 2 ranked": training_arm("pro", Constants(), "two"),
        "SFT on the best of 5": training_arm("sft", None, "best of five"),
        "SFT on the better of 2": training_arm("sft", None, "better of two"),
        "PRO, 2 ranked, order alone": training_arm("pro", Constants(temperature="none"), "two"),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_start, arms=arms)
    longer = rows.gaps("gold", "PRO, 5 ranked", "PRO, 2 ranked")
    over_sft = rows.gaps("gold", "PRO, 2 ranked", "SFT on the better of 2")
    longer_helps = {seed: gap > 0 for seed, gap in longer.items()}
    return rows.verdict(
        check,
        outcome=decide(
            seen=most_seeds(longer_helps) and mean_of(longer) > 0.005 and exceeds(over_sft),
            not_seen=not most_seeds(longer_helps) or not exceeds(over_sft, errors=1.0),
        ),
        summary={
            "gold, 5 ranked - 2 ranked": mean_of(longer),
            "seeds in which 5 are better": sum(longer_helps.values()),
            "gold, PRO - SFT, 2 ranked": mean_of(over_sft),
            "gold, PRO - SFT, 5 ranked": rows.gap("gold", "PRO, 5 ranked", "SFT on the best of 5"),
            "gold, reward temperature - order alone, 2 ranked": rows.gap(
                "gold", "PRO, 2 ranked", "PRO, 2 ranked, order alone"
            ),
        },
    )


def check_on_data(run: Run, *, seeds: int = 5, data: Path) -> Verdict:
    """Rankings of real text (GSM8K's example_model_solutions.jsonl as it is): whether the score that PRO trains orders
    them rightly under the default model, without training.

    Rule:
        Seen: the share of pairs of a better and a worse response that the length-averaged log-probability orders
        rightly is above one half by more than 2 standard errors over the seeds. Not seen: not by more than 1. Mixed:
        between. It speaks of the score that PRO starts from, not of training.

    Setting:
        {data}: 20 rankings a seed, under the default model.
    """
    groups = read_groups(data)
    arms = {"default model": lambda chosen: {"in order": share_in_order(chosen)}}
    rows = measure_arms(run, seeds=seeds, prepare=lambda seed: drawn(groups, 20, seed), arms=arms)
    above_chance = {seed: share - 0.5 for seed, share in rows.values("in order", "default model").items()}
    return rows.verdict(
        check_on_data,
        outcome=clearly_above(above_chance),
        summary={"in order, above one half": mean_of(above_chance)},
        data=data.name,
    )


def _start(seed: int) -> Start[CopyingWorld]:
    """Rankings of five samples, and of two of them, to the same prompts."""
    world = CopyingWorld(seed)
    base = world.base_model()
    candidates = world.candidates(base)
    five, two = candidates.rankings(), candidates.pairs(scored=True)
    panels = {"five": five, "two": two, "best of five": best_only(five), "better of two": best_only(two)}
    return start_with(world, base, panels, compared=())
