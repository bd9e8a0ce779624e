"""The report of `coalign run portia`: verdicts before and after, where they were settled, every pair with its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from coalign.core.runs import Run
from coalign.evaluation.position_bias.parts import Merged, in_parts
from coalign.judging.items import ItemSet
from coalign.judging.options import JudgeOptions, judge_name
from coalign.judging.prompts import question_text
from coalign.judging.protocol import Cost, JudgeItem, PairVerdict, summarise
from coalign.judging.report import cost_table, facts, outcome_table, people_sections, verdict_text
from coalign.judging.run import majority
from coalign.measures.statistics import Interval, paired_bootstrap, wilson_interval
from coalign.report.model import Better, Comparison, ComparisonRow, Figure, Output, Sample, Samples
from coalign.report.page import publish
from coalign.report.parts import compared, counted, estimate, judged

STAGES = {
    "length": "settled in parts of equal length",
    "semantic": "settled in similar parts",
    "none": "not settled: the orders never agreed",
}


def write_portia_report(
    run: Run,
    config: JudgeOptions,
    found: ItemSet,
    plain: Sequence[PairVerdict],
    merged: Sequence[Merged],
    results: Mapping[str, Any],
) -> None:
    """Write the report and the headline figures of `status.json`."""
    final = [one.comparison for one in merged]
    gain = paired_bootstrap(*[[float(one.consistent is True) for one in side] for side in (plain, final)])
    figures = [
        Figure(
            "Both orders agree",
            results["rate_after"],
            before=results["rate_before"],
            difference=estimate(gain),
            unit="percent",
        ),
        Figure("Inconsistent pairs that became consistent", results["fixed_coverage"], unit="percent"),
        Figure("Consistent pairs that were lost", results["lost"], unit="integer", better="lower"),
        Figure("Ties", summarise(final).ties, before=summarise(plain).ties, unit="percent", better="neither"),
    ]
    text = (
        f"In aligned parts the judge gives the same verdict in both orders on {results['rate_after']:.0%} of "
        f"{len(plain)} pairs, before on {results['rate_before']:.0%}."
    )
    publish(
        run,
        config,
        title=f"{len(plain)} pairs in aligned parts, judged by {judge_name(config)}",
        verdict=judged(gain, text, figures, n=gain.n),
        sections=[
            Comparison(
                "Before and after",
                note="Consistency is no correctness: a judge that always ties agrees with itself.",
                rows=_rows(plain, final, found.labels, gain),
                names=("Whole answers", "Aligned parts"),
            ),
            counted(
                "Where pairs were settled",
                ("stage", "pairs"),
                {words: results["stages"][stage] for stage, words in STAGES.items()},
            ),
            outcome_table(final, "Verdicts in aligned parts"),
            *people_sections(results["merged"].get("people")),
            _samples(found.items, plain, merged),
            cost_table(config, sum((one.cost for one in (*plain, *final)), Cost())),
        ],
        facts=facts(run, found),
        figures={one.label: one.value for one in figures},
    )


def _rows(
    plain: Sequence[PairVerdict], final: Sequence[PairVerdict], labels: Sequence[Any], gain: Interval
) -> list[ComparisonRow]:
    before, after = (
        wilson_interval(sum(one.consistent is True for one in side), len(side)) for side in (plain, final)
    )
    rows = [compared("both orders agree", before, after, gain, n=len(plain), emphasis=True)]
    for choice, words in (("first", "for the response shown first"), ("tie", "ties")):
        shares = [
            [
                float(sum(each.shown_choice == choice for each in one.opinions)) / len(one.opinions)
                for one in side
            ]
            for side in (plain, final)
        ]
        rows.append(_paired_row(words, shares, "neither"))
    judged = [place for place, said in enumerate(labels) if majority(said)]
    if judged:
        hits = [
            [float(side[place].choice == majority(labels[place])) for place in judged]
            for side in (plain, final)
        ]
        rows.append(_paired_row("agreement with people", hits, "higher"))
    return rows


def _paired_row(name: str, sides: Sequence[Sequence[float]], better: Better) -> ComparisonRow:
    before, after = (fmean(one) for one in sides)
    return compared(name, before, after, paired_bootstrap(*sides), n=len(sides[0]), better=better)


def _samples(items: Sequence[JudgeItem], plain: Sequence[PairVerdict], merged: Sequence[Merged]) -> Samples:
    rows = []
    for item, old, new in zip(items, plain, merged, strict=True):
        turn = "fixed" if new.comparison.consistent and not old.consistent else "lost"
        changed = bool(new.comparison.consistent) != bool(old.consistent)
        verdicts = (Output(verdict_text(one), float(one.consistent is True)) for one in (old, new.comparison))
        rows.append(
            Sample(
                question_text(item.prompt),
                [*map(Output, _cut_texts(item, new)), *verdicts],
                tags=[new.stage, *([turn] if changed else [])],
            )
        )
    return Samples(
        "Pairs",
        note="Answers with the cuts of the last stage. A verdict names the responses as they stand here.",
        columns=["First", "Second", "Judge, whole", "Judge, in parts"],
        rows=rows,
        score_name="consistent",
        better="neither",
    )


def _cut_texts(item: JudgeItem, new: Merged) -> list[str]:
    shown = in_parts(item, new.parts, semantic=False)[0]
    if new.cuts != in_parts(item, new.parts, semantic=False)[2]:
        shown = in_parts(item, new.parts, semantic=True)[0]
    if not shown.parts:
        return list(item.responses)
    return ["\n\n".join(f"— {place} —\n{part}" for place, part in enumerate(side, 1)) for side in shown.parts]
