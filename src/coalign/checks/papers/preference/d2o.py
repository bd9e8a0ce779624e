"""Desk-scale check of `d2o`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.real_text import read_pairs
from coalign.checks.rules import decide, exceeds, mean_of, paired_gaps, values_of
from coalign.checks.system_arms.real_text_arms import NegativeText, negative_measures, negative_text
from coalign.checks.text_training import adapted
from coalign.checks.worlds.marked_world import ASCENT, Unlearning, unlearning, unlearning_arm, untouched_arm
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.d2o import D2OConstants, d2o_margins
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.objective import get_objective


def check(run: Run, *, seeds: int = 5, data: Path | None = None) -> Verdict:
    """D2O removes marked answers as gradient ascent does, and keeps what the model could, in a world of copying.

    With `data`, pairs of real text (the Anthropic HH data as it is): margins and the likelihood of the chosen side after
    a short training of the default model on the rejected side.
    """
    if data is not None:
        return _check_on_text(run, seeds, data)
    constants = D2OConstants(alpha=0.1, beta=0.1)
    arms: dict[str, Callable[[Unlearning], Measures]] = {
        "start": untouched_arm,
        "gradient ascent": unlearning_arm(ASCENT, None, "bad"),
        "DPO, one self-sample": unlearning_arm(get_objective("dpo"), DPOConstants(beta=0.1), "pairs"),
        "D2O": unlearning_arm(get_objective("d2o"), constants, "anchors"),
    }
    arms |= {
        "gradient ascent, 100 steps": unlearning_arm(ASCENT, None, "bad", steps=100),
        "D2O, 100 steps": unlearning_arm(get_objective("d2o"), constants, "anchors", steps=100),
        "D2O, 11 anchors": unlearning_arm(get_objective("d2o"), constants, "more anchors"),
    }
    rows = measure_arms(run, seeds=seeds, prepare=unlearning, arms=arms)
    start, after = values_of(rows, "marked", "start"), values_of(rows, "marked", "D2O")
    removed = all(after[seed] < 0.5 * start[seed] for seed in start)
    nll = paired_gaps(rows, "nll", "D2O", "gradient ascent")
    lost = paired_gaps(rows, "gold", "start", "D2O")
    lost_by_ascent = paired_gaps(rows, "gold", "start", "gradient ascent")
    kept = mean_of(lost) <= 0.15 and mean_of(lost_by_ascent) > 0.4
    below = all(gap < 0 for gap in nll.values())
    return Verdict(
        slug="d2o",
        outcome=decide(seen=removed and below and kept, not_seen=not removed or not below),
        claim=get("d2o").claim,
        rule="Seen: in every seed D2O's share of marked answers is below half the start's and its cross-entropy on held-"
        "out unmarked answers is below gradient ascent's; and in the mean over seeds D2O loses at most 0.15 of the gold "
        "of unmarked answers while gradient ascent loses more than 0.4. Not seen: the share is not halved in a seed, or "
        "the cross-entropy is not below. Mixed: between.",
        setting="Copying with a mark: transformer of 2 layers and width 48, 4 of 10 answers that it learned begin with "
        "two tokens that nobody wants. 800 prompts with a marked answer; 5 samples each of the start model as anchors; "
        "200 steps of 32, Adam 3e-4, alpha = beta = 0.1. 400 fresh prompts, 4 samples each.",
        measures=rows,
        summary={
            "marked, start": mean_of(start),
            "marked, D2O": mean_of(after),
            "nll, D2O - gradient ascent": mean_of(nll),
            "gold lost, D2O": mean_of(lost),
            "gold lost, gradient ascent": mean_of(lost_by_ascent),
            "gold, D2O - DPO on one self-sample": mean_of(
                paired_gaps(rows, "gold", "D2O", "DPO, one self-sample")
            ),
        },
        tried=[
            _tried(rows, "100 steps in place of 200", "D2O, 100 steps", "gradient ascent, 100 steps"),
            _tried(rows, "11 anchors in place of 5, others", "D2O, 11 anchors", "gradient ascent"),
        ],
        seconds=seconds_spent(run),
    )


def _tried(rows: Sequence[dict[str, Any]], what: str, arm: str, ascent: str) -> str:
    """The figures of the rule for another arm, in words."""
    start, after = values_of(rows, "marked", "start"), values_of(rows, "marked", arm)
    halved = sum(after[seed] < 0.5 * start[seed] for seed in start)
    lost, lost_by_ascent = (mean_of(paired_gaps(rows, "gold", "start", one)) for one in (arm, ascent))
    nll = mean_of(paired_gaps(rows, "nll", arm, ascent))
    return (
        f"{what}: marked {mean_of(after):.3f}, below half the start's in {halved} of {len(start)} seeds; nll, D2O - "
        f"gradient ascent {nll:+.3f}; gold lost, D2O {lost:+.3f}, gradient ascent {lost_by_ascent:+.3f}."
    )


def _check_on_text(run: Run, seeds: int, data: Path) -> Verdict:
    pairs, unusable = read_pairs(data)
    constants = D2OConstants()

    def measured(material: NegativeText, model: nn.Module | None) -> Measures:
        return negative_measures(
            material, model, partial(d2o_margins, alpha=constants.alpha, beta=constants.beta)
        )

    def by_d2o(material: NegativeText) -> Measures:
        model = adapted(material.rankings, get_objective("d2o"), constants, steps=40, seed=material.seed)
        return measured(material, model)

    def by_ascent(material: NegativeText) -> Measures:
        return measured(material, adapted(material.rejected, ASCENT, None, steps=40, seed=material.seed))

    rows = measure_arms(
        run,
        seeds=seeds,
        prepare=partial(negative_text, pairs),
        arms={
            "default model": lambda material: measured(material, None),
            "gradient ascent": by_ascent,
            "D2O": by_d2o,
        },
    )
    margin = values_of(rows, "margin", "D2O")
    kept = paired_gaps(rows, "nll, chosen", "gradient ascent", "D2O")
    return Verdict(
        slug="d2o",
        outcome=decide(
            seen=exceeds(margin) and exceeds(kept),
            not_seen=not exceeds(margin, errors=1.0) or not exceeds(kept, errors=1.0),
        ),
        claim=get("d2o").claim,
        rule="Seen: after D2O the margin of self-samples over the rejected responses is above 0, and the cross-entropy of "
        "the chosen responses, which nothing was trained on, is below that after gradient ascent, both by more than 2 "
        "standard errors over the seeds. Not seen: one of them not by more than 1. Mixed: between. It speaks of margins "
        "and likelihoods after a short training, not of what the model then says.",
        setting=f"{data.name} ({unusable} unusable records left out): 20 pairs a seed of at most 160 tokens; 3 samples of "
        "24 tokens of the default model to each prompt as anchors; 40 steps of one prompt, adapter of rank 16, Adam 3e-4, "
        "alpha = beta = 0.1.",
        measures=rows,
        summary={
            "margin, D2O": mean_of(margin),
            "nll of the chosen side, gradient ascent - D2O": mean_of(kept),
            "nll of the chosen side, D2O - default model": mean_of(
                paired_gaps(rows, "nll, chosen", "D2O", "default model")
            ),
        },
        seconds=seconds_spent(run),
    )
