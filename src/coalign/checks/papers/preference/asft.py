"""Check of `asft`: what becomes of chosen and of rejected responses, in the world of copying."""

from __future__ import annotations

from functools import partial

from torch import nn

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide
from coalign.checks.starts import Start, start_with, training_arm
from coalign.checks.steps import best_only
from coalign.checks.worlds.copying.copying import CopyingWorld, pair_changes
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.asft import Constants
from coalign.training.losses.pairwise import DPOConstants


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Under ASFT the chosen responses rise while they fall under DPO, and the rejected ones fall, in a world of copying.

    Whether samples are better than DPO's is reported and has no part in the rule.

    Rule:
        Seen: the summed log-probability of the chosen training responses rises from the starting model in every seed,
        and by more than under DPO in every seed; that of the rejected ones falls in the mean, by more than under
        fine-tuning on the chosen ones. Not seen: the chosen ones fall, or rise no more than under DPO, in a seed.
        Mixed: the chosen ones do as claimed, the rejected ones do not.

    Setting:
        Copying letters: transformer of 2 layers and width 48, 1200 pairs of its own samples labelled by gold with
        noise; 300 steps of 32 pairs, Adam 3e-4; ASFT lambda 1, DPO beta 0.1. 400 fresh prompts, 4 samples each.
    """
    trained = partial(training_arm, measure=_measured)
    arms = {
        "SFT": lambda material: _measured(material, material.base),
        "ASFT": trained("asft", Constants(), "pairs"),
        "DPO": trained("dpo", DPOConstants(beta=0.1), "pairs"),
        "SFT on chosen": trained("sft", None, "chosen"),
        "ORPO": trained("orpo", None, "pairs"),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_start, arms=arms)
    chosen = rows.values("chosen, change", "ASFT")
    over_dpo = rows.gaps("chosen, change", "ASFT", "DPO")
    rejected = rows.mean("rejected, change", "ASFT")
    rejected_sft = rows.mean("rejected, change", "SFT on chosen")
    kept = min(chosen.values()) > 0 and min(over_dpo.values()) > 0
    return rows.verdict(
        check,
        outcome=decide(seen=kept and rejected < 0 and rejected < rejected_sft, not_seen=not kept),
        summary={
            "chosen, smallest change over seeds": min(chosen.values()),
            "chosen, ASFT - DPO, smallest over seeds": min(over_dpo.values()),
            "rejected, change": rejected,
            "rejected, change under SFT on chosen": rejected_sft,
            "gold, ASFT - DPO": rows.gap("gold", "ASFT", "DPO"),
            "gold, ASFT - ORPO": rows.gap("gold", "ASFT", "ORPO"),
            "gold, ASFT - SFT on chosen": rows.gap("gold", "ASFT", "SFT on chosen"),
        },
    )


def _start(seed: int) -> Start[CopyingWorld]:
    world = CopyingWorld(seed)
    base = world.base_model()
    pairs = world.pairs(base)
    return start_with(world, base, {"pairs": pairs, "chosen": best_only(pairs)}, compared=["pairs"])


def _measured(material: Start[CopyingWorld], policy: nn.Module) -> Measures:
    return {**material.world.measure(policy, material.base), **pair_changes(material, policy, "pairs")}
