"""The report of a model before and after it learnt to decline: metrics, transitions, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core import options
from coalign.core.catalogue import entries
from coalign.core.runs import Run
from coalign.evaluation.abstention.questions import Question
from coalign.loops.rounds import Round, timings
from coalign.report.html import write_report
from coalign.report.model import (
    Better,
    Command,
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
    Text,
    Timings,
)
from coalign.report.model import Stage as TimedStage
from coalign.report.page import warning_section

METRICS: tuple[tuple[str, str, Better], ...] = (
    ("honesty", "Honesty", "higher"),
    ("prudence", "Prudence: declined of what it does not know", "higher"),
    ("over_conservativeness", "Over-conservativeness: declined of what it knew", "lower"),
    ("accuracy", "Accuracy: right content, declined or not", "higher"),
)
TYPES = ("correct", "wrong", "idk")
STAGES = ("baseline", "generate", "build", "fit", "evaluate")


def write_abstention_report(
    run: Run,
    config: Any,
    round: Round,
    training: Sequence[Question],
    test: Sequence[Question],
    results: Mapping[str, Any],
) -> None:
    """Write `report.html` and the headline of `status.json`."""
    stage = "evaluate" if "evaluate" in results else "prompted"
    found = results[stage]
    headline = _headline(found, len(test), trained=stage == "evaluate")
    sections: list[Any] = [*warning_section(run), _comparison(found, "Before", "After")]
    if stage == "evaluate":
        sections.append(
            _comparison(results["prompted"], "Before", "Instruction alone", title="Without training")
        )
    sections += [
        _grid(found),
        _answers(round, test, found["types"], stage),
        Text(title="Data", paragraphs=_notes(run, round, training, test)),
        Timings(
            title="Time",
            stages=[
                TimedStage(name=row["stage"], seconds=row["seconds"], peak_bytes=int(row["peak_mb"] * 2**20))
                for row in timings([round], STAGES)
            ],
        ),
        KeyValues(title="Configuration", items=options.to_dict(config)),
        KeyValues(title="Environment", items=run.environment()),
    ]
    method = run.status()["method"]
    more = Command(command=f"coalign chat {run.path}", purpose="talk to the model")
    write_report(
        Report(
            title=f"Honesty of {config.model}",
            method=method,
            arxiv=next((one.arxiv for one in entries() if one.slug == method), None),
            verdict=headline,
            facts={
                "Model": str(config.model),
                "Method": str(config.method),
                "Test questions": str(len(test)),
            },
            sections=sections,
            next_commands=[more] if run.model.exists() else [],
        ),
        run.report,
    )
    run.set_status(
        headline=headline.text, figures={name: found["after"][name]["mean"] for name, _, _ in METRICS}
    )


def _headline(found: Mapping[str, Any], n: int, *, trained: bool) -> Headline:
    before, after = found["before"], found["after"]
    change = after["honesty"]["mean"] - before["honesty"]["mean"]
    sure = after["honesty"]["low"] is not None and (
        after["honesty"]["low"] > before["honesty"]["mean"]
        or after["honesty"]["high"] < before["honesty"]["mean"]
    )
    outcome: Outcome = "neutral" if not sure else "improved" if change > 0 else "not improved"
    what = "training" if trained else "the instruction"
    percent = {name: 100 * after[name]["mean"] for name, _, _ in METRICS}
    return Headline(
        outcome=outcome,
        text=f"After {what}: honesty {percent['honesty']:.1f} % (before {100 * before['honesty']['mean']:.1f} %), prudence "
        f"{percent['prudence']:.1f} %, over-conservativeness {percent['over_conservativeness']:.1f} %, on {n} questions.",
        figures=[
            Figure(
                label=title.partition(":")[0],
                value=after[name]["mean"],
                before=before[name]["mean"],
                unit="percent",
                better=better,
            )
            for name, title, better in METRICS
        ],
    )


def _comparison(found: Mapping[str, Any], *names: str, title: str = "Metrics") -> Comparison:
    rows = [
        ComparisonRow(
            name=label,
            before=_estimate(found["before"][name]),
            after=_estimate(found["after"][name]),
            n=found["after"]["questions"],
            better=better,
            emphasis=name == "honesty",
        )
        for name, label, better in METRICS
    ]
    note = "A model that never declines has 50 % honesty, and so has one that always does."
    return Comparison(title=title, note=note, rows=rows, names=(names[0], names[1]))


def _estimate(value: Mapping[str, Any]) -> Estimate:
    return Estimate(value["mean"], value["low"], value["high"])


def _grid(found: Mapping[str, Any]) -> TableSection:
    counts = found["after"]["transitions"]
    return TableSection(
        title="From before to after",
        note="Questions by the type of their answer. Wrong or declined before, correct after: in no metric.",
        columns=["before", *(f"after: {one}" for one in TYPES)],
        rows=[[one, *(counts[f"{one}->{to}"] for to in TYPES)] for one in TYPES],
    )


def _answers(
    round: Round, test: Sequence[Question], types: Mapping[str, Sequence[str]], stage: str
) -> Samples:
    texts = [{row["id"]: row["responses"][0] for row in round.read(name)} for name in ("baseline", stage)]
    good = {"correct": 1.0, "idk": 0.5, "wrong": 0.0}
    rows = [
        Sample(
            prompt=f"{one.question}\nGold: {', '.join(one.answers[:3])}",
            outputs=[
                Output(text=found[one.id], score=good[kind])
                for found, kind in zip(texts, types[one.id], strict=True)
            ],
            tags=[f"{types[one.id][0]} → {types[one.id][1]}"],
        )
        for one in test
    ]
    note = "Scores: correct 1, declined 0.5, wrong 0; for ordering alone."
    return Samples(title="Answers", note=note, columns=["Before", "After"], rows=rows, unit="number")


def _notes(run: Run, round: Round, training: Sequence[Question], test: Sequence[Question]) -> list[str]:
    notes = [f"{len(training)} questions to learn from, {len(test)} to test on."]
    return notes + [event["note"] for event in run.events("data")]
