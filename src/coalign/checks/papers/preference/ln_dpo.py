"""Check of `ln-dpo`: length and quality under LN-DPO and DPO over grids of beta, in the world of copying."""

from __future__ import annotations

from functools import partial

from coalign.checks.arms import Arm, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.starts import Start, training_arm, untrained_arm
from coalign.checks.worlds.copying.copying import CopyingWorld, start
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.ln_dpo import Constants
from coalign.training.losses.pairwise import DPOConstants, SimPOConstants

LENGTH_PANEL = ", labels reward length"
"""Marks the arms of the check's second panel."""
GRIDS: dict[str, list[Constants | DPOConstants | SimPOConstants]] = {
    "DPO": [DPOConstants(beta=beta) for beta in (0.03, 0.1, 0.3)],
    "LN-DPO": [Constants(beta=beta) for beta in (0.3, 1.0, 3.0)],
    "SimPO": [SimPOConstants(beta=beta, gamma=beta / 2) for beta in (1.0, 2.0, 4.0)],
}
"""Method to the constants of its cells."""


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Over a grid of betas LN-DPO writes shorter responses than DPO, as good ones, in a world of copying.

    Labels of a second panel reward length; it is reported and has no part in the rule.

    Rule:
        Seen: the length over the grid of betas is below DPO's in at least 4 of 5 seeds, and gold over the grid is at
        least DPO's - 0.02. Not seen: fewer seeds, or gold lower by more than 0.05. Mixed: between.

    Setting:
        Copying letters: transformer of 2 layers and width 48, 1200 pairs of its own samples labelled by gold with
        noise; 300 steps of 32 pairs, Adam 3e-4. Betas: DPO 0.03, 0.1, 0.3; LN-DPO 0.3, 1, 3; SimPO 1, 2, 4 with gamma =
        beta / 2. 400 fresh prompts, 4 samples each.
    """

    def grid(method: str, panel: str = "") -> list[str]:
        return [f"{method} {cell.beta:g}{panel}" for cell in GRIDS[method]]

    arms: dict[str, Arm[Start[CopyingWorld]]] = {"SFT": untrained_arm}
    for method, panel in [
        *((method, "") for method in GRIDS),
        ("DPO", LENGTH_PANEL),
        ("LN-DPO", LENGTH_PANEL),
    ]:
        cells = zip(grid(method, panel), GRIDS[method], strict=True)
        name = method.lower().replace("-", "_")
        arms |= {cell: training_arm(name, constants, panel) for cell, constants in cells}

    panels = {"": 0.0, LENGTH_PANEL: 0.03}  # 0.15 per five tokens
    rows = measure_arms(run, seeds=seeds, prepare=partial(start, panels=panels), arms=arms)
    shorter = rows.gaps("length", grid("LN-DPO"), grid("DPO"))
    gold = rows.gap("gold", grid("LN-DPO"), grid("DPO"))
    longer = rows.gaps("length", grid("LN-DPO", LENGTH_PANEL), grid("DPO", LENGTH_PANEL))
    reduced = {seed: gap < 0 for seed, gap in shorter.items()}
    best = [max(grid(method), key=lambda arm: rows.mean("gold", arm)) for method in GRIDS]
    return rows.verdict(
        check,
        outcome=decide(
            seen=most_seeds(reduced) and gold >= -0.02, not_seen=not most_seeds(reduced) or gold < -0.05
        ),
        summary={
            "seeds with shorter responses": sum(reduced.values()),
            "length, LN-DPO - DPO": mean_of(shorter),
            "gold, LN-DPO - DPO": gold,
            **{f"KL of the best cell, {arm}": rows.mean("kl", arm) for arm in best},
            "length, LN-DPO - DPO, labels reward length": mean_of(longer),
            "seeds with shorter responses, labels reward length": sum(gap < 0 for gap in longer.values()),
        },
    )
