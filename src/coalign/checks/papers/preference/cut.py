"""Check of `cut`: tokens that a judge criticises, in the world of copying; quoted criticism in real text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import clearly_above, decide, exceeds, gaps_between, mean_of
from coalign.checks.worlds.copying.judged import STEPS, Judged, judged, judged_arm, untouched_arm
from coalign.checks.worlds.records.default_model import adapted
from coalign.checks.worlds.records.quotations import QuotedText, criticised, quoted_measures, quoted_text
from coalign.checks.worlds.records.reading import read_judgments
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.cut import CUTConstants, inappropriate_tokens

LAST_GOLD = f"gold, {STEPS[-1]} steps"
"""What the check's rule compares."""


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Criticised tokens are found by their change in probability, and unlearning them beats likelihood on the same
    answers, in a world of copying with a judge.

    Rule:
        Seen: in every seed the tokens found at threshold 1.2 are wrong more often than all tokens of judged answers, by
        0.1 or more, and hold more than 0.7 of the wrong ones, and at threshold 3 more than 0.9 of the found are wrong;
        and gold after 450 steps is above that of likelihood on the same answers by more than 2 standard errors. Not
        seen: found tokens are wrong no more often in the mean, or gold is not above. Mixed: between. The comparison
        with hindsight has no part in it.

    Setting:
        Copying three letters with a judge who marks each: transformer of 2 layers and width 48, start model 60 % right;
        1200 of its answers, those without a fault unjudged; 450 steps of 32, Adam 1e-3 (5e-4 at threshold 3),
        unlikelihood weight 1. Found tokens: 300 fresh answers of the start model, after the last step. Gold: 300 fresh
        prompts without judgments, 4 samples each.
    """

    def contrast(threshold: float, **settings: float) -> Callable[[Judged], Measures]:
        constants = CUTConstants(threshold=threshold, unlikelihood_weight=1.0)
        detect = partial(inappropriate_tokens, threshold=threshold)
        return judged_arm("cut", constants, "contrasts", detect=detect, **settings)

    arms: dict[str, Callable[[Judged], Measures]] = {
        "start": untouched_arm,
        "likelihood": judged_arm("sft", None, "plain"),
        "hindsight": judged_arm("sft", None, "hindsight"),
        "CUT": contrast(1.2),
        "CUT, threshold 3": contrast(3.0, learning_rate=5e-4),
    }
    rows = measure_arms(run, seeds=seeds, prepare=judged, arms=arms)
    precision, recall = (rows.values(metric, "CUT") for metric in ("precision", "recall"))
    strict = rows.values("precision", "CUT, threshold 3")
    above = gaps_between(precision, rows.values("base rate", "CUT"))
    found = all(above[seed] >= 0.1 and recall[seed] > 0.7 and strict[seed] > 0.9 for seed in above)
    gaps = rows.gaps(LAST_GOLD, "CUT", "likelihood")
    return rows.verdict(
        check,
        outcome=decide(seen=found and exceeds(gaps), not_seen=mean_of(above) <= 0 or mean_of(gaps) <= 0),
        summary={
            "precision above base rate": mean_of(above),
            "recall": mean_of(recall),
            "precision, threshold 3": mean_of(strict),
            "gold, CUT - likelihood": mean_of(gaps),
            "gold, CUT - hindsight": rows.gap(LAST_GOLD, "CUT", "hindsight"),
        },
    )


def check_on_data(run: Run, *, seeds: int = 5, data: Path) -> Verdict:
    """Judged answers in real text (CUT's files as they are): whether the judgment raises the probability of what it
    quotes more than that of the rest of the answer, after a short training of the default model.

    Rule:
        Seen: after training the log-ratio of the probabilities with and without the judgment is larger for tokens that
        the judgment quotes than for the others, in the mean by more than 2 standard errors over the seeds. Not seen:
        not by more than 1. Mixed: between. Words become likelier by being quoted alone: the measure cannot tell that
        from criticism.

    Setting:
        {data}: a seed trains on 40 criticised answers and measures 12 others whose judgments quote them, at most 400
        tokens each under both prompts. Quoted: what stands in double quotes in the judgment and in the answer, not as a
        better answer. 40 steps of one answer, adapter of rank 16, Adam 3e-4, threshold 1.2, unlikelihood weight 0.5.
    """
    records = criticised(read_judgments(data))
    constants = CUTConstants()
    measured = partial(quoted_measures, detect=partial(inappropriate_tokens, threshold=constants.threshold))

    def learned(material: QuotedText) -> Measures:
        return measured(material, adapted(material.training, "cut", constants, steps=40, seed=material.seed))

    arms = {"default model": lambda material: measured(material, None), "CUT": learned}
    rows = measure_arms(run, seeds=seeds, prepare=partial(quoted_text, records), arms=arms)

    def difference(metric: str, arm: str) -> float:
        return rows.mean(f"{metric}, quoted", arm) - rows.mean(f"{metric}, not quoted", arm)

    inside, outside = (rows.values(f"log-ratio, {part}", "CUT") for part in ("quoted", "not quoted"))
    gaps = gaps_between(inside, outside)
    return rows.verdict(
        check_on_data,
        outcome=clearly_above(gaps),
        summary={
            "log-ratio, quoted - not quoted": mean_of(gaps),
            "found, quoted - not quoted": difference("found", "CUT"),
            "log-ratio, quoted - not quoted, default model": difference("log-ratio", "default model"),
        },
        data=data.name,
    )
