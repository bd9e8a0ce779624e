"""Desk-scale check of `asft`."""

from __future__ import annotations

from torch import nn

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.rules import decide, mean_of, paired_gaps, values_of
from coalign.checks.worlds.preference_world import (
    PreferenceWorld,
    Start,
    best_only,
    pair_changes,
    start_with,
    training_arm,
    untrained_arm,
)
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.asft import Constants
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.objective import get_objective


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Under ASFT the chosen responses rise while they fall under DPO, and the rejected ones fall, in a world of copying.

    Whether samples are better than DPO's is reported and has no part in the rule.
    """
    arms = {
        "SFT": lambda material: {**untrained_arm(material), **pair_changes(material, material.base, "pairs")},
        "ASFT": training_arm(get_objective("asft"), Constants(), "pairs", measure=_measured),
        "DPO": training_arm(get_objective("dpo"), DPOConstants(beta=0.1), "pairs", measure=_measured),
        "SFT on chosen": training_arm(get_objective("sft"), None, "chosen", measure=_measured),
        "ORPO": training_arm(get_objective("orpo"), None, "pairs", measure=_measured),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_start, arms=arms)
    chosen = values_of(rows, "chosen, change", "ASFT")
    over_dpo = paired_gaps(rows, "chosen, change", "ASFT", "DPO")
    rejected = mean_of(values_of(rows, "rejected, change", "ASFT"))
    rejected_sft = mean_of(values_of(rows, "rejected, change", "SFT on chosen"))
    kept = min(chosen.values()) > 0 and min(over_dpo.values()) > 0
    return Verdict(
        slug="asft",
        outcome=decide(seen=kept and rejected < 0 and rejected < rejected_sft, not_seen=not kept),
        claim=get("asft").claim,
        rule="Seen: the summed log-probability of the chosen training responses rises from the starting model in every "
        "seed, and by more than under DPO in every seed; that of the rejected ones falls in the mean, by more than under "
        "fine-tuning on the chosen ones. Not seen: the chosen ones fall, or rise no more than under DPO, in a seed. "
        "Mixed: the chosen ones do as claimed, the rejected ones do not.",
        setting="Copying letters: transformer of 2 layers and width 48, 1200 pairs of its own samples labelled by gold "
        "with noise; 300 steps of 32 pairs, Adam 3e-4; ASFT lambda 1, DPO beta 0.1. 400 fresh prompts, 4 samples each.",
        measures=rows,
        summary={
            "chosen, smallest change over seeds": min(chosen.values()),
            "chosen, ASFT - DPO, smallest over seeds": min(over_dpo.values()),
            "rejected, change": rejected,
            "rejected, change under SFT on chosen": rejected_sft,
            "gold, ASFT - DPO": mean_of(paired_gaps(rows, "gold", "ASFT", "DPO")),
            "gold, ASFT - ORPO": mean_of(paired_gaps(rows, "gold", "ASFT", "ORPO")),
            "gold, ASFT - SFT on chosen": mean_of(paired_gaps(rows, "gold", "ASFT", "SFT on chosen")),
        },
        seconds=seconds_spent(run),
    )


def _start(seed: int) -> Start:
    world = PreferenceWorld(seed)
    base = world.base_model()
    pairs = world.pairs(base)
    return start_with(world, base, {"pairs": pairs, "chosen": best_only(pairs)}, compared=["pairs"])


def _measured(material: Start, policy: nn.Module) -> Measures:
    return {
        **material.world.measure(policy, material.base),
        **pair_changes(material, policy, "pairs"),
    }
