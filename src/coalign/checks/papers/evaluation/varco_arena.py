"""Check of `varco-arena`: tournaments beside comparisons with a reference: in a simulation, and on given verdicts."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from coalign.checks.arms import Measured, Measures, measure_arms
from coalign.checks.rules import decide
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.evaluation.arena.tournament import simulate
from coalign.evaluation.arena.trials import read_judged_pairs, trial
from coalign.evaluation.varco_arena import PAPER_RATINGS, simulation_figures
from coalign.measures.statistics import sign_test

CHECK_TRIALS = 60
PROMPTS_OF_TRIALS = (5, 10, 20)
TRIALS_OF_SEED = 100


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Tournaments rank simulated models nearer to their true ratings than comparisons with a reference do.

    The paper's first experiment: ratings of Chatbot Arena, a judge of precision 1 or 0.8, 50 to 500 prompts.

    Rule:
        Medians over 60 trials, their mean over the seeds. Seen: in all six settings the tournament's median rank
        correlation with the truth is higher and the tournament is nearer in 60 % of the trials or more, and a one-sided
        sign test over all trials has p < 0.01. Not seen: the anchored median is higher by more than 0.01 in a setting.
        Mixed: between.

    Setting:
        Simulation of the paper's first experiment: 20 models with Chatbot Arena ratings 1116 to 1287, reference 1186;
        each match is drawn from the ratings and turned round with probability 1 - precision. Tournaments get (N - 1) X
        verdicts, the anchored arm N X.
    """
    arms = {
        f"{prompts} prompts, precision {precision:g}": partial(_simulated, prompts, precision)
        for prompts in (50, 100, 500)
        for precision in (1.0, 0.8)
    }
    rows = measure_arms(run, seeds=seeds, prepare=int, arms=arms)
    gaps = _gaps(rows, arms)
    shares = [rows.mean("higher", name) for name in arms]
    p_value = sign_test(
        *(sum(round(row[side] * CHECK_TRIALS) for row in rows.rows) for side in ("higher", "lower"))
    )
    seen = min(gaps.values()) > 0 and min(shares) >= 0.6 and p_value < 0.01
    return rows.verdict(
        check,
        outcome=decide(seen=seen, not_seen=not seen and min(gaps.values()) < -0.01),
        summary={
            **{f"median gap, {name}": gap for name, gap in gaps.items()},
            "smallest share of trials": min(shares),
            "sign test, p": p_value,
        },
    )


def check_on_data(run: Run, *, seeds: int = 5, data: Path) -> Verdict:
    """The paper's second experiment: brackets and prompts drawn from the verdicts of a file in which every pair of models
    was judged, as many verdicts on both sides.

    Rule:
        Means over 100 trials a seed. Seen: the tournament's rank correlation with the truth is above the anchored one
        by more than 0.02 for every number of prompts. Not seen: above it for none. Mixed: between.

    Setting:
        Verdicts of {data}: {models} models, {prompts} prompts on which every pair was judged. Truth: Bradley-Terry
        ratings of the verdicts on {others} other prompts. A trial draws prompts and brackets; the anchored arm compares
        with each model in turn, mean correlation over them. Both spend N - 1 verdicts a prompt.
    """
    judged = read_judged_pairs(data)
    complete = judged.complete()
    others = [one for one in range(len(judged.shares)) if one not in set(complete)]
    truth = judged.ratings(others or complete).tolist()
    sizes = [one for one in PROMPTS_OF_TRIALS if one < len(complete)] or [len(complete)]

    def arm(size: int, seed: int) -> Measures:
        draw = random.Random(f"{seed}/{size}")
        trials = [trial(judged, draw.sample(complete, size), truth, draw) for _ in range(TRIALS_OF_SEED)]
        tournament, anchored = np.array(trials).T
        return {
            "tournament": float(tournament.mean()),
            "anchored": float(anchored.mean()),
            "tournament, median": float(np.median(tournament)),
            "anchored, median": float(np.median(anchored)),
            "higher": float((tournament > anchored).mean()),
            "lower": float((tournament < anchored).mean()),
        }

    arms = {f"{size} prompts": partial(arm, size) for size in sizes}
    rows = measure_arms(run, seeds=seeds, prepare=int, arms=arms)
    gaps = _gaps(rows, arms)
    return rows.verdict(
        check_on_data,
        outcome=decide(seen=min(gaps.values()) > 0.02, not_seen=max(gaps.values()) <= 0),
        summary={f"gap, {name}": gap for name, gap in gaps.items()},
        data=data.name,
        models=len(judged.models),
        prompts=len(complete),
        others=len(others) or "the same",
    )


def _gaps(rows: Measured, arms: Iterable[str]) -> dict[str, float]:
    """Arm to by how much the tournament is above the comparisons with a reference."""
    return {name: rows.mean("tournament", name) - rows.mean("anchored", name) for name in arms}


def _simulated(prompts: int, precision: float, seed: int) -> Measures:
    found = simulate(
        PAPER_RATINGS, reference=1186, precision=precision, prompts=prompts, trials=CHECK_TRIALS, seed=seed
    )
    figures = simulation_figures(found)
    sides = {"higher": figures["share_higher"], "lower": figures["share_lower"]}
    return {"tournament": figures["tournament"], "anchored": figures["anchored"], **sides}
