"""Check of `cream`: rounds on self-made labels, softened by how far two models agree, in the world of classes and replies."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from torch import nn

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.starts import untrained_arm
from coalign.checks.steps import example
from coalign.checks.worlds.replies.replies import Replies, ReplyWorld
from coalign.checks.worlds.replies.self_labelled import Label, Lineage, fine_tuned, rounds_arm, summed_logps
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.loops.scoring import best_and_worst
from coalign.selfalign.cream import consistency
from coalign.training.batches import Example
from coalign.training.losses.pairwise import CONFIDENCE, WEIGHT

Level = Literal["off", "set", "sample"]


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Softening self-made labels by the agreement of two rounds keeps self-rewarding from collapsing.

    All arms start from the same fine-tuned model and differ in how far they believe their labels alone. Self-rewarding
    believes them all. The gap of the set-level rate, and every round's rate, are reported and have no part in the rule.

    Rule:
        Seen: after three rounds the task score of the sample-level rate is above that of self-rewarding in at least 4
        of 5 seeds, and by 0.02 or more on average. Otherwise not seen.

    Setting:
        Classes and replies: GRU of 2 layers and width 96, 8 classes, 36 symbols, replies of 8. M0: 3 epochs over 4000
        replies of mixed quality; M1: 3 epochs over 200 good ones. Three rounds of 256 fresh prompts, 5 samples each at
        temperature 0.8; one epoch of batches of 32, Adam 5e-4, beta 0.1. Task score: share of the 6 hidden good
        symbols in a reply, over 300 held-out prompts, 4 samples each.
    """
    arms: dict[str, Arm[Lineage]] = {
        "M1": untrained_arm,
        "self-rewarding": rounds_arm(labelled("off")),
        "CREAM, set level": rounds_arm(labelled("set")),
        "CREAM, sample level": rounds_arm(labelled("sample")),
    }
    rows = measure_arms(run, seeds=seeds, prepare=fine_tuned, arms=arms)
    gaps = rows.gaps("task score", "CREAM, sample level", "self-rewarding")
    seen = most_seeds({seed: gap > 0 for seed, gap in gaps.items()}) and mean_of(gaps) >= 0.02
    rates = [f"consistency, round {number}" for number in (1, 2, 3)]
    return rows.verdict(
        check,
        outcome=decide(seen=seen),
        summary={
            "seeds with a gain": sum(gap > 0 for gap in gaps.values()),
            "task score, sample level - self-rewarding": mean_of(gaps),
            "task score, set level - self-rewarding": rows.gap(
                "task score", "CREAM, set level", "self-rewarding"
            ),
            "task score, self-rewarding - M1": rows.gap("task score", "self-rewarding", "M1"),
            "task score, sample level - M1": rows.gap("task score", "CREAM, sample level", "M1"),
            **{
                f"{name}, {arm}": rows.mean(name, arm)
                for arm in ("self-rewarding", "CREAM, sample level")
                for name in rates
            },
        },
    )


def labelled(level: Level) -> Label:
    """Pairs of best and worst by the DPO reward of the round's model, believed as far as the model before agrees."""

    def label(
        world: ReplyWorld, models: Sequence[nn.Module], prompts: list[list[int]], replies: Replies
    ) -> tuple[list[Example], Measures]:
        first, *_, before, now = [summed_logps(one, prompts, replies) for one in (models[0], *models[-2:])]
        current = (now - first).tolist()
        # M0 has no reward against itself: its likelihood a token ranks in its place
        previous = (before if len(models) == 2 else before - first).tolist()
        rates = [consistency(*one) for one in zip(current, previous, strict=True)]
        mean = statistics.fmean(rates)
        pairs = []
        for prompt, row, rewards, own in zip(prompts, replies, current, rates, strict=True):
            places = best_and_worst(rewards)
            if places is not None:
                believed = {"off": 1.0, "set": mean, "sample": own}[level]
                chosen = [row[place] for place in places]
                pairs.append(example(prompt, chosen, [1.0, 0.0], **{CONFIDENCE: believed, WEIGHT: 1.0}))
        return pairs, {"consistency": mean}

    return label
