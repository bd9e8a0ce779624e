"""The report of `coalign run portia`: verdicts before and after, where they were settled, every pair with its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core import options
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.evaluation.position_bias.parts import Merged, in_parts
from coalign.judging.items import ItemSet
from coalign.judging.options import JudgeOptions, judge_name
from coalign.judging.prompts import question_text
from coalign.judging.protocol import Cost, JudgeItem, PairVerdict, summarise
from coalign.judging.report import cost_table, facts, outcome_table, people_sections
from coalign.judging.run import majority
from coalign.measures.statistics import Interval, paired_bootstrap, wilson_interval
from coalign.report.html import write_report
from coalign.report.model import (
    Comparison,
    ComparisonRow,
    Estimate,
    Figure,
    Headline,
    KeyValues,
    Outcome,
    Output,
    Report,
    Sample,
    Samples,
    TableSection,
)

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
    coverage = results["fixed_coverage"]
    figures = [
        Figure(
            label="Both orders agree",
            value=results["rate_after"],
            before=results["rate_before"],
            difference=Estimate(gain.mean, _end(gain.low), _end(gain.high)),
            unit="percent",
        ),
        Figure(label="Inconsistent pairs that became consistent", value=coverage, unit="percent"),
        Figure(
            label="Consistent pairs that were lost", value=results["lost"], unit="integer", better="lower"
        ),
        Figure(
            label="Ties",
            value=summarise(final).ties,
            before=summarise(plain).ties,
            unit="percent",
            better="neither",
        ),
    ]
    text = (
        f"In aligned parts the judge gives the same verdict in both orders on {results['rate_after']:.0%} of "
        f"{len(plain)} pairs, before on {results['rate_before']:.0%}."
    )
    cost = sum((one.cost for one in (*plain, *final)), Cost())
    report = Report(
        title=f"{len(plain)} pairs in aligned parts, judged by {judge_name(config)}",
        method="portia",
        arxiv=get("portia").arxiv,
        verdict=Headline(outcome=_outcome(gain), text=text, figures=figures),
        sections=[
            Comparison(
                title="Before and after",
                note="Consistency is no correctness: a judge that always ties agrees with itself.",
                rows=_rows(plain, final, found.labels, gain),
                names=("Whole answers", "Aligned parts"),
            ),
            TableSection(
                title="Where pairs were settled",
                columns=["stage", "pairs"],
                rows=[[words, results["stages"][stage]] for stage, words in STAGES.items()],
                units={"pairs": "integer"},
            ),
            outcome_table(final, "Verdicts in aligned parts"),
            *people_sections(results["merged"].get("people")),
            _samples(found.items, plain, merged),
            cost_table(config, cost),
            KeyValues(title="Configuration", items=options.to_dict(config)),
            KeyValues(title="Environment", items=run.environment()),
        ],
        facts=facts(run, found),
    )
    write_report(report, run.report)
    run.set_status(headline=text, figures={one.label: one.value for one in figures})


def _rows(
    plain: Sequence[PairVerdict], final: Sequence[PairVerdict], labels: Sequence[Any], gain: Interval
) -> list[ComparisonRow]:
    rates = [
        wilson_interval(sum(one.consistent is True for one in side), len(side)) for side in (plain, final)
    ]
    rows = [
        ComparisonRow(
            name="both orders agree",
            before=_estimate(rates[0]),
            after=_estimate(rates[1]),
            difference=_estimate(gain),
            n=len(plain),
            emphasis=True,
        )
    ]
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


def _paired_row(name: str, sides: Sequence[Sequence[float]], better: Any) -> ComparisonRow:
    change = paired_bootstrap(*sides)
    means = [Estimate(sum(one) / len(one)) for one in sides]
    return ComparisonRow(
        name=name,
        before=means[0],
        after=means[1],
        difference=_estimate(change),
        n=len(sides[0]),
        better=better,
    )


def _samples(items: Sequence[JudgeItem], plain: Sequence[PairVerdict], merged: Sequence[Merged]) -> Samples:
    rows = []
    for item, old, new in zip(items, plain, merged, strict=True):
        turn = "fixed" if new.comparison.consistent and not old.consistent else "lost"
        changed = bool(new.comparison.consistent) != bool(old.consistent)
        rows.append(
            Sample(
                prompt=question_text(item.prompt),
                outputs=[
                    *(Output(text=text) for text in _cut_texts(item, new)),
                    Output(text=_said(old), score=float(old.consistent is True)),
                    Output(text=_said(new.comparison), score=float(new.comparison.consistent is True)),
                ],
                tags=[new.stage, *([turn] if changed else [])],
            )
        )
    return Samples(
        title="Pairs",
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


def _said(one: PairVerdict) -> str:
    lines = [f"Together: {one.outcome}"]
    for each in one.opinions:
        order = "Swapped" if each.swapped else "As given"
        lines.append(f"\n{order}: {each.choice or each.failure}\n{each.reply}".rstrip())
    return "\n".join(lines)


def _outcome(gain: Interval) -> Outcome:
    return "improved" if gain.low > 0 else "not improved" if gain.high <= 0 else "mixed"


def _estimate(one: Interval) -> Estimate:
    return Estimate(one.mean, _end(one.low), _end(one.high))


def _end(value: float) -> float | None:
    return None if value in (float("inf"), float("-inf")) else value
