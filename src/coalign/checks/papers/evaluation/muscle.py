"""Check of `muscle`: negative flips after compatibility training, in the world of classifiers."""

from __future__ import annotations

import torch
from torch import Tensor

from coalign.checks.arms import measure_arms
from coalign.checks.rules import decide, mean_of, settled
from coalign.checks.worlds.classifiers.updates import UpdateLoss, prepare_update, update_arms
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.evaluation.muscle import Mask, compatibility_losses


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Compatibility training lowers negative flips against the plain new version, in a world of classifiers.

    An item is one token. The control trains the new version on for as long by cross-entropy. Pure distillation from
    the old version is reported and has no part in the rule.

    Rule:
        Seen: MUSCLE's mean negative flip rate is at most 0.90 of the plain new version's, below it and below the
        control's in every seed, and its accuracy at most 1 point lower. Not seen: more than 0.97 of it. Mixed: between.

    Setting:
        Classifiers of 20 Gaussian inputs into 4 classes, labels by random nets; bases of 2 and 3 hidden layers of width
        64 trained on another labelling; rank 8 adapters, 1500 samples with 15 % random labels, 20 epochs, then 20 more
        for MUSCLE and the control; 4000 clean test samples.
    """
    muscle, plain, more, pure = "MUSCLE", "new version", "more steps of cross-entropy", "only the old version"

    def loss(mask: Mask) -> UpdateLoss:
        def losses(student: Tensor, old: Tensor, new: Tensor, labels: Tensor) -> Tensor:
            rows = torch.arange(len(labels))
            return compatibility_losses(student, old, new, labels, rows, temperature=2.0, mask=mask)

        return losses

    arms = update_arms({muscle: loss("student_wrong"), pure: loss("all_old")}, plain=plain, control=more)
    rows = measure_arms(run, seeds=seeds, prepare=prepare_update, arms=arms)
    over_plain, over_more = (rows.gaps("NFR", muscle, arm) for arm in (plain, more))
    accuracy = rows.gap("accuracy", muscle, plain)
    ratio = settled(rows.mean("NFR", muscle) / rows.mean("NFR", plain))
    below = all(gap < 0 for gaps in (over_plain, over_more) for gap in gaps.values())
    return rows.verdict(
        check,
        outcome=decide(seen=ratio <= 0.90 and below and accuracy >= -0.01, not_seen=ratio > 0.97),
        summary={
            "NFR, MUSCLE / new version": ratio,
            "NFR, MUSCLE - new version": mean_of(over_plain),
            "NFR, MUSCLE - more steps": mean_of(over_more),
            "accuracy, MUSCLE - new version": accuracy,
            "NFR, only the old version - new version": rows.gap("NFR", pure, plain),
        },
    )
