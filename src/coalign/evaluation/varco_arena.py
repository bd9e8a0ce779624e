"""Varco Arena: rank models by tournaments between their outputs, without reference answers.

Varco Arena: A Tournament Approach to Reference-Free Benchmarking Large Language Models (arXiv 2411.01281; later versions
are called Arena-Lite). Every prompt is a single-elimination tournament with a bracket of its own; all matches together
give Bradley-Terry ratings on the Elo scale. N models and X prompts cost (N - 1) X verdicts, where comparing everybody
with a fixed reference costs N X.

    coalign run varco-arena --data outputs.jsonl --endpoint http://127.0.0.1:8000/v1
    coalign run varco-arena --mode simulation

Reconstruction: no source repository is public. Ours are how an odd field is halved (the smaller half first), the
penalty where a model has no path of wins to another (l2 of 1 on the ratings' logits, said in the report), intervals by
a bootstrap over prompts, half a win for a tie whose bracket goes on by a coin, and the form of the judge's precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from coalign.core.errors import ConfigError
from coalign.core.files import write_json, write_rows
from coalign.core.options import Count, Fraction, NonNegative, Seed, option
from coalign.core.runs import Run
from coalign.evaluation.arena.matches import Arena, Played, tables_of
from coalign.evaluation.arena.outputs import Outputs, read_outputs
from coalign.evaluation.arena.results import against_truth, anchored_results, match_row
from coalign.evaluation.arena.tournament import simulate
from coalign.judging.options import JudgeOptions, make_judge
from coalign.judging.protocol import Cost, Orders
from coalign.measures.ratings import (
    bootstrap_ratings,
    bradley_terry,
    cyclic_share,
    is_connected,
)
from coalign.training.distributed.leading import led

PAPER_RATINGS = [
    1287, 1277, 1275, 1271, 1264, 1257, 1251, 1248, 1245, 1229,
    1217, 1208, 1207, 1203, 1191, 1186, 1170, 1155, 1136, 1116,
]  # fmt: skip
"""Chatbot Arena values of 20 models, the truth of the simulation."""


SIMULATION = {"mode": "simulation"}


@dataclass(kw_only=True)
class Config(JudgeOptions):
    """Options of `coalign run varco-arena`."""

    __group__ = "Method"

    mode: Literal["arena", "simulation"] = option(
        "arena", "rank models by their outputs, or simulate tournaments of known ratings"
    )
    data: list[str] = option(
        [],
        "outputs: one file with a column `model`, or a file a model; rows have prompt and response",
        group="Data",
    )
    model_column: str | None = option(
        None, "column that names the model, where it is not found", group="Data"
    )
    schedule: Literal["tournament", "all"] = option(
        "tournament",
        "a bracket a prompt, or every pair of models on every prompt (needed for stored verdicts)",
    )
    orders: Orders = option("given", "ask once a match with places drawn, or in both orders")
    reference: str | None = option(
        None,
        "a model to compare all others with as well: the anchored ranking, for N - 1 further verdicts a prompt",
    )
    ground_truth: Path | None = option(None, "JSON of model to rating, to correlate the ranking with")
    penalty: NonNegative | None = option(
        None,
        "l2 of the ratings; none: 0 where they are finite without, else 1",
        source="logistic regression's default",
    )
    resamples: Count = option(1000, "bootstrap resamples of prompts for the intervals")
    sim_ratings: list[float] = option(
        [float(one) for one in PAPER_RATINGS],
        "true ratings",
        group="Simulation",
        source="paper",
        only_with=SIMULATION,
    )
    sim_reference: float = option(
        1186.0, "rating of the reference output", group="Simulation", only_with=SIMULATION
    )
    sim_precision: list[Fraction] = option(
        [1.0, 0.8], "precisions of the judge", group="Simulation", only_with=SIMULATION
    )
    sim_prompts: list[Count] = option(
        [50, 100, 500], "numbers of prompts", group="Simulation", only_with=SIMULATION
    )
    sim_trials: Count = option(
        100, "simulated benchmarks a setting", group="Simulation", only_with=SIMULATION
    )
    seed: Seed = option(0, "of brackets, places, coins and resamples")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "simulation":
            self.refuse(("data", "reference", "ground_truth"), "with mode: simulation")
        if len(self.sim_ratings) < 2:
            raise ValueError("sim_ratings needs two ratings or more")


@led
def run(config: Config, run: Run) -> None:
    """Play, rate, report.

    Raises:
        DataError: outputs that cannot be used.
        CoalignError: too many verdicts are missing; the replies are kept.
    """
    from coalign.evaluation.arena.report import write_arena_report, write_simulation_report

    if config.mode == "simulation":
        results = simulation_results(config)
        write_json(run.artefacts / "results.json", results)
        write_simulation_report(run, config, results)
        return
    if not config.data:
        raise ConfigError("data is needed: files of outputs (or mode: simulation).", hint="Give --data.")
    outputs = read_outputs(config.data, model_column=config.model_column)
    if config.reference is not None and config.reference not in outputs.models:
        raise ConfigError(f"reference: {config.reference!r} is none of {', '.join(outputs.models)}.")
    arena = Arena(
        outputs,
        make_judge(config, run),
        seed=config.seed,
        orders=config.orders,
        rubric=config.rubric,
        max_failures=config.max_failures,
        missing_is_failure=config.schedule == "tournament",
    )
    played = arena.tournaments() if config.schedule == "tournament" else arena.all_pairs()
    write_rows(run.artefacts / "matches.jsonl", (match_row(one, outputs) for one in played))
    results = arena_results(played, outputs, config)
    anchored: list[Played] = []
    if config.reference is not None:
        anchored = arena.anchored(outputs.models.index(config.reference))
        write_rows(run.artefacts / "anchored.jsonl", (match_row(one, outputs) for one in anchored))
        results["anchored"] = anchored_results(anchored, outputs, config.reference, results["leaderboard"])
    if config.ground_truth is not None:
        results["ground_truth"] = against_truth(config.ground_truth, results)
    write_json(run.artefacts / "results.json", results)
    write_arena_report(run, config, outputs, played, results)


def arena_results(played: Sequence[Played], outputs: Outputs, config: Config) -> dict[str, Any]:
    """Leaderboard with intervals, wins by pair, and what it cost."""
    tables = tables_of(played, outputs)
    whole = tables.sum(0)
    finite = bool(is_connected(whole))
    penalty = config.penalty if config.penalty is not None else (0.0 if finite else 1.0)
    if penalty == 0 and not finite:
        raise ConfigError(
            "penalty: 0 has no finite ratings here: some models have no path of wins to each other.",
            hint="Leave the option out, or add prompts.",
        )
    fit = bradley_terry(whole, l2=penalty)
    low, high, penalised = bootstrap_ratings(tables, resamples=config.resamples, seed=config.seed, l2=penalty)
    games, wins = (whole + whole.T).sum(1), whole.sum(1)
    last = max((one.match.round for one in played), default=1)
    titles = [
        sum(one.winner == place and one.match.round == last for one in played)
        for place in range(len(outputs.models))
    ]
    order = sorted(range(len(outputs.models)), key=lambda one: -fit.values[one])
    cycles, triples = cyclic_share(whole)
    cost = sum((one.comparison.cost for one in played if one.comparison), Cost())
    return {
        "models": len(outputs.models),
        "prompts": len(outputs.ids),
        "left_out": len(outputs.incomplete),
        "matches": len(played),
        "judged": sum(one.how == "judge" for one in played),
        "without_verdict": sum(one.share is None for one in played),
        "ties": sum(one.share == 0.5 for one in played),
        "calls": cost.calls,
        "penalty": penalty,
        "resamples_penalised": penalised,
        "cyclic_triples": [cycles, triples],
        "leaderboard": [
            {
                "rank": rank,
                "model": outputs.models[one],
                "rating": float(fit.values[one]),
                "low": float(low[one]),
                "high": float(high[one]),
                "matches": int(games[one]),
                "win_rate": float(wins[one] / games[one]) if games[one] else None,
                "titles": titles[one] if config.schedule == "tournament" else None,
            }
            for rank, one in enumerate(order, start=1)
        ],
        "win_rates": [
            [
                None if whole[a, b] + whole[b, a] == 0 else float(whole[a, b] / (whole[a, b] + whole[b, a]))
                for b in order
            ]
            for a in order
        ],
    }


def simulation_results(config: Config) -> dict[str, Any]:
    """Median rank correlation with the truth of both ways, setting by setting."""
    rows = []
    for prompts, precision in product(config.sim_prompts, config.sim_precision):
        setting = {"prompts": prompts, "precision": precision}
        known = {"reference": config.sim_reference, "trials": config.sim_trials, "seed": config.seed}
        rows.append({**setting, **simulation_figures(simulate(config.sim_ratings, **setting, **known))})
    return {"models": len(config.sim_ratings), "trials": config.sim_trials, "settings": rows}


def simulation_figures(found: Any) -> dict[str, float]:
    """Medians over trials, and the share of trials in which the tournament is nearer to the truth."""
    return {
        "tournament": float(np.nanmedian(found.tournament)),
        "anchored": float(np.nanmedian(found.anchored)),
        "share_higher": float(np.mean(found.tournament > found.anchored)),
        "share_lower": float(np.mean(found.tournament < found.anchored)),
    }
