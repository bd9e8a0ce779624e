"""Check of `poft`: demonstrations of mixed quality, in the world of copying; misplaced answers in real text."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import best_of, clearly_above, gaps_between, mean_of
from coalign.checks.steps import LIKELIHOOD
from coalign.checks.worlds.copying.mixed import EVALUATED, aligned_arm, mixed_arm, mixed_demonstrations
from coalign.checks.worlds.records.default_model import drawn, mean_logps
from coalign.checks.worlds.records.reading import misplaced, read_answers
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Demonstration
from coalign.measures.detection import roc_auc
from coalign.preference.data.aligned_scores import ALIGNED_LOGP, END_TOKENS
from coalign.preference.poft import PoFTConstants, poft_coefficients


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """On demonstrations of which two in five are bad PoFT learns the good ones better than fine-tuning, in a world of
    copying.

    Rule:
        Seen: gold of PoFT after 900 steps above that of cross-entropy by more than 2 standard errors of the paired
        gaps. Not seen: not by more than 1. Mixed: between.

    Setting:
        Copying letters: 1500 demonstrations, of which 40 % copy 5 % of the letters rightly and the others 95 %. The
        aligned model, a transformer of 2 layers and width 48, was trained for 400 steps on demonstrations of 95 %. The
        same transformer from random weights, 900 steps of 64 demonstrations, Adam 2e-3, by cross-entropy and by PoFT.
        400 fresh prompts, 4 samples each.
    """
    arms = {
        "aligned model": aligned_arm,
        "CE": mixed_arm(LIKELIHOOD, None, poft_coefficients),
        "PoFT": mixed_arm("poft", PoFTConstants(), poft_coefficients),
    }
    prepare = partial(mixed_demonstrations, votes=ALIGNED_LOGP, ends=END_TOKENS)
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    last = f"gold, {EVALUATED[-1]}"
    gaps = rows.gaps(last, "PoFT", "CE")

    def drop(arm: str) -> float:
        golds = [rows.values(f"gold, {step}", arm) for step in EVALUATED]
        return mean_of(gaps_between(best_of(golds), golds[-1]))

    return rows.verdict(
        check,
        outcome=clearly_above(gaps),
        summary={
            "gold, PoFT - CE": mean_of(gaps),
            "gold, best to last, CE": drop("CE"),
            "gold, best to last, PoFT": drop("PoFT"),
            "share of epochs in which good records have the larger coefficient, PoFT": rows.mean(
                "good above bad", "PoFT"
            ),
        },
    )


def check_on_data(run: Run, *, seeds: int = 5, data: Path) -> Verdict:
    """Prompts and answers in real text: whether the coefficient of PoFT, with the default model as aligned model, tells
    answers from misplaced ones, without training.

    Rule:
        Seen: the coefficient ranks answers above misplaced ones: area under the curve above one half by more than 2
        standard errors over the seeds. Not seen: not by more than 1. Mixed: between. It speaks of the weights of
        records, not of training.

    Setting:
        {data}: 40 answers a seed, 30 % of them given to each other's prompts; aligned model: the default model; the
        trained model likes all records alike.
    """
    answers = read_answers(data)

    def tell_apart(chosen: list[Demonstration]) -> Measures:
        records, moved = misplaced(chosen, 0.3)
        aligned = torch.tensor([row[0] for row in mean_logps(records)])
        coefficients = poft_coefficients(aligned.mean(), aligned).tolist()
        return {"AUC": roc_auc([place >= moved for place in range(len(records))], coefficients)}

    rows = measure_arms(
        run, seeds=seeds, prepare=lambda seed: drawn(answers, 40, seed), arms={"default model": tell_apart}
    )
    above_chance = {seed: auc - 0.5 for seed, auc in rows.values("AUC", "default model").items()}
    return rows.verdict(
        check_on_data,
        outcome=clearly_above(above_chance),
        summary={"AUC, above one half": mean_of(above_chance)},
        data=data.name,
    )
