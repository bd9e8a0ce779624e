"""Desk-scale check of `cut`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.real_text import read_judgments
from coalign.checks.rules import decide, exceeds, mean_of, paired_gaps, values_of
from coalign.checks.system_arms.real_text_arms import QuotedText, criticised, quoted_measures, quoted_text
from coalign.checks.text_training import adapted
from coalign.checks.worlds.flagged_world import STEPS, Judged, judged, judged_arm, untouched_arm
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.cut import CUTConstants, inappropriate_tokens
from coalign.training.objective import get_objective

LAST_GOLD = f"gold, {STEPS[-1]} steps"
"""What the check's rule compares."""


def check(run: Run, *, seeds: int = 5, data: Path | None = None) -> Verdict:
    """Criticised tokens are found by their change in probability, and unlearning them beats likelihood on the same
    answers, in a world of copying with a judge.

    With `data`, judged answers in real text (CUT's files as they are): whether the judgment raises the probability of
    what it quotes more than that of the rest of the answer, after a short training of the default model.
    """
    if data is not None:
        return _check_on_text(run, seeds, data)
    objective, likelihood = get_objective("cut"), get_objective("sft")

    def contrast(
        threshold: float, weight: float, learning_rate: float = 1e-3
    ) -> Callable[[Judged], Measures]:
        return judged_arm(
            objective,
            CUTConstants(threshold=threshold, unlikelihood_weight=weight),
            Judged.contrasts,
            learning_rate=learning_rate,
            detect=partial(inappropriate_tokens, threshold=threshold),
        )

    arms: dict[str, Callable[[Judged], Measures]] = {
        "start": untouched_arm,
        "likelihood": judged_arm(likelihood, None, Judged.plain),
        "hindsight": judged_arm(likelihood, None, Judged.hindsight),
        "CUT": contrast(1.2, 1.0),
        "CUT, threshold 3": contrast(3.0, 1.0, 5e-4),
    }
    rows = measure_arms(run, seeds=seeds, prepare=judged, arms=arms)
    precision, recall = (values_of(rows, metric, "CUT") for metric in ("precision", "recall"))
    strict = values_of(rows, "precision", "CUT, threshold 3")
    above = {seed: precision[seed] - rate for seed, rate in values_of(rows, "base rate", "CUT").items()}
    found = all(above[seed] >= 0.1 and recall[seed] > 0.7 and strict[seed] > 0.9 for seed in above)
    gaps = paired_gaps(rows, LAST_GOLD, "CUT", "likelihood")
    return Verdict(
        slug="cut",
        outcome=decide(seen=found and exceeds(gaps), not_seen=mean_of(above) <= 0 or mean_of(gaps) <= 0),
        claim=get("cut").claim,
        rule="Seen: in every seed the tokens found at threshold 1.2 are wrong more often than all tokens of judged "
        "answers, by 0.1 or more, and hold more than 0.7 of the wrong ones, and at threshold 3 more than 0.9 of the "
        "found are wrong; and gold after 450 steps is above that of likelihood on the same answers by more than 2 "
        "standard errors. Not seen: found tokens are wrong no more often in the mean, or gold is not above. Mixed: "
        "between. The comparison with hindsight has no part in it.",
        setting="Copying three letters with a judge who marks each: transformer of 2 layers and width 48, start model 60 % "
        "right; 1200 of its answers, those without a fault unjudged; 450 steps of 32, Adam 1e-3 (5e-4 at threshold 3), "
        "unlikelihood weight 1. Found tokens: 300 fresh answers of the start model, after the last step. Gold: 300 fresh "
        "prompts without judgments, 4 samples each.",
        measures=rows,
        summary={
            "precision above base rate": mean_of(above),
            "recall": mean_of(recall),
            "precision, threshold 3": mean_of(strict),
            "gold, CUT - likelihood": mean_of(gaps),
            "gold, CUT - hindsight": mean_of(paired_gaps(rows, LAST_GOLD, "CUT", "hindsight")),
        },
        seconds=seconds_spent(run),
    )


def _check_on_text(run: Run, seeds: int, data: Path) -> Verdict:
    records = criticised(read_judgments(data))
    constants = CUTConstants()

    def measured(material: QuotedText, model: nn.Module | None) -> Measures:
        return quoted_measures(material, model, partial(inappropriate_tokens, threshold=constants.threshold))

    def after_training(material: QuotedText) -> Measures:
        model = adapted(material.training, get_objective("cut"), constants, steps=40, seed=material.seed)
        return measured(material, model)

    rows = measure_arms(
        run,
        seeds=seeds,
        prepare=partial(quoted_text, records),
        arms={"default model": lambda material: measured(material, None), "CUT": after_training},
    )
    inside, outside = (values_of(rows, f"log-ratio, {part}", "CUT") for part in ("quoted", "not quoted"))
    gaps = {seed: inside[seed] - outside[seed] for seed in inside}
    return Verdict(
        slug="cut",
        outcome=decide(seen=exceeds(gaps), not_seen=not exceeds(gaps, errors=1.0)),
        claim=get("cut").claim,
        rule="Seen: after training the log-ratio of the probabilities with and without the judgment is larger for tokens "
        "that the judgment quotes than for the others, in the mean by more than 2 standard errors over the seeds. Not seen: "
        "not by more than 1. Mixed: between. Words become likelier by being quoted alone: the measure cannot tell that "
        "from criticism.",
        setting=f"{data.name}: a seed trains on 40 criticised answers and measures 12 others whose judgments quote them, "
        "at most 400 tokens each under both prompts. Quoted: what stands in double quotes in the judgment and in the "
        "answer, not as a better answer. 40 steps of one answer, adapter of rank 16, Adam 3e-4, threshold 1.2, "
        "unlikelihood weight 0.5.",
        measures=rows,
        summary={
            "log-ratio, quoted - not quoted": mean_of(gaps),
            "found, quoted - not quoted": mean_of(values_of(rows, "found, quoted", "CUT"))
            - mean_of(values_of(rows, "found, not quoted", "CUT")),
            "log-ratio, quoted - not quoted, default model": mean_of(
                values_of(rows, "log-ratio, quoted", "default model")
            )
            - mean_of(values_of(rows, "log-ratio, not quoted", "default model")),
        },
        seconds=seconds_spent(run),
    )
