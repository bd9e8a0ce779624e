"""Check of `aft`: sampled solutions marked right or wrong, in the world of copying; the order of given solutions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import clearly_above, decide, exceeds, mean_of
from coalign.checks.starts import Start, training_arm
from coalign.checks.steps import LIKELIHOOD, frozen_logps
from coalign.checks.worlds.copying.copying import CopyingWorld
from coalign.checks.worlds.copying.solutions import solution_groups, solution_measures
from coalign.checks.worlds.records.default_model import adapted, share_in_order, short
from coalign.checks.worlds.records.reading import read_groups
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Ranking
from coalign.preference.aft import Constants
from coalign.training.batches import collate
from coalign.training.losses.listwise import ranking_accuracies

CONSTRAINED = ("AFT detached", "AFT boundary 1")


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Constrained AFT is right more often than fine-tuning alone and keeps the likelihood that the unconstrained loss
    loses, in a world of copying.

    That the unconstrained loss makes fewer answers right, as the paper says, is not required: wrong copies hold no
    sensible text to protect.

    Rule:
        Seen: the share of correct samples and the assessment accuracy of AFT, detached and with boundary 1, are above
        those of continued fine-tuning by more than 2 standard errors of the paired gaps, and the negative
        log-likelihood of held-out demonstrations is larger without constraint than with either, in every seed. Not
        seen: one of these gaps is not above 0 in the mean. Mixed: between.

    Setting:
        Copying letters: transformer of 2 layers and width 48, fine-tuned for 450 steps on copies with 75 % of the
        letters right (VFT); 1500 questions, each with such a copy as reference solution and 5 of the model's own
        samples, correct if all three letters are. 400 steps of 32 questions, Adam 5e-4. RFT: likelihood of reference
        and correct samples. 400 fresh prompts, 4 samples each; 1000 held-out demonstrations.
    """
    arm = partial(training_arm, steps=400, learning_rate=5e-4, measure=_measured)
    on_groups = partial(arm, "aft", panel="groups")
    arms = {
        "VFT": lambda material: _measured(material, material.base),
        "VFT continued": on_groups(Constants(align_weight=0.0)),
        "RFT": arm(LIKELIHOOD, None, "right"),
        "AFT unconstrained": on_groups(Constants(constraint="none")),
        "AFT detached": on_groups(Constants(constraint="detached")),
        "AFT boundary 1": on_groups(Constants(constraint="boundary", beta=1.0)),
        "AFT boundary 0.15": on_groups(Constants(constraint="boundary")),
    }
    rows = measure_arms(run, seeds=seeds, prepare=solution_groups, arms=arms)
    better = {
        (metric, arm): rows.gaps(metric, arm, "VFT continued")
        for metric in ("correct", "A-accuracy")
        for arm in CONSTRAINED
    }
    costs = {arm: rows.gaps("NLL", "AFT unconstrained", arm) for arm in CONSTRAINED}
    return rows.verdict(
        check,
        outcome=decide(
            seen=all(map(exceeds, better.values())) and all(min(one.values()) > 0 for one in costs.values()),
            not_seen=min(map(mean_of, (*better.values(), *costs.values()))) <= 0,
        ),
        summary={
            **{f"{metric}, {arm} - VFT continued": mean_of(gaps) for (metric, arm), gaps in better.items()},
            **{f"NLL, unconstrained - {arm}, smallest": min(gaps.values()) for arm, gaps in costs.items()},
            "correct, AFT detached - RFT": rows.gap("correct", "AFT detached", "RFT"),
            "correct, AFT detached - unconstrained": rows.gap("correct", "AFT detached", "AFT unconstrained"),
            "correct, AFT boundary 0.15 - VFT continued": rows.gap(
                "correct", "AFT boundary 0.15", "VFT continued"
            ),
        },
    )


def _measured(material: Start[CopyingWorld], policy: nn.Module) -> Measures:
    """As `solution_measures`, with the assessment accuracy on the training groups."""
    batch = collate(material.panels["groups"])["batch"]
    scores = frozen_logps(policy, batch.responses).means()
    accuracies = ranking_accuracies(scores, batch.values, batch.record_index)
    return {**solution_measures(material, policy), "A-accuracy": float(accuracies.nanmean())}


def check_on_data(run: Run, *, seeds: int = 5, data: Path) -> Verdict:
    """Rankings of real text (GSM8K's example_model_solutions.jsonl as it is): the assessment accuracy on other
    questions before and after a short training of the default model.

    Rule:
        Seen: the assessment accuracy on held-out questions rises from before to after training by more than 2 standard
        errors over the seeds. Not seen: not by more than 1. Mixed: between. It speaks of the order of given solutions,
        not of answers.

    Setting:
        {data}: 30 questions a seed to train on and 16 others, with given solutions, at most 400 tokens each; the
        default model, 30 steps of one question, adapter of rank 16, Adam 3e-4, detached constraint; imitated is the
        first right solution.
    """
    groups = read_groups(data)

    def prepare(seed: int) -> tuple[int, list[Ranking]]:
        return seed, short(groups, 46, seed, tokens=400)

    def learned(material: tuple[int, list[Ranking]]) -> Measures:
        seed, taken = material
        model = adapted(taken[:30], "aft", Constants(), steps=30, seed=seed)
        return {"A-accuracy": share_in_order(taken[30:], model)}

    arms = {
        "default model": lambda material: {"A-accuracy": share_in_order(material[1][30:])},
        "AFT, 30 steps": learned,
    }
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    gains = rows.gaps("A-accuracy", "AFT, 30 steps", "default model")
    return rows.verdict(
        check_on_data,
        outcome=clearly_above(gains),
        summary={"A-accuracy, after - before": mean_of(gains)},
        data=data.name,
    )
