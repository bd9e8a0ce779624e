"""Reports of the arena: leaderboard, wins by pair, every match to browse; and of simulations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.evaluation.arena.matches import Played
from coalign.evaluation.arena.outputs import Outputs
from coalign.judging.options import JudgeOptions, judge_name
from coalign.judging.prompts import question_text
from coalign.judging.protocol import Cost
from coalign.judging.report import cost_table
from coalign.report import model as doc
from coalign.report.page import publish

_HOW = {"judge": "judge", "empty": "an empty output loses", "same": "equal outputs tie"}
_BOARD: dict[str, tuple[str, doc.Unit]] = {
    "rank": ("rank", "integer"),
    "model": ("model", "number"),
    "rating": ("rating", "integer"),
    "low": ("low", "integer"),
    "high": ("high", "integer"),
    "matches": ("matches", "integer"),
    "win rate": ("win_rate", "percent"),
    "tournaments won": ("titles", "integer"),
}
"""Columns of the leaderboard: key of a row, unit."""


def write_arena_report(
    run: Run, config: JudgeOptions, outputs: Outputs, played: Sequence[Played], results: Mapping[str, Any]
) -> None:
    """Write the report and the headline figures of `status.json`."""
    board = results["leaderboard"]
    first, second = board[0], board[1]
    clear = first["low"] > second["high"]
    text = (
        f"{first['model']} leads with {first['rating']:.0f}, before {second['model']} with {second['rating']:.0f}; "
        + ("their intervals do not overlap." if clear else "their intervals overlap.")
    )
    figures = [
        doc.Figure("Leader", first["model"]),
        doc.Figure("Matches", results["matches"], unit="integer", note=f"{results['judged']:,} judged"),
        doc.Figure("Ties", results["ties"], unit="integer", better="neither"),
        doc.Figure("Without a verdict", results["without_verdict"], unit="integer", better="lower"),
    ]
    if truth := results.get("ground_truth"):
        note = f"{truth['models']} models"
        figures.append(doc.Figure("Rank correlation with the truth", truth["spearman"], note=note))
    cost = sum((one.comparison.cost for one in played if one.comparison), Cost())
    cycles, triples = results["cyclic_triples"]
    publish(
        run,
        config,
        title=f"{results['models']} models on {results['prompts']} prompts, judged by {judge_name(config)}",
        verdict=doc.Headline("neutral", text, figures),
        sections=[
            doc.TableSection(
                "Leaderboard",
                note=_note(results),
                columns=list(_BOARD),
                rows=[[row[key] for key, _ in _BOARD.values()] for row in board],
                units={name: unit for name, (_, unit) in _BOARD.items() if unit != "number"},
            ),
            doc.TableSection(
                "Wins by pair",
                note="Share of the row's wins over the column, ties half. A dash: they never met. "
                f"{cycles} of {triples} triples that have all met are cycles (a beats b, b beats c, c beats a).",
                columns=["", *(row["model"] for row in board)],
                rows=[[row["model"], *rates] for row, rates in zip(board, results["win_rates"], strict=True)],
                units={row["model"]: "percent" for row in board},
            ),
            *_anchored(results.get("anchored")),
            match_samples(played, outputs),
            cost_table(config, cost),
        ],
        facts={"Date": run.environment()["started"][:10], "Models": ", ".join(outputs.models)},
        then=[
            doc.Command(
                f"coalign annotate {run.artefacts / 'matches.jsonl'} --out human.jsonl",
                "Judge the matches yourself, blind",
            )
        ],
        figures={row["model"]: round(row["rating"], 1) for row in board},
    )


def match_samples(played: Sequence[Played], outputs: Outputs) -> doc.Samples:
    """Every match, to be filtered by model, round and outcome."""
    rows = []
    for one in played:
        names = [outputs.models[place] for place in (one.match.first, one.match.second)]
        texts = outputs.texts[one.match.prompt]
        outcome = "no verdict" if one.share is None else "tie" if one.share == 0.5 else None
        replies = [each.reply for each in one.comparison.opinions] if one.comparison else []
        said = "\n\n".join(
            [f"Goes on: {outputs.models[one.winner]} ({_HOW[one.how]})", *filter(None, replies)]
        )
        rows.append(
            doc.Sample(
                question_text(outputs.prompts[one.match.prompt]),
                [
                    doc.Output(f"[{names[0]}]\n\n{texts[one.match.first]}"),
                    doc.Output(f"[{names[1]}]\n\n{texts[one.match.second]}"),
                    doc.Output(said),
                ],
                tags=[*names, f"round {one.match.round}", *([outcome] if outcome else [])],
            )
        )
    return doc.Samples(
        "Matches", columns=["Shown first", "Shown second", "Verdict"], rows=rows, better="neither"
    )


def write_simulation_report(run: Run, config: Any, results: Mapping[str, Any]) -> None:
    """Report how near to the truth both ways rank simulated models."""
    rows = results["settings"]
    ahead = sum(row["tournament"] > row["anchored"] for row in rows)
    text = f"Tournaments are nearer to the true ranking in {ahead} of {len(rows)} settings (median rank correlation)."
    charts = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        mine = sorted((row for row in rows if row["precision"] == precision), key=lambda row: row["prompts"])
        steps = [row["prompts"] for row in mine]
        lines = [doc.Series(name, steps, [row[name] for row in mine]) for name in ("tournament", "anchored")]
        charts.append(doc.Chart(f"Judge of precision {precision:g}", lines, x_label="prompts"))
    keys = ("prompts", "precision", "tournament", "anchored", "share_higher")
    nearer = "trials in which the tournament is nearer"
    publish(
        run,
        config,
        title=f"Simulated benchmarks of {results['models']} models",
        verdict=doc.Headline(
            "neutral",
            text,
            [doc.Figure("Trials a setting", results["trials"], unit="integer", better="neither")],
        ),
        sections=[
            doc.TableSection(
                "Median rank correlation with the truth",
                note="Tournaments get one verdict a prompt fewer than the comparisons with a reference.",
                columns=[*keys[:-1], nearer],
                rows=[[row[key] for key in keys] for row in rows],
                units={"prompts": "integer", nearer: "percent"},
            ),
            doc.Curves("By the number of prompts", charts=charts),
        ],
        figures={"settings ahead": ahead},
    )


def _note(results: Mapping[str, Any]) -> str:
    parts = [
        "Bradley-Terry ratings of all matches on the Elo scale, 95 % intervals by a bootstrap over prompts."
    ]
    if results["penalty"]:
        parts.append(
            f"Penalty {results['penalty']:g}: it draws ratings towards 1000, and is needed where a model has no path of "
            "wins to another."
        )
    if results["resamples_penalised"]:
        parts.append(f"{results['resamples_penalised']} resamples needed a penalty of 1.")
    if results["left_out"]:
        parts.append(f"{results['left_out']} prompts that some model did not answer are left out.")
    return " ".join(parts)


def _anchored(found: Mapping[str, Any] | None) -> list[doc.TableSection]:
    if not found:
        return []
    agreement = found["spearman_with_tournament"]
    shown = "" if agreement is None else f" Rank correlation with the tournaments: {agreement:.2f}."
    return [
        doc.TableSection(
            f"Against {found['reference']}",
            note=f"Share of wins over the reference, for {found['calls']} verdicts.{shown}",
            columns=["model", "win rate"],
            rows=[[name, rate] for name, rate in found["win_rates"].items()],
            units={"win rate": "percent"},
        )
    ]
