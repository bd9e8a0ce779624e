"""Check of `ict`: samples of one step from eight Gaussians on a circle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.worlds.points.ring import Ring, distances, ring, trained_on_ring
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.vision.consistency.losses import squared_distance
from coalign.vision.consistency.objective import ConsistencyObjective
from coalign.vision.consistency.schedules import Noise

STEPS, BATCH, SECOND = 4000, 512, 0.4
IMPROVED = ConsistencyObjective()
EARLIER = ConsistencyObjective(
    noise=Noise(distribution="uniform", weighting="none"),
    curriculum="square-root",
    first=2,
    last=150,
    distance=squared_distance,
    teacher=0.9,
)


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Improved consistency training samples the mixture in one step, where consistency training as it was collapses.

    Rule:
        Seen: the sliced Wasserstein-1 distance of samples of one step under iCT is at most half of that under CT in every
        seed, and its mean over the seeds is at most 0.7 of that of iCT with the moving average of CT's teacher. Not seen:
        iCT is at or above CT in a seed, or the mean with the moving average is within 10 % of iCT's or below. Mixed:
        between.

    Setting:
        Eight Gaussians (deviation 0.05) on a circle of radius 0.66, drawn afresh in every batch. A perceptron of 3 layers
        of 128 units over the point and the sines and cosines of ln(sigma) / 4 at four frequencies. 4000 steps of 512
        points, RAdam 1e-3, averaged weights (0.999). CT: the square-root curriculum from 2 to 150, uniform levels, no
        weights, squared distance, a teacher with moving average from 0.9. 64 directions between 4000 samples and 4000
        points.
    """
    ours, earlier, averaged = "iCT", "CT", "iCT, teacher with moving average"
    arms = {
        ours: _arm(IMPROVED),
        earlier: _arm(EARLIER),
        averaged: _arm(replace(IMPROVED, teacher=EARLIER.teacher)),
    }
    rows = measure_arms(run, seeds=seeds, prepare=ring, arms=arms)
    metric = "W1, one step"
    found = {name: rows.values(metric, name) for name in arms}
    shares = {seed: value / found[earlier][seed] for seed, value in found[ours].items()}
    against = mean_of(found[ours]) / mean_of(found[averaged])
    return rows.verdict(
        check,
        outcome=decide(
            seen=max(shares.values()) <= 0.5 and against <= 0.7,
            not_seen=max(shares.values()) >= 1 or 1 / against <= 1.1,
        ),
        summary={
            "largest share, iCT / CT": max(shares.values()),
            "mean, iCT / iCT with a teacher's moving average": against,
            **{f"W1 of one step, {name}": mean_of(values) for name, values in found.items()},
            **{f"W1 of two steps, {name}": rows.mean("W1, two steps", name) for name in arms},
        },
    )


def _arm(objective: ConsistencyObjective) -> Callable[[Ring], Measures]:
    def arm(start: Ring) -> Measures:
        network = trained_on_ring(start, objective, steps=STEPS, batch_size=BATCH)
        return distances(start, objective, network, SECOND)

    return arm
