"""Desk-scale check of `ln-dpo`."""

from __future__ import annotations

from collections.abc import Callable

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.rules import decide, mean_of, most_seeds, paired_gaps, values_of
from coalign.checks.worlds.preference_world import Start, start, training_arm, untrained_arm
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.ln_dpo import Constants
from coalign.training.losses.pairwise import DPOConstants, SimPOConstants
from coalign.training.objective import get_objective

LENGTH_PANEL = ", labels reward length"
"""Marks the arms of the check's second panel."""


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Over a grid of betas LN-DPO writes shorter responses than DPO, as good ones, in a world of copying.

    Labels of a second panel reward length; it is reported and has no part in the rule.
    """

    def grid(method: str, panel: str = "") -> list[str]:
        return [f"{method} {beta:g}{panel}" for beta in _check_grid(method)]

    arms: dict[str, Callable[[Start], Measures]] = {"SFT": untrained_arm}
    for method, panel in [
        ("DPO", ""),
        ("LN-DPO", ""),
        ("SimPO", ""),
        ("DPO", LENGTH_PANEL),
        ("LN-DPO", LENGTH_PANEL),
    ]:
        cells = zip(grid(method, panel), _check_grid(method).values(), strict=True)
        name = method.lower().replace("-", "_")
        arms |= {cell: training_arm(get_objective(name), constants, panel) for cell, constants in cells}

    def prepare(seed: int) -> Start:
        # 0.15 per five tokens.
        return start(seed, {"": 0.0, LENGTH_PANEL: 0.03})

    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    shorter = paired_gaps(rows, "length", grid("LN-DPO"), grid("DPO"))
    gold = mean_of(paired_gaps(rows, "gold", grid("LN-DPO"), grid("DPO")))
    longer = paired_gaps(rows, "length", grid("LN-DPO", LENGTH_PANEL), grid("DPO", LENGTH_PANEL))
    reduced = {seed: gap < 0 for seed, gap in shorter.items()}
    best = {
        m: max(grid(m), key=lambda arm: mean_of(values_of(rows, "gold", arm)))
        for m in ("DPO", "LN-DPO", "SimPO")
    }
    return Verdict(
        slug="ln-dpo",
        outcome=decide(
            seen=most_seeds(reduced) and gold >= -0.02, not_seen=not most_seeds(reduced) or gold < -0.05
        ),
        claim=get("ln-dpo").claim,
        rule="Seen: the length over the grid of betas is below DPO's in at least 4 of 5 seeds, and gold over the grid "
        "is at least DPO's - 0.02. Not seen: fewer seeds, or gold lower by more than 0.05. Mixed: between.",
        setting="Copying letters: transformer of 2 layers and width 48, 1200 pairs of its own samples labelled by gold "
        "with noise; 300 steps of 32 pairs, Adam 3e-4. Betas: DPO 0.03, 0.1, 0.3; LN-DPO 0.3, 1, 3; SimPO 1, 2, 4 "
        "with gamma = beta / 2. 400 fresh prompts, 4 samples each.",
        measures=rows,
        summary={
            "seeds with shorter responses": sum(reduced.values()),
            "length, LN-DPO - DPO": mean_of(shorter),
            "gold, LN-DPO - DPO": gold,
            **{f"KL of the best cell, {arm}": mean_of(values_of(rows, "kl", arm)) for arm in best.values()},
            "length, LN-DPO - DPO, labels reward length": mean_of(longer),
            "seeds with shorter responses, labels reward length": sum(gap < 0 for gap in longer.values()),
        },
        seconds=seconds_spent(run),
    )


def _check_grid(method: str) -> dict[float, Constants | DPOConstants | SimPOConstants]:
    """Beta to constants."""
    if method == "SimPO":
        return {beta: SimPOConstants(beta=beta, gamma=beta / 2) for beta in (1.0, 2.0, 4.0)}
    if method == "DPO":
        return {beta: DPOConstants(beta=beta) for beta in (0.03, 0.1, 0.3)}
    return {beta: Constants(beta=beta) for beta in (0.3, 1.0, 3.0)}
