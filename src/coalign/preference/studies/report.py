"""Reports of studies: over the number of pairs, and over settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.preference.studies.cells import START, Rows, Study
from coalign.preference.studies.examination import MEASURES
from coalign.preference.studies.figures import (
    Row,
    charts,
    grouped,
    line,
    measured,
    sensitivity,
    settings_text,
    spread,
    spread_of_best,
)
from coalign.report.format import number
from coalign.report.model import (
    AnySection,
    Cell,
    Chart,
    Command,
    Curves,
    Figure,
    Headline,
    Report,
    Series,
    TableSection,
    Text,
)
from coalign.report.page import publish

DRAWN = ("satisfaction", "reward_accuracy", "logp_accuracy", "margin", "choices", "kl", "length")
"""Metrics with a chart over the number of pairs; the others stand in the tables."""


def size_sections(rows: Rows, main: str) -> list[AnySection]:
    """Every metric over the number of pairs, one chart a start model and one line an objective; and tables."""
    starts = list(dict.fromkeys(row["start"] for row in rows))
    sections: list[AnySection] = []
    for metric in _main_first([name for name in measured(rows) if name in DRAWN], main):
        drawn = [
            chart
            for start in starts
            for chart in charts(start, _size_lines(rows, start, metric), "pairs", x_log=None)
        ]
        note = "Mean over seeds; the band is one standard deviation. The start model is drawn at every size."
        sections.append(Curves(MEASURES[metric].title, note=note, charts=drawn))
    sections += [_size_table(rows, start, main) for start in starts]
    return sections


def _size_lines(rows: Rows, start: str, metric: str) -> list[Series | None]:
    own = [row for row in rows if row["start"] == start]
    lines = [
        line(objective, found, metric, lambda row: row["size"])
        for objective, found in grouped(own, lambda row: row["objective"]).items()
    ]
    before = next((row.get(metric) for row in own if row["objective"] == START), None)
    sizes = sorted({float(row["size"]) for row in own if row["objective"] != START})
    if before is not None and metric != "kl":
        lines.append(Series("start model", sizes, [before] * len(sizes)))
    return lines


def _size_table(rows: Rows, start: str, main: str) -> TableSection:
    own = [row for row in rows if row["start"] == start]
    metrics = _main_first(measured(own), main)
    table: list[list[Cell]] = []
    for row in own:
        if row["objective"] == START:
            table.append(["start model", 0, None, *(_text([row], name) for name in metrics)])
    for (objective, size), found in grouped(own, lambda row: (row["objective"], row["size"])).items():
        diverged = sum(row["diverged"] for row in found)
        table.append(
            [
                objective,
                size,
                f"{len(found) - diverged} of {len(found)}",
                *(_text(found, name) for name in metrics),
            ]
        )
    return TableSection(
        f"From {start}",
        note="Mean and standard deviation over seeds; the third column counts trainings that did not diverge.",
        columns=["objective", "pairs", "trained", *(MEASURES[name].title for name in metrics)],
        rows=table,
        units={"pairs": "integer"},
    )


def sensitivity_sections(rows: Rows, main: str) -> list[AnySection]:
    """Sensitivity by objective; main metric, KL and length over every varied setting; metric against KL; all cells."""
    sections: list[AnySection] = [*_sensitivity_tables(sensitivity(rows, main), main)]
    for metric in dict.fromkeys((main, "kl", "length")):
        drawn = [
            chart
            for objective, own in grouped(rows, lambda row: row["objective"]).items()
            for chart in _setting_charts(objective, own, metric)
        ]
        if drawn:
            sections.append(Curves(f"{MEASURES[metric].title}, over settings", charts=drawn))
    sections.append(
        Curves(
            "What a result costs in distance from the start model",
            note="Each point is a setting, averaged over seeds.",
            charts=_against_kl(rows, main),
        )
    )
    sections.append(_settings_table(rows, main))
    return sections


def _sensitivity_tables(found: Sequence[Mapping[str, Any]], main: str) -> list[TableSection]:
    unit = MEASURES[main].unit
    results: list[list[Cell]] = []
    costs: list[list[Cell]] = []
    for one in found:
        head: list[Cell] = [one["objective"], one["tried"], one["diverged"]]
        if "best" not in one:
            results.append([*head, *[None] * 5])
            continue
        shown = [number(one[name], unit) for name in ("mean", "worst", "spread")]
        results.append([*head, one["best"].text(unit), one["settings"], *shown])
        at_best = [one["kl"].text(), one["length"].text()]
        costs.append([one["objective"], *at_best, one["mean_length"], one["length_spread"]])
    return [
        TableSection(
            "Sensitivity",
            note=f"{MEASURES[main].title}. Best: mean and standard deviation over seeds; mean, worst and spread (best "
            "minus worst) over the settings.",
            columns=["objective", "settings", "diverged", "best", "at", "mean", "worst", "spread"],
            rows=results,
        ),
        TableSection(
            "Distance and length",
            note="KL from the start model in nats a response, lengths in tokens.",
            columns=["objective", "KL at best", "length at best", "mean length", "spread of length"],
            rows=costs,
        ),
    ]


def _setting_charts(objective: str, rows: Sequence[Row], metric: str) -> list[Chart]:
    varied = {
        name: {row["settings"][name] for row in rows if name in row["settings"]}
        for name in dict.fromkeys(name for row in rows for name in row["settings"])
    }
    found = []
    for name, values in varied.items():
        if len(values) < 2 or not all(isinstance(one, int | float) for one in values):
            continue
        others = grouped(rows, lambda row, name=name: _others(row, name))
        lines = [
            line(rest or objective, group, metric, lambda row, name=name: row["settings"][name])
            for rest, group in others.items()
        ]
        found += charts(f"{objective}: {name}", lines, name)
    return found


def _others(row: Row, name: str) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in row["settings"].items() if key != name)


def _against_kl(rows: Rows, main: str) -> list[Chart]:
    lines = []
    for objective, own in grouped(rows, lambda row: row["objective"]).items():
        points = []
        for group in grouped(own, settings_text).values():
            kl, value = spread(group, "kl"), spread(group, main)
            if kl is not None and value is not None:
                points.append((kl.mean, value.mean))
        points.sort()
        if points:
            lines.append(Series(objective, [x for x, _ in points], [y for _, y in points]))
    return charts(MEASURES[main].title, lines, MEASURES["kl"].title, x_log=False)


def _settings_table(rows: Rows, main: str) -> TableSection:
    metrics = _main_first(measured(rows), main)
    table: list[list[Cell]] = [
        ["start model", "", *(_text([row], name) for name in metrics)]
        for row in rows
        if row["objective"] == START
    ]
    for (objective, settings), found in grouped(
        rows, lambda row: (row["objective"], settings_text(row))
    ).items():
        table.append([objective, settings, *(_text(found, name) for name in metrics)])
    return TableSection(
        "All settings",
        note="Mean and standard deviation over seeds.",
        columns=["objective", "settings", *(MEASURES[name].title for name in metrics)],
        rows=table,
    )


def write_study_report(
    run: Run,
    study: Study,
    rows: Rows,
    *,
    title: str,
    findings: Sequence[str],
    sections: Sequence[AnySection],
    notes: Sequence[str],
) -> Report:
    """Write `report.html` and the headline of `status.json`.

    Args:
        findings: sentences; the first is the headline.
        sections: of the kind of study.
        notes: what became of the data.
    """
    main = study.exam.main
    best = spread_of_best(rows, main)
    figures = [Figure(MEASURES[main].title, best.mean, unit=MEASURES[main].unit)] if best else []
    return publish(
        run,
        study.config,
        title=title,
        verdict=Headline("neutral", findings[0], figures),
        facts={
            "Trainings": str(sum(row["objective"] != START for row in rows)),
            "Seeds": str(study.config.seeds),
            "Held-out pairs": str(len(study.exam.pairs)),
            "Answers": str(len(study.exam.tasks)),
        },
        sections=[
            *([Text("What was seen", paragraphs=findings[1:])] if findings[1:] else []),
            *sections,
        ],
        notes=notes,
        then=[Command(f"coalign chat {run.path}", "talk to the best model")] if run.model.exists() else [],
        figures={f"{row['id']}/{main}": row[main] for row in rows if row.get(main) is not None},
    )


def _text(rows: Sequence[Row], metric: str) -> str | None:
    found = spread(rows, metric)
    return found.text(MEASURES[metric].unit) if found else None


def _main_first(names: Sequence[str], main: str) -> list[str]:
    return sorted(names, key=lambda name: name != main)
