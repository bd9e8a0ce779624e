"""Check of `d2o`: unlearning marked answers, in the world of copying; rejected responses in real text."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from coalign.checks.arms import Arm, Measured, Measures, measure_arms
from coalign.checks.rules import clearly_above, decide, mean_of
from coalign.checks.starts import Start, untrained_arm
from coalign.checks.worlds.copying.marked import ASCENT, MarkedWorld, unlearning, unlearning_arm
from coalign.checks.worlds.records.default_model import adapted
from coalign.checks.worlds.records.negatives import NegativeText, negative_measures, negative_text
from coalign.checks.worlds.records.reading import read_pairs
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.preference.d2o import D2OConstants, d2o_margins
from coalign.training.losses.pairwise import DPOConstants


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """D2O removes marked answers as gradient ascent does, and keeps what the model could, in a world of copying.

    Rule:
        Seen: in every seed D2O's share of marked answers is below half the start's and its cross-entropy on held-out
        unmarked answers is below gradient ascent's; and in the mean over seeds D2O loses at most 0.15 of the gold of
        unmarked answers while gradient ascent loses more than 0.4. Not seen: the share is not halved in a seed, or the
        cross-entropy is not below. Mixed: between.

    Setting:
        Copying with a mark: transformer of 2 layers and width 48, 4 of 10 answers that it learned begin with two tokens
        that nobody wants. 800 prompts with a marked answer; 5 samples each of the start model as anchors; 200 steps of
        32, Adam 3e-4, alpha = beta = 0.1. 400 fresh prompts, 4 samples each.
    """
    constants = D2OConstants(alpha=0.1, beta=0.1)
    arms: dict[str, Arm[Start[MarkedWorld]]] = {
        "start": untrained_arm,
        "gradient ascent": unlearning_arm(ASCENT, None, "bad"),
        "DPO, one self-sample": unlearning_arm("dpo", DPOConstants(beta=0.1), "pairs"),
        "D2O": unlearning_arm("d2o", constants, "anchors"),
    }
    arms |= {
        "gradient ascent, 100 steps": unlearning_arm(ASCENT, None, "bad", steps=100),
        "D2O, 100 steps": unlearning_arm("d2o", constants, "anchors", steps=100),
        "D2O, 11 anchors": unlearning_arm("d2o", constants, "more anchors"),
    }
    rows = measure_arms(run, seeds=seeds, prepare=unlearning, arms=arms)
    removed = _halved(rows, "D2O") == seeds
    nll = rows.gaps("nll", "D2O", "gradient ascent")
    lost, lost_by_ascent = (rows.gap("gold", "start", arm) for arm in ("D2O", "gradient ascent"))
    kept = lost <= 0.15 and lost_by_ascent > 0.4
    below = all(gap < 0 for gap in nll.values())
    return rows.verdict(
        check,
        outcome=decide(seen=removed and below and kept, not_seen=not removed or not below),
        summary={
            "marked, start": rows.mean("marked", "start"),
            "marked, D2O": rows.mean("marked", "D2O"),
            "nll, D2O - gradient ascent": mean_of(nll),
            "gold lost, D2O": lost,
            "gold lost, gradient ascent": lost_by_ascent,
            "gold, D2O - DPO on one self-sample": rows.gap("gold", "D2O", "DPO, one self-sample"),
        },
        tried=[
            _tried(rows, "100 steps in place of 200", "D2O, 100 steps", "gradient ascent, 100 steps"),
            _tried(rows, "11 anchors in place of 5, others", "D2O, 11 anchors", "gradient ascent"),
        ],
    )


def _halved(rows: Measured, arm: str) -> int:
    """In how many seeds an arm's share of marked answers is below half the start's."""
    start, after = rows.values("marked", "start"), rows.values("marked", arm)
    return sum(after[seed] < 0.5 * start[seed] for seed in start)


def _tried(rows: Measured, what: str, arm: str, ascent: str) -> str:
    """The figures of the rule for another arm, in words."""
    seeds, marked = len(rows.values("marked", arm)), rows.mean("marked", arm)
    lost, lost_by_ascent = (rows.gap("gold", "start", one) for one in (arm, ascent))
    nll = rows.gap("nll", arm, ascent)
    return (
        f"{what}: marked {marked:.3f}, below half the start's in {_halved(rows, arm)} of {seeds} seeds; nll, "
        f"D2O - gradient ascent {nll:+.3f}; gold lost, D2O {lost:+.3f}, gradient ascent {lost_by_ascent:+.3f}."
    )


def check_on_data(run: Run, *, seeds: int = 5, data: Path) -> Verdict:
    """Pairs of real text (the Anthropic HH data as it is): margins and the likelihood of the chosen side after a short
    training of the default model on the rejected side.

    Rule:
        Seen: after D2O the margin of self-samples over the rejected responses is above 0, and the cross-entropy of the
        chosen responses, which nothing was trained on, is below that after gradient ascent, both by more than 2
        standard errors over the seeds. Not seen: one of them not by more than 1. Mixed: between. It speaks of margins
        and likelihoods after a short training, not of what the model then says.

    Setting:
        {data} ({unusable} unusable records left out): 20 pairs a seed of at most 160 tokens; 3 samples of 24 tokens of
        the default model to each prompt as anchors; 40 steps of one prompt, adapter of rank 16, Adam 3e-4, alpha = beta
        = 0.1.
    """
    pairs, unusable = read_pairs(data)
    constants = D2OConstants()

    margins = partial(d2o_margins, alpha=constants.alpha, beta=constants.beta)
    measured = partial(negative_measures, margins=margins)

    def by_d2o(material: NegativeText) -> Measures:
        return measured(material, adapted(material.rankings, "d2o", constants, steps=40, seed=material.seed))

    def by_ascent(material: NegativeText) -> Measures:
        return measured(material, adapted(material.rejected, ASCENT, None, steps=40, seed=material.seed))

    arms = {
        "default model": lambda material: measured(material, None),
        "gradient ascent": by_ascent,
        "D2O": by_d2o,
    }
    rows = measure_arms(run, seeds=seeds, prepare=partial(negative_text, pairs), arms=arms)
    margin = rows.values("margin", "D2O")
    kept = rows.gaps("nll, chosen", "gradient ascent", "D2O")
    return rows.verdict(
        check_on_data,
        outcome=clearly_above(margin, kept),
        summary={
            "margin, D2O": mean_of(margin),
            "nll of the chosen side, gradient ascent - D2O": mean_of(kept),
            "nll of the chosen side, D2O - default model": rows.gap("nll, chosen", "D2O", "default model"),
        },
        data=data.name,
        unusable=unusable,
    )
