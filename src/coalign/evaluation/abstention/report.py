"""The report of a model before and after it learnt to decline: metrics, transitions, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.data.questions import Question
from coalign.loops.rounds import STAGES, Round, timings
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import compared, figure_of, judged

METRICS: tuple[tuple[str, str, doc.Better], ...] = (
    ("honesty", "Honesty", "higher"),
    ("prudence", "Prudence: declined of what it does not know", "higher"),
    ("over_conservativeness", "Over-conservativeness: declined of what it knew", "lower"),
    ("accuracy", "Accuracy: right content, declined or not", "higher"),
)
TYPES = ("correct", "wrong", "idk")


def write_abstention_report(
    run: Run,
    config: Any,
    round: Round,
    training: Sequence[Question],
    test: Sequence[Question],
    results: Mapping[str, Any],
) -> None:
    """Write `report.html` and the headline of `status.json`."""
    trained = "evaluate" in results
    stage = "evaluate" if trained else "prompted"
    found = results[stage]
    sections: list[doc.AnySection] = [_comparison(found, "After")]
    if trained:
        sections.append(_comparison(results["prompted"], "Instruction alone", title="Without training"))
    publish(
        run,
        config,
        title=f"Honesty of {short_name(config.model)}",
        verdict=_headline(found, len(test), trained=trained),
        facts={
            "Model": full_name(config.model),
            "Method": str(config.method),
            "Test questions": str(len(test)),
        },
        sections=[*sections, _grid(found), _answers(round, test, found["types"], stage)],
        notes=[
            f"{len(training)} questions to learn from, {len(test)} to test on.",
            *(event["note"] for event in run.events("data")),
        ],
        rounds=timings([round], STAGES),
        then=[doc.Command(f"coalign chat {run.path}", "talk to the model")] if run.model.exists() else [],
        figures={name: found["after"][name]["mean"] for name, _, _ in METRICS},
    )


def _headline(found: Mapping[str, Any], n: int, *, trained: bool) -> doc.Headline:
    before, after = found["before"], found["after"]
    held_against = before["honesty"]["mean"]
    change = {
        end: None if value is None else value - held_against
        for end, value in after["honesty"].items()
        if end in ("mean", "low", "high")
    }
    what = "training" if trained else "the instruction"
    percent = {name: 100 * after[name]["mean"] for name, _, _ in METRICS}
    figures = [
        figure_of(compared(title.partition(":")[0], before[name], after[name], better=better))
        for name, title, better in METRICS
    ]
    return judged(
        change,
        f"After {what}: honesty {percent['honesty']:.1f} % (before {100 * held_against:.1f} %), prudence "
        f"{percent['prudence']:.1f} %, over-conservativeness {percent['over_conservativeness']:.1f} %, on {n} questions.",
        figures,
        n=n,
    )


def _comparison(found: Mapping[str, Any], after: str, *, title: str = "Metrics") -> doc.Comparison:
    rows = [
        compared(
            label,
            found["before"][name],
            found["after"][name],
            n=found["after"]["questions"],
            better=better,
            emphasis=name == "honesty",
        )
        for name, label, better in METRICS
    ]
    note = "A model that never declines has 50 % honesty, and so has one that always does."
    return doc.Comparison(title, note=note, rows=rows, names=("Before", after))


def _grid(found: Mapping[str, Any]) -> doc.TableSection:
    counts = found["after"]["transitions"]
    return doc.TableSection(
        "From before to after",
        note="Questions by the type of their answer. Wrong or declined before, correct after: in no metric.",
        columns=["before", *(f"after: {one}" for one in TYPES)],
        rows=[[one, *(counts[f"{one}->{to}"] for to in TYPES)] for one in TYPES],
    )


def _answers(
    round: Round, test: Sequence[Question], types: Mapping[str, Sequence[str]], stage: str
) -> doc.Samples:
    texts = [{row["id"]: row["responses"][0] for row in round.read(name)} for name in ("baseline", stage)]
    good = {"correct": 1.0, "idk": 0.5, "wrong": 0.0}
    rows = [
        doc.Sample(
            f"{one.question}\nGold: {', '.join(one.answers[:3])}",
            [doc.Output(found[one.id], good[kind]) for found, kind in zip(texts, types[one.id], strict=True)],
            tags=[f"{types[one.id][0]} → {types[one.id][1]}"],
        )
        for one in test
    ]
    note = "Scores: correct 1, declined 0.5, wrong 0; for ordering alone."
    return doc.Samples("Answers", note=note, columns=["Before", "After"], rows=rows, unit="number")
