"""The leaderboard of rewards and judges on pairs of answers from passages, and the report of building such pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.evaluation.retrieval.labelling import Response
from coalign.evaluation.retrieval.pairs import BLOCKS, CATEGORIES, Pair
from coalign.evaluation.retrieval.preferring import Preferences
from coalign.evaluation.retrieval.scenarios import RetrievalTask
from coalign.judging.prompts import question_text
from coalign.judging.protocol import Cost
from coalign.judging.report import cost_table
from coalign.measures.detection import pearson
from coalign.measures.statistics import bootstrap_mean, mcnemar, wilson_interval
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import counted, judged

_NOTE = (
    "Share of pairs in the right order. Overall counts every pair once, and ranks; macro is the mean of the categories. "
    "Intervals are Wilson's at 95 %. p: McNemar's exact test against the first row."
)


def write_leaderboard(
    run: Run,
    config: Any,
    pairs: Sequence[Pair],
    found: Sequence[Preferences],
    results: Mapping[str, Any],
    *,
    left_out: int,
    cost: Cost,
) -> None:
    """Write the report and the headline: who prefers how well, by category and by subset."""
    board = sorted(found, key=lambda one: -results[one.name]["micro"])
    best = board[0]
    chance = bootstrap_mean([one - 0.5 for one in best.credits])
    present = [one for one in CATEGORIES if any(pair.category == one for pair in pairs)]
    weakest = min(present, key=lambda one: results[best.name]["per_category"][one])
    share = results[best.name]["per_category"][weakest]
    publish(
        run,
        config,
        title=f"{len(found)} rewards and judges on {len(pairs)} pairs of answers from passages",
        verdict=judged(
            chance,
            f"{best.name} leads with {results[best.name]['micro']:.1%}; its weakest category is {weakest} ({share:.1%}).",
            [doc.Figure(one.name, results[one.name]["micro"], unit="percent") for one in board[:4]],
            n=chance.n,
        ),
        sections=[
            _board(board, results, pairs, present),
            _by_subset(board, results, pairs),
            *_judges(board, results),
            *_scores(found, pairs),
            _samples(board, pairs),
            *([cost_table(config, cost)] if cost.calls else []),
        ],
        facts={"Data": str(config.data), "Pairs": str(len(pairs))},
        notes=[
            *(
                [f"{left_out} pairs whose judges' scores are nearer than {config.min_gap:g} were left out."]
                if left_out
                else []
            ),
            *_too_long(found),
        ],
        limitations=[
            "What is better was said by judges, with their taste for style and length, where the pairs were labelled by judges.",
            "Small categories are noisy: a hundred pairs have an interval of about 10 points to either side.",
        ],
        figures={one.name: round(results[one.name]["micro"], 4) for one in board},
    )


def _board(
    board: Sequence[Preferences], results: Mapping[str, Any], pairs: Sequence[Pair], present: Sequence[str]
) -> doc.TableSection:
    first = board[0]
    rows: list[list[doc.Cell]] = []
    for one in board:
        figures = results[one.name]
        interval = wilson_interval(sum(one.credits), len(pairs))
        won, lost = (
            sum(sign * (mine - other) > 0 for mine, other in zip(first.credits, one.credits, strict=True))
            for sign in (1, -1)
        )
        rows.append([
            one.name, one.kind, figures["micro"], interval.low, interval.high, figures["macro_categories"],
            *(figures[block] for block in BLOCKS), *(figures["per_category"][name] for name in present),
            None if one is first else mcnemar(won, lost),
        ])  # fmt: skip
    shares = ["overall", "low", "high", "macro", *BLOCKS, *present]
    return doc.TableSection(
        "Leaderboard",
        note=_NOTE,
        columns=["", "kind", *shares, "p"],
        rows=rows,
        units=dict.fromkeys(shares, "percent"),
    )


def _by_subset(
    board: Sequence[Preferences], results: Mapping[str, Any], pairs: Sequence[Pair]
) -> doc.TableSection:
    counts = Counter(f"{one.category}/{one.subset}" for one in pairs)
    rows = [
        [name, n, *(results[one.name]["per_subset"][name] for one in board)]
        for name, n in sorted(counts.items())
    ]
    names = [one.name for one in board]
    return doc.TableSection(
        "By subset",
        columns=["subset", "pairs", *names],
        rows=rows,
        units={"pairs": "integer", **dict.fromkeys(names, "percent")},
    )


def _judges(board: Sequence[Preferences], results: Mapping[str, Any]) -> list[doc.TableSection]:
    judges = [one for one in board if one.kind == "judge"]
    rows = [
        [one.name, results[one.name]["micro"], results[one.name]["strict"], one.first_shown, one.unscored]
        for one in judges
    ]
    note = "Strict: right in both orders. First: replies that prefer what was shown first; 50 % where the order does not matter."
    columns = ["judge", "average", "strict", "first", "not read"]
    units: dict[str, doc.Unit] = {**dict.fromkeys(columns[1:4], "percent"), "not read": "integer"}  # type: ignore[dict-item]
    return (
        [doc.TableSection("Judges by order", note=note, columns=columns, rows=rows, units=units)]
        if judges
        else []
    )


def _scores(found: Sequence[Preferences], pairs: Sequence[Pair]) -> list[doc.TableSection]:
    """Correlations: of gaps with those of the judges who labelled the pairs, and of these with people."""
    rows: list[list[doc.Cell]] = []
    for one in found:
        both = [
            (gap, pair.judges_gap)
            for gap, pair in zip(one.gaps, pairs, strict=False)
            if gap is not None and pair.judges_gap is not None
        ]
        if len(both) > 1:
            rows.append(
                [
                    f"score gap of {one.name} and of the judges",
                    len(both),
                    pearson(*map(list, zip(*both, strict=True))),
                ]
            )
    for name in CATEGORIES:
        scores = [
            (
                sum(each[place] for each in pair.judge_scores) / len(pair.judge_scores),
                pair.human_scores[place],
            )
            for pair in pairs
            if pair.category == name and pair.judge_scores and pair.human_scores
            for place in (0, 1)
        ]
        if len(scores) > 2:
            rows.append(
                [
                    f"scores of judges and of people, {name}",
                    len(scores),
                    pearson(*map(list, zip(*scores, strict=True))),
                ]
            )
    note = "Pearson's correlation. A reward's gap should grow with the judges' gap: near pairs are hard."
    return (
        [
            doc.TableSection(
                "Correlations", note=note, columns=["of", "n", "r"], rows=rows, units={"n": "integer"}
            )
        ]
        if rows
        else []
    )


def _samples(board: Sequence[Preferences], pairs: Sequence[Pair]) -> doc.Samples:
    """Every pair, with who gets it right."""
    rows = []
    for place, pair in enumerate(pairs):
        right = [one.name for one in board if one.credits[place] > 0.5]
        tags = [
            pair.category,
            "none right" if not right else "all right" if len(right) == len(board) else "some right",
        ]
        said = "Right: " + (", ".join(right) or "none")
        rows.append(
            doc.Sample(
                question_text(pair.prompt),
                [doc.Output(pair.chosen), doc.Output(pair.rejected), doc.Output(said)],
                tags=tags,
            )
        )
    return doc.Samples(
        "Pairs", columns=["Chosen", "Rejected", "Who prefers the chosen one"], rows=rows, better="neither"
    )


def _too_long(found: Sequence[Preferences]) -> list[str]:
    said = []
    for one in found:
        if one.shortened:
            said.append(
                f"{one.name}: the passages of {one.shortened} pairs were cut evenly to fit its context."
            )
        if one.cut:
            said.append(
                f"{one.name}: {one.cut} pairs are longer than its context and hold no passages that could be cut."
            )
        if one.unscored:
            said.append(
                f"{one.name}: {one.unscored} scores or verdicts are missing; their pairs count as wrong."
            )
    return said


def write_building_report(
    run: Run,
    config: Any,
    tasks: Sequence[RetrievalTask],
    responses: Sequence[Sequence[Response]],
    pairs: Sequence[tuple[Pair, str, str]],
    dropped: Mapping[str, int],
    cost: Cost,
) -> None:
    """Write the report of built pairs: counts by category and reason, models by how often they are better, every pair."""
    categories = {name: sum(one.category == name for one, _, _ in pairs) for name in CATEGORIES}
    models = sorted({name for each in responses for name, _ in each})
    better, worse = (Counter(one[place] for one in pairs) for place in (1, 2))
    n_responses = sum(map(len, responses))
    publish(
        run,
        config,
        title=f"{len(pairs)} preference pairs of answers from passages",
        verdict=doc.Headline(
            "neutral",
            f"{len(pairs)} pairs of {len(tasks)} prompts, on which {len(config.judges)} judges agree.",
            [doc.Figure("Prompts", len(tasks), unit="integer"), doc.Figure("Answers", n_responses, unit="integer"),
             doc.Figure("Pairs", len(pairs), unit="integer")],
        ),
        sections=[
            counted("Pairs by category", ("category", "pairs"), categories),
            counted("Without a pair", ("reason", "prompts"), dropped),
            doc.TableSection(
                "Models", note="How often an answer of each is the better and the worse one of a pair.",
                columns=["model", "better", "worse"], rows=[[one, better[one], worse[one]] for one in models],
                units={"better": "integer", "worse": "integer"},
            ),
            doc.Samples(
                "Pairs", columns=["Chosen", "Rejected"], better="neither",
                rows=[doc.Sample(question_text(one.prompt), [doc.Output(f"[{a}]\n\n{one.chosen}"), doc.Output(f"[{b}]\n\n{one.rejected}")], tags=[one.category])
                      for one, a, b in pairs],
            ),
            cost_table(config, cost),
        ],
        facts={"Data": str(config.data), "Judges": ", ".join(config.judges)},
        limitations=["The labels are those of judges: read some pairs, or rate them with `coalign annotate`."],
        then=[
            doc.Command(f"coalign run rag-rewardbench --data {run.path} --reward model:PATH", "rank rewards on the pairs"),
            doc.Command(f"coalign annotate {run.artefacts / 'pairs.jsonl'} --out human.jsonl", "rate pairs yourself, blind"),
        ],
        figures={"pairs": len(pairs)},
    )  # fmt: skip
