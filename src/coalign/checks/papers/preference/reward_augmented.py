"""Desk-scale check of `reward-augmented`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.real_text import read_prompts
from coalign.checks.rules import decide, mean_of, most_seeds, paired_gaps, values_of
from coalign.checks.system_arms.real_text_arms import (
    GOALS,
    SCALE,
    GoalText,
    goal_measures,
    goal_text,
    text_placement,
)
from coalign.checks.text_training import adapted
from coalign.checks.worlds.scored_world import ScoredPairs, base_arm, goal_arm, scored_pairs
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.data.goal_conditioning import goal_reward, relabel
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.objective import get_objective


def check(run: Run, *, seeds: int = 5, data: Path | None = None) -> Verdict:
    """Under goals good rejected replies are unlearned less than by DPO, and quality follows the goal, in a world of
    scored replies.

    With `data`, prompts in real text: the same two measures on replies of the default model that a program scores.
    """
    if data is not None:
        return _check_on_text(run, seeds, data)
    dpo = get_objective("dpo")
    plain, longer, relabelled, half = (
        "DPO",
        "DPO, as many steps",
        "reward-augmented",
        "reward-augmented, half",
    )
    constants = DPOConstants(beta=0.1)
    arms: dict[str, Callable[[ScoredPairs], Measures]] = {
        "base": base_arm,
        plain: goal_arm(dpo, constants, None),
        longer: goal_arm(dpo, constants, None, epochs=6),
        relabelled: goal_arm(dpo, constants, goal_reward),
        half: goal_arm(dpo, constants, goal_reward, share=0.5),
    }
    rows = measure_arms(run, seeds=seeds, prepare=scored_pairs, arms=arms)
    change = "good rejected, change"
    over_plain, over_longer = (paired_gaps(rows, change, relabelled, arm) for arm in (plain, longer))
    kept = {seed: over_plain[seed] > 0 and over_longer[seed] > 0 for seed in over_plain}
    rise = _of_goals(rows, relabelled, (4, 5)) - _of_goals(rows, relabelled, (0, 2))
    return Verdict(
        slug="reward-augmented",
        outcome=decide(seen=most_seeds(kept) and rise >= 0.1),
        claim=get("reward-augmented").claim,
        rule="Seen: in at least 4 of 5 seeds the log-probability of rejected replies of score 4 or more falls less from "
        "the base model than under DPO, also under DPO with as many steps, the relabelled model asked for the highest "
        "score; and the mean quality of its samples rises by 0.1 or more from goals 0 and 2 to goals 4 and 5. Otherwise "
        "not seen. Quality at the highest goal against DPO's has no part in it.",
        setting="Classes and replies of eight symbols, true scores 0 to 6: GRU of 2 layers and width 96, 12,000 rows, half "
        "under a score up to 2 off. 1500 pairs of its own samples with true scores; 3 epochs of batches of 32, Adam 1e-3, "
        "beta 0.1. 300 prompts, 2 samples each at temperature 1.",
        measures=rows,
        summary={
            "seeds in which good rejected replies fall less": sum(kept.values()),
            "change, reward-augmented - DPO": mean_of(over_plain),
            "change, reward-augmented - DPO, as many steps": mean_of(over_longer),
            "quality, goals 4 and 5 - goals 0 and 2": rise,
            "quality, reward-augmented at goal 6 - DPO": _of_goals(rows, relabelled, (6,))
            - mean_of(values_of(rows, "quality, no goal", plain)),
            "quality, reward-augmented at goal 5 - DPO": _of_goals(rows, relabelled, (5,))
            - mean_of(values_of(rows, "quality, no goal", plain)),
        },
        tried=[_tried(rows, relabelled, (plain, longer))],
        seconds=seconds_spent(run),
    )


def _tried(rows: Sequence[dict[str, Any]], arm: str, against: tuple[str, str]) -> str:
    """The first measure under goal 5 in place of 6, in words."""
    under_5 = values_of(rows, "good rejected, change, goal 5", arm)
    others = [values_of(rows, "good rejected, change", one) for one in against]
    kept = sum(all(under_5[seed] > one[seed] for one in others) for seed in under_5)
    gaps = [mean_of(under_5) - mean_of(one) for one in others]
    return (
        "Asked for score 5 in place of 6: good rejected replies fall less than under both trainings of DPO in "
        f"{kept} of {len(under_5)} seeds; change, reward-augmented - DPO {gaps[0]:+.3f}, reward-augmented - DPO, as many "
        f"steps {gaps[1]:+.3f}."
    )


def _of_goals(rows: Sequence[dict[str, Any]], arm: str, goals: Sequence[int]) -> float:
    """Mean quality of an arm's samples over some goals and all seeds."""
    return fmean(mean_of(values_of(rows, f"quality, goal {goal}", arm)) for goal in goals)


def _check_on_text(run: Run, seeds: int, data: Path) -> Verdict:
    prompts = read_prompts(data)
    dpo, constants = get_objective("dpo"), DPOConstants(beta=0.1)

    def plain(material: GoalText, passes: int) -> Measures:
        steps = passes * len(material.pairs)
        model = adapted(material.pairs, dpo, constants, steps=steps, seed=material.seed)
        return goal_measures(material, model, None)

    def under_goals(material: GoalText) -> Measures:
        rows = relabel(material.pairs, scale=SCALE, placement=text_placement()).records
        model = adapted(rows, dpo, constants, steps=len(rows), seed=material.seed)
        return goal_measures(material, model, SCALE.highest)

    arms: dict[str, Callable[[GoalText], Measures]] = {
        "default model": lambda material: goal_measures(material, None, SCALE.highest),
        "DPO": lambda material: plain(material, 1),
        "DPO, as many steps": lambda material: plain(material, 2),
        "reward-augmented": under_goals,
    }
    rows = measure_arms(run, seeds=seeds, prepare=partial(goal_text, prompts), arms=arms)
    over_plain, over_longer = (
        paired_gaps(rows, "good rejected, change", "reward-augmented", arm)
        for arm in ("DPO", "DPO, as many steps")
    )
    kept = {seed: over_plain[seed] > 0 and over_longer[seed] > 0 for seed in over_plain}
    low, high = (values_of(rows, f"score, goal {goal}", "reward-augmented") for goal in GOALS)
    rise = mean_of(high) - mean_of(low)
    return Verdict(
        slug="reward-augmented",
        outcome=decide(seen=most_seeds(kept) and rise >= 0.9),
        claim=get("reward-augmented").claim,
        rule="Seen: in at least 4 of 5 seeds (of 3: all) the log-probability of good rejected replies falls less from the "
        "default model than under DPO, also under DPO with as many steps, the relabelled model asked for score 10; and the "
        "mean score of its samples rises by 0.9, a tenth of the scale, or more from goal 2 to goal 9. Otherwise not seen.",
        setting=f"{data.name}: 24 prompts a seed of at most 64 tokens, two replies of 32 tokens to each by the default "
        "model; a program scores them from 1 to 10 by the letters of a word on average, short words high; pairs of "
        "different scores. Good: a rejected reply at or above the median of the rejected ones. One pass of one row a step, "
        "adapter of rank 16, Adam 3e-4, beta 0.1; two samples a prompt and goal.",
        measures=rows,
        summary={
            "seeds in which good rejected replies fall less": sum(kept.values()),
            "change, reward-augmented - DPO": mean_of(over_plain),
            "change, reward-augmented - DPO, as many steps": mean_of(over_longer),
            "score, goal 9 - goal 2": rise,
            "score, goal 9 - goal 2, default model": mean_of(
                values_of(rows, "score, goal 9", "default model")
            )
            - mean_of(values_of(rows, "score, goal 2", "default model")),
        },
        seconds=seconds_spent(run),
    )
