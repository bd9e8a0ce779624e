"""Check of `scir`: two internal rewards that are made to agree, in the world of classes and replies with a judge."""

from __future__ import annotations

from coalign.checks.arms import Arm, measure_arms
from coalign.checks.rules import decide, gaps_between, mean_of, most_seeds
from coalign.checks.starts import Start, untrained_arm
from coalign.checks.worlds.replies.own_judge import JudgingWorld, judging_model, rounds_arm
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.selfalign.scir import Constants


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Training both internal rewards to agree raises their agreement, and what they agree on is labelled better.

    SCIR is compared with plain self-rewarding, which learns all pairs in the order of its judge, over the same rounds;
    the selection alone, without the penalty, is reported and has no part in the rule.

    Rule:
        Seen: in at least 4 of 5 seeds both rewards of SCIR's last model agree on 500 fresh pairs more often by 0.05 or
        more than those of self-rewarding; in at least 4 of 5 seeds its labels are right more often on the pairs on
        which both agree than on all; and its mean task score is at most 0.01 below that of self-rewarding. Otherwise
        not seen.

    Setting:
        Classes and replies: GRU of 2 layers and width 96, 8 classes, 36 symbols, replies of 8; judge questions hold a
        class and two replies and are answered by a letter. M1: 3 epochs over 4000 replies of mixed quality and 600
        verdicts, 25 % of them wrong. Two rounds of 256 fresh pairs at temperature 0.8; one epoch of batches of 32,
        Adam 5e-4, beta 0.1; penalty 1, entropy 0.5, the penalty alone in the first batch of a round. Labels are held
        against the share of the 6 hidden good symbols in a reply, which also is the task score (300 held-out prompts,
        4 samples each).
    """
    arms: dict[str, Arm[Start[JudgingWorld]]] = {
        "M1": untrained_arm,
        "self-rewarding": rounds_arm(Constants(), labelled=True),
        "selection alone": rounds_arm(Constants(penalty_weight=0, warmup_batches=0)),
        "SCIR": rounds_arm(Constants(warmup_batches=1)),
    }
    rows = measure_arms(run, seeds=seeds, prepare=judging_model, arms=arms)
    agreement = rows.gaps("agreement", "SCIR", "self-rewarding")
    kept, everything = (rows.values(f"accuracy, {part}", "SCIR") for part in ("kept", "all"))
    better = gaps_between(kept, everything)
    task = rows.gap("task score", "SCIR", "self-rewarding")
    seen = (
        most_seeds({seed: gap >= 0.05 for seed, gap in agreement.items()})
        and most_seeds({seed: gap > 0 for seed, gap in better.items()})
        and task >= -0.01
    )
    return rows.verdict(
        check,
        outcome=decide(seen=seen),
        summary={
            "agreement, SCIR - self-rewarding": mean_of(agreement),
            "agreement, SCIR - selection alone": rows.gap("agreement", "SCIR", "selection alone"),
            "label accuracy, kept - all pairs": mean_of(better),
            "seeds with better labels on kept pairs": sum(gap > 0 for gap in better.values()),
            "task score, SCIR - self-rewarding": task,
            "task score, SCIR - M1": rows.gap("task score", "SCIR", "M1"),
        },
    )
