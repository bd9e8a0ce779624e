"""Check of `act`: learning from verified constraints, in the world of classes and replies."""

from __future__ import annotations

from coalign.checks.arms import Arm, measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.starts import Start, untrained_arm
from coalign.checks.worlds.replies.replies import ReplyWorld, sampled_replies, self_training_arm
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.selfalign.act import Constants


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Learning from verified constraints raises their satisfaction in a world of classes and replies.

    ACT is compared with the base model, with training on one random sample of its own, and with training on the best
    of K samples, over the same steps; the task score is hidden from every arm. The same with four times the steps is
    reported and has no part in the rule.

    Rule:
        Seen: in at least 4 of 5 seeds ACT's satisfaction is above the base model's by 0.03 or more and above that of
        training on one random sample, and the mean task score is not below the base model's. Otherwise not seen.

    Setting:
        Classes and replies: GRU of 2 layers and width 96, 8 classes, 24 symbols, replies of 8; constraints: allowed
        symbols only, no repetition. 400 prompts, 4 samples each at temperature 0.8; 2 epochs of batches of 16, Adam
        1e-3; margin 3, fine-tuning weight 3. 300 held-out prompts, 4 samples each.
    """
    best_of_k, own_sample, more = "best of 4 samples", "one random sample", ", batches of 4"
    constants = Constants(margin=3.0, ft_weight=3.0)
    arms: dict[str, Arm[Start[ReplyWorld]]] = {"base": untrained_arm}
    for suffix, batch_size in (("", 16), (more, 4)):
        arms[own_sample + suffix] = self_training_arm("sft", None, "first", batch_size=batch_size)
        arms[best_of_k + suffix] = self_training_arm("sft", None, "best", batch_size=batch_size)
        arms["ACT" + suffix] = self_training_arm(
            "constraint_ranking", constants, "all", batch_size=batch_size
        )
    rows = measure_arms(run, seeds=seeds, prepare=sampled_replies, arms=arms)
    over_base = rows.gaps("satisfaction", "ACT", "base")
    over_sample = rows.gaps("satisfaction", "ACT", own_sample)
    hits = {seed: over_base[seed] >= 0.03 and over_sample[seed] > 0 for seed in over_base}
    task = rows.gap("task score", "ACT", "base")
    return rows.verdict(
        check,
        outcome=decide(seen=most_seeds(hits) and task >= 0),
        summary={
            "seeds that hit": sum(hits.values()),
            "satisfaction, ACT - base": mean_of(over_base),
            "satisfaction, ACT - one random sample": mean_of(over_sample),
            "satisfaction, ACT - best of 4 samples": rows.gap("satisfaction", "ACT", best_of_k),
            "task score, ACT - base": task,
        },
        tried=[
            "Batches of 4 prompts, so four times the steps: "
            + ", ".join(
                f"{metric} {rows.gap(metric, 'ACT' + more, 'base'):+.3f}"
                for metric in ("satisfaction", "task score")
            )
            + " over the base model."
        ],
    )
