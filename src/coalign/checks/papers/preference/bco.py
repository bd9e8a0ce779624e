"""Check of `bco`: learning from thumbs with BCO, beside DPO on pairs, in the world of copying."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from coalign.checks.arms import Measured, measure_arms
from coalign.checks.rules import decide, exceeds, mean_of, most_seeds
from coalign.checks.starts import training_arm, untrained_arm
from coalign.checks.worlds.copying.thumbs import even_thumbs, uneven_thumbs
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.bco import BCOConstants, MatchedBCOConstants
from coalign.training.losses.density_ratio import PROB_DESIRABLE, fit_classifier
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.objective import get_objective


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """From thumbs alone BCO learns as much as DPO from the same pairs, more with its reward shift, in a world of copying.

    A second panel, in which thumbs-up and thumbs-down come from different prompts, compares BCO with and without
    distribution matching; it is reported and has no part in the rule.

    Rule:
        Seen: gold of BCO above that of the starting model by more than 2 standard errors of the paired gaps, at least
        that of the same loss without reward shift in at least 4 of 5 seeds, and at most 0.05 below DPO's in the mean.
        Not seen: otherwise. The panel of uneven prompts has no part in it.

    Setting:
        Copying letters: transformer of 2 layers and width 48, 1200 pairs of its own samples labelled by gold with
        noise, for thumbs taken apart into 2400 records; 300 steps of 32 pairs or 64 thumbs, Adam 3e-4, beta 0.1. Uneven
        prompts: two classes, copied by demonstrations at 0.84 and 0.39; 1000 thumbs-up, 800 of them to the first class,
        and 1000 thumbs-down, 800 to the second; 150 steps; the classifier sees the class. 400 fresh prompts, 4 samples
        each.
    """
    plain, unshifted = BCOConstants(), BCOConstants(shift="none")
    on_thumbs = partial(training_arm, batch_size=64)
    main = {
        "SFT": untrained_arm,
        "BCO": on_thumbs("bco", plain, "thumbs"),
        "BCE, no shift": on_thumbs("bco", unshifted, "thumbs"),
        "BCO, midpoint": on_thumbs("bco", BCOConstants(shift="midpoint"), "thumbs"),
        "KTO": on_thumbs("kto", None, "mismatched thumbs"),
        "DPO": training_arm("dpo", DPOConstants(beta=0.1), "pairs"),
    }
    main |= {
        "BCO, 32 thumbs a step": training_arm("bco", plain, "thumbs"),
        "BCE, no shift, 32 thumbs a step": training_arm("bco", unshifted, "thumbs"),
    }
    uneven = {
        "SFT, uneven prompts": untrained_arm,
        "BCO, uneven prompts": on_thumbs("bco", plain, "thumbs", steps=150),
        "BCO matched, uneven prompts": on_thumbs("bco_matched", MatchedBCOConstants(), "thumbs", steps=150),
        "BCO, absolute marks": on_thumbs("bco", plain, "marked", steps=150),
        "BCO matched, absolute marks": on_thumbs("bco_matched", MatchedBCOConstants(), "marked", steps=150),
    }
    even_start = partial(even_thumbs, compared=get_objective("kto"))
    uneven_start = partial(uneven_thumbs, column=PROB_DESIRABLE, probabilities=prompt_probabilities)
    rows = measure_arms(run, seeds=seeds, prepare=even_start, arms=main)
    rows += measure_arms(run, seeds=seeds, prepare=uneven_start, arms=uneven)
    gain = rows.gaps("gold", "BCO", "SFT")
    shift = rows.gaps("gold", "BCO", "BCE, no shift")
    behind = rows.gap("gold", "DPO", "BCO")
    shift_helps = {seed: gap >= 0 for seed, gap in shift.items()}
    matched = rows.gaps("gold, class 1", "BCO matched, uneven prompts", "BCO, uneven prompts")
    matching_helps = {seed: gap > 0 for seed, gap in matched.items()}
    return rows.verdict(
        check,
        outcome=decide(seen=exceeds(gain) and most_seeds(shift_helps) and behind <= 0.05),
        summary={
            "gold, BCO - SFT": mean_of(gain),
            "gold, BCO - BCE without shift": mean_of(shift),
            "seeds in which the shift does not hurt": sum(shift_helps.values()),
            "gold, DPO - BCO": behind,
            "gold, BCO - KTO": rows.gap("gold", "BCO", "KTO"),
            "uneven prompts: gold on the disliked class, matched - plain": mean_of(matched),
            "uneven prompts: seeds in which matching helps it": sum(matching_helps.values()),
            "uneven prompts: effect of matching": decide(seen=most_seeds(matching_helps)),
        },
        tried=_tried(rows),
    )


def prompt_probabilities(features: Tensor, labels: Tensor, asked: Tensor) -> list[float]:
    """For each row of `asked` the probability of label 1, by a classifier of `features` and `labels`."""
    return fit_classifier(features, labels).probabilities(asked).tolist()


def _tried(rows: Measured) -> list[str]:
    """What was tried after the verdict, in words."""
    few = "32 thumbs a step"
    shift = rows.gaps("gold", f"BCO, {few}", f"BCE, no shift, {few}")
    behind = rows.gap("gold", "DPO", f"BCO, {few}")
    marked = rows.gaps("gold, class 1", "BCO matched, absolute marks", "BCO, absolute marks")
    return [
        (
            f"{few}, half as many records as DPO's: gold, BCO - BCE without shift {mean_of(shift):+.3f}, not below in "
            f"{sum(gap >= 0 for gap in shift.values())} of {len(shift)} seeds; DPO - BCO {behind:+.3f}."
        ),
        (
            "Uneven prompts with absolute marks (thumbs up where the score reaches 0.83, so few for the second class): "
            f"gold on the second class, matched - plain {mean_of(marked):+.3f}, above in "
            f"{sum(gap > 0 for gap in marked.values())} of {len(marked)} seeds."
        ),
    ]
