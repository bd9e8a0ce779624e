"""Check of `i-sheep`: rounds of own replies that the model grades itself, each trained from the base model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.steps import example, trained
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.replies.graded import GradedWorld
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.training.objective import get_objective

ROUNDS = 3
PROMPTS = 800
ABOVE = 8
BATCH = 16
FEWEST = 0.25
"""Share that is kept at least: the highest grades, where fewer are above the threshold."""


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share."""

    world: GradedWorld
    base: nn.Module


def prepare(seed: int) -> Material:
    """The world of a seed and its base model."""
    world = GradedWorld(seed)
    return Material(world, world.base(rows=6000, graded=1500, epochs=6))


def rounds_arm(rounds: int, *, filtered: bool = True, continued: bool = False) -> Arm[Material]:
    """Rounds of one reply to each prompt, grades of the base model, training of the base model on what is kept.

    Args:
        filtered: keep what is graded above the threshold; else all.
        continued: train the last round's model instead.
    """

    def arm(material: Material) -> Measures:
        world, model = material.world, material.base
        kept_quality = kept_share = 0.0
        for number in range(1, rounds + 1):
            prompts = world.prompts(PROMPTS, f"round {number}")
            replies = world.replies(model, prompts, 1, f"round {number}")
            grades = world.grades(material.base, prompts, replies)
            order = grades.argsort(descending=True).tolist()
            above = int((grades.floor() > ABOVE).sum())
            count = max(above, int(FEWEST * PROMPTS)) if filtered else PROMPTS
            kept = sorted(order[:count])
            truth = world.quality(prompts, replies)[:, 0]
            kept_quality, kept_share = float(truth[kept].mean()), above / PROMPTS
            model = trained(
                model if continued else material.base,
                [example(prompts[place], replies[place]) for place in kept],
                get_objective("sft"),
                steps=2 * count // BATCH,
                batch_size=BATCH,
                learning_rate=1e-3,
                generator=stream(world.seed, f"order {number}"),
            )
        return {**world.measure(model), "kept quality": kept_quality, "graded above": kept_share}

    return arm


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Three rounds of graded replies are better than one, and than three without grades, in a world of classes and replies.

    Rule:
        Seen: in at least 4 of 5 seeds the quality of samples after round 3 is above that after round 1 by 0.02 or more,
        and above that after three rounds without a filter by 0.03 or more. Otherwise not seen.

    Setting:
        Classes and replies: GRU of 2 layers and width 96, 8 classes, 24 symbols, replies of 8. The base model learned
        from 6,000 rows, of which 30 % answer with symbols that are good for the class and 70 % go on with random symbols
        and speakers' marks, and from 1,500 grades (quality in ten bins, off by up to one). A round: 800 prompts, one
        sample each at temperature 0.8, graded by the base model; grades above 8 are kept (a quarter at least), and the
        base model is trained on them for 2 epochs of batches of 16, Adam 1e-3. 300 held-out prompts, 4 samples each.
    """
    arms: dict[str, Arm[Material]] = {
        "base": lambda material: (
            material.world.measure(material.base) | {"kept quality": 0.0, "graded above": 0.0}
        ),
        "round 1": rounds_arm(1),
        "round 2": rounds_arm(2),
        "round 3": rounds_arm(ROUNDS),
        "round 3, no filter": rounds_arm(ROUNDS, filtered=False),
        "round 3, last model trained on": rounds_arm(ROUNDS, continued=True),
    }
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    over_first = rows.gaps("quality", "round 3", "round 1")
    over_plain = rows.gaps("quality", "round 3", "round 3, no filter")
    hits = {seed: over_first[seed] >= 0.02 and over_plain[seed] >= 0.03 for seed in over_first}
    return rows.verdict(
        check,
        outcome=decide(seen=most_seeds(hits)),
        summary={
            "seeds that hit": sum(hits.values()),
            "quality, round 3 - round 1": mean_of(over_first),
            "quality, round 3 - no filter": mean_of(over_plain),
            "quality, round 1 - base": rows.gap("quality", "round 1", "base"),
            "quality, round 3 from base - from the last model": rows.gap(
                "quality", "round 3", "round 3, last model trained on"
            ),
        },
    )
