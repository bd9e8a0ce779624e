"""Desk-scale check of `act`."""

from __future__ import annotations

from collections.abc import Callable

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.rules import decide, mean_of, most_seeds, paired_gaps
from coalign.checks.worlds.reply_world import SampledReplies, sampled_replies, training_arm, untrained_arm
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.selfalign.act import Constants
from coalign.training.objective import get_objective


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Learning from verified constraints raises their satisfaction in a world of classes and replies.

    ACT is compared with the base model, with training on one random sample of its own, and with training on the best
    of K samples, over the same steps; the task score is hidden from every arm. The same with four times the steps is
    reported and has no part in the rule.
    """
    best_of_k, own_sample, more = "best of 4 samples", "one random sample", ", batches of 4"
    sft, ranking = get_objective("sft"), get_objective("constraint_ranking")
    constants = Constants(margin=3.0, ft_weight=3.0)
    arms: dict[str, Callable[[SampledReplies], Measures]] = {"base": untrained_arm}
    for suffix, batch_size in (("", 16), (more, 4)):
        arms[own_sample + suffix] = training_arm(sft, None, "first", batch_size=batch_size)
        arms[best_of_k + suffix] = training_arm(sft, None, "best", batch_size=batch_size)
        arms["ACT" + suffix] = training_arm(ranking, constants, "all", batch_size=batch_size)
    rows = measure_arms(run, seeds=seeds, prepare=sampled_replies, arms=arms)
    over_base = paired_gaps(rows, "satisfaction", "ACT", "base")
    over_sample = paired_gaps(rows, "satisfaction", "ACT", own_sample)
    hits = {seed: over_base[seed] >= 0.03 and over_sample[seed] > 0 for seed in over_base}
    task = mean_of(paired_gaps(rows, "task score", "ACT", "base"))
    return Verdict(
        slug="act",
        outcome=decide(seen=most_seeds(hits) and task >= 0),
        claim=get("act").claim,
        rule="Seen: in at least 4 of 5 seeds ACT's satisfaction is above the base model's by 0.03 or more and above "
        "that of training on one random sample, and the mean task score is not below the base model's. Otherwise not "
        "seen.",
        setting="Classes and replies: GRU of 2 layers and width 96, 8 classes, 24 symbols, replies of 8; constraints: "
        "allowed symbols only, no repetition. 400 prompts, 4 samples each at temperature 0.8; 2 epochs of batches of "
        "16, Adam 1e-3; margin 3, fine-tuning weight 3. 300 held-out prompts, 4 samples each.",
        measures=rows,
        summary={
            "seeds that hit": sum(hits.values()),
            "satisfaction, ACT - base": mean_of(over_base),
            "satisfaction, ACT - one random sample": mean_of(over_sample),
            "satisfaction, ACT - best of 4 samples": mean_of(
                paired_gaps(rows, "satisfaction", "ACT", best_of_k)
            ),
            "task score, ACT - base": task,
        },
        tried=[
            "Batches of 4 prompts, so four times the steps: "
            + ", ".join(
                f"{metric} {mean_of(paired_gaps(rows, metric, 'ACT' + more, 'base')):+.3f}"
                for metric in ("satisfaction", "task score")
            )
            + " over the base model."
        ],
        seconds=seconds_spent(run),
    )
