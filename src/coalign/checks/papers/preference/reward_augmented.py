"""Check of `reward-augmented`: pairs relabelled by score, in the world of scored replies; replies in real text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from coalign.checks.arms import Arm, Measured, Measures, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds, settled
from coalign.checks.worlds.records import goals as world
from coalign.checks.worlds.records.default_model import adapted
from coalign.checks.worlds.records.reading import read_prompts
from coalign.checks.worlds.replies.scored import HIGHEST, ScoredPairs, base_arm, goal_arm, scored_pairs
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Preference
from coalign.preference.data.goal_conditioning import goal_reward, relabel
from coalign.training.losses.pairwise import DPOConstants

PLAIN, LONGER, OURS = "DPO", "DPO, as many steps", "reward-augmented"
CHANGE = "good rejected, change"


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Under goals good rejected replies are unlearned less than by DPO, and quality follows the goal, in a world of
    scored replies.

    Rule:
        Seen: in at least 4 of 5 seeds the log-probability of rejected replies of score 4 or more falls less from the
        base model than under DPO, also under DPO with as many steps, the relabelled model asked for the highest score;
        and the mean quality of its samples rises by 0.1 or more from goals 0 and 2 to goals 4 and 5. Otherwise not
        seen. Quality at the highest goal against DPO's has no part in it.

    Setting:
        Classes and replies of eight symbols, true scores 0 to 6: GRU of 2 layers and width 96, 12,000 rows, half under
        a score up to 2 off. 1500 pairs of its own samples with true scores; 3 epochs of batches of 32, Adam 1e-3, beta
        0.1. 300 prompts, 2 samples each at temperature 1.
    """
    constants = DPOConstants(beta=0.1)
    arms: dict[str, Arm[ScoredPairs]] = {
        "base": base_arm,
        PLAIN: goal_arm("dpo", constants, "pairs", goal=None),
        LONGER: goal_arm("dpo", constants, "pairs", goal=None, epochs=6),
        OURS: goal_arm("dpo", constants, "rows", goal=HIGHEST),
        f"{OURS}, half": goal_arm("dpo", constants, "half of the rows", goal=HIGHEST),
    }
    rows = measure_arms(run, seeds=seeds, prepare=partial(scored_pairs, reward=goal_reward), arms=arms)
    changes, kept = _changes(rows)
    rise = settled(_of_goals(rows, OURS, (4, 5)) - _of_goals(rows, OURS, (0, 2)))
    return rows.verdict(
        check,
        outcome=decide(seen=most_seeds(kept) and rise >= 0.1),
        summary={
            **changes,
            "quality, goals 4 and 5 - goals 0 and 2": rise,
            **{
                f"quality, reward-augmented at goal {goal} - DPO": _of_goals(rows, OURS, (goal,))
                - rows.mean("quality, no goal", PLAIN)
                for goal in (6, 5)
            },
        },
        tried=[_tried(rows)],
    )


def _changes(rows: Measured) -> tuple[dict[str, float], dict[int, bool]]:
    """Figures of the first measure, beside both trainings by DPO; and seed to whether good rejected replies fall less."""
    gaps = {arm: rows.gaps(CHANGE, OURS, arm) for arm in (PLAIN, LONGER)}
    kept = {seed: all(one[seed] > 0 for one in gaps.values()) for seed in gaps[PLAIN]}
    changes = {f"change, {OURS} - {arm}": mean_of(one) for arm, one in gaps.items()}
    return {"seeds in which good rejected replies fall less": sum(kept.values()), **changes}, kept


def _tried(rows: Measured) -> str:
    """The first measure under goal 5 in place of 6, in words."""
    under_5 = rows.values(f"{CHANGE}, goal 5", OURS)
    others = [rows.values(CHANGE, arm) for arm in (PLAIN, LONGER)]
    kept = sum(all(under_5[seed] > one[seed] for one in others) for seed in under_5)
    gaps = [mean_of(under_5) - mean_of(one) for one in others]
    return (
        "Asked for score 5 in place of 6: good rejected replies fall less than under both trainings of DPO in "
        f"{kept} of {len(under_5)} seeds; change, reward-augmented - DPO {gaps[0]:+.3f}, reward-augmented - DPO, as many "
        f"steps {gaps[1]:+.3f}."
    )


def _of_goals(rows: Measured, arm: str, goals: Sequence[int]) -> float:
    """Mean quality of an arm's samples over some goals and all seeds."""
    return fmean(rows.mean(f"quality, goal {goal}", arm) for goal in goals)


def check_on_data(run: Run, *, seeds: int = 5, data: Path) -> Verdict:
    """Prompts in real text: the same two measures on replies of the default model that a program scores.

    Rule:
        Seen: in at least 4 of 5 seeds (of 3: all) the log-probability of good rejected replies falls less from the
        default model than under DPO, also under DPO with as many steps, the relabelled model asked for score 10; and
        the mean score of its samples rises by 0.9, a tenth of the scale, or more from goal 2 to goal 9. Otherwise not
        seen.

    Setting:
        {data}: 24 prompts a seed of at most 64 tokens, two replies of 32 tokens to each by the default model; a program
        scores them from 1 to 10 by the letters of a word on average, short words high; pairs of different scores. Good:
        a rejected reply at or above the median of the rejected ones. One pass of one row a step, adapter of rank 16,
        Adam 3e-4, beta 0.1; two samples a prompt and goal.
    """
    prompts = read_prompts(data)

    def learned(
        material: world.GoalText, records: list[Preference], passes: int, goal: float | None
    ) -> Measures:
        steps = passes * len(records)
        model = adapted(records, "dpo", DPOConstants(beta=0.1), steps=steps, seed=material.seed)
        return world.goal_measures(material, model, goal)

    def under_goals(material: world.GoalText) -> Measures:
        rows = relabel(material.pairs, scale=world.SCALE, placement=world.text_placement()).records
        return learned(material, rows, 1, world.SCALE.highest)

    arms: dict[str, Arm[world.GoalText]] = {
        "default model": lambda material: world.goal_measures(material, None, world.SCALE.highest),
        PLAIN: lambda material: learned(material, material.pairs, 1, None),
        LONGER: lambda material: learned(material, material.pairs, 2, None),
        OURS: under_goals,
    }
    rows = measure_arms(run, seeds=seeds, prepare=partial(world.goal_text, prompts), arms=arms)
    changes, kept = _changes(rows)

    def rise(arm: str) -> float:
        low, high = (rows.mean(f"score, goal {goal}", arm) for goal in world.GOALS)
        return settled(high - low)

    return rows.verdict(
        check_on_data,
        outcome=decide(seen=most_seeds(kept) and rise(OURS) >= 0.9),
        summary={
            **changes,
            "score, goal 9 - goal 2": rise(OURS),
            "score, goal 9 - goal 2, default model": rise("default model"),
        },
        data=data.name,
    )
