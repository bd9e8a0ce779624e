"""Reports of studies: over the number of pairs, and over settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coalign.core.runs import Run
from coalign.preference.studies import figures as plots
from coalign.preference.studies.cells import START, Rows, Study, run_cells, save_best
from coalign.preference.studies.cells import Cell as StudyCell
from coalign.preference.studies.examination import MEASURES
from coalign.report import model as doc
from coalign.report.format import number
from coalign.report.page import publish

DRAWN = ("satisfaction", "reward_accuracy", "logp_accuracy", "margin", "choices", "kl", "length")
"""Metrics with a chart over the number of pairs; the others stand in the tables."""


def size_sections(rows: Rows, main: str) -> list[doc.AnySection]:
    """Every metric over the number of pairs, one chart a start model and one line an objective; and tables."""
    starts = list(dict.fromkeys(row["start"] for row in rows))
    sections: list[doc.AnySection] = []
    for metric in sorted({*DRAWN} & {*plots.measured(rows)}, key=[main, *MEASURES].index):
        drawn = [
            chart
            for start in starts
            for chart in plots.charts(start, _size_lines(rows, start, metric), "pairs", x_log=None)
        ]
        note = "Mean over seeds; the band is one standard deviation. The start model is drawn at every size."
        sections.append(doc.Curves(MEASURES[metric].title, note=note, charts=drawn))
    sections += [_size_table(rows, start, main) for start in starts]
    return sections


def _size_lines(rows: Rows, start: str, metric: str) -> list[doc.Series | None]:
    own = [row for row in rows if row["start"] == start]
    lines = [
        plots.line(objective, found, metric, lambda row: row["size"])
        for objective, found in plots.grouped(own, lambda row: row["objective"]).items()
    ]
    before = plots.of_start(own, metric)
    sizes = sorted({float(row["size"]) for row in own if row["objective"] != START})
    if before is not None and metric != "kl":
        lines.append(doc.Series("start model", sizes, [before] * len(sizes)))
    return lines


def _size_table(rows: Rows, start: str, main: str) -> doc.TableSection:
    own = [row for row in rows if row["start"] == start]
    groups: list[tuple[list[doc.Cell], Sequence[plots.Row]]] = [
        (["start model", 0, None], [row]) for row in own if row["objective"] == START
    ]
    for (objective, size), found in plots.grouped(own, lambda row: (row["objective"], row["size"])).items():
        trained = f"{sum(not row['diverged'] for row in found)} of {len(found)}"
        groups.append(([objective, size, trained], found))
    note = "Mean and standard deviation over seeds; the third column counts trainings that did not diverge."
    table = _table(f"From {start}", note, ["objective", "pairs", "trained"], own, groups, main)
    return replace(table, units={"pairs": "integer"})


def _table(
    title: str,
    note: str,
    heads: Sequence[str],
    rows: Rows,
    groups: Iterable[tuple[list[doc.Cell], Sequence[plots.Row]]],
    main: str,
) -> doc.TableSection:
    """Every metric that `rows` have, the main one first, for each group of rows behind its head."""
    metrics = sorted(plots.measured(rows), key=lambda name: name != main)
    return doc.TableSection(
        title,
        note=note,
        columns=[*heads, *(MEASURES[name].title for name in metrics)],
        rows=[[*head, *(_text(found, name) for name in metrics)] for head, found in groups],
    )


def sensitivity_sections(rows: Rows, main: str) -> list[doc.AnySection]:
    """Sensitivity by objective; main metric, KL and length over every varied setting; metric against KL; all cells."""
    sections: list[doc.AnySection] = [*_sensitivity_tables(plots.sensitivity(rows, main), main)]
    for metric in dict.fromkeys((main, "kl", "length")):
        drawn = [
            chart
            for objective, own in plots.grouped(rows, lambda row: row["objective"]).items()
            for chart in _setting_charts(objective, own, metric)
        ]
        if drawn:
            sections.append(doc.Curves(f"{MEASURES[metric].title}, over settings", charts=drawn))
    sections.append(
        doc.Curves(
            "What a result costs in distance from the start model",
            note="Each point is a setting, averaged over seeds.",
            charts=_against_kl(rows, main),
        )
    )
    sections.append(_settings_table(rows, main))
    return sections


def _sensitivity_tables(found: Sequence[Mapping[str, Any]], main: str) -> list[doc.TableSection]:
    unit = MEASURES[main].unit
    results: list[list[doc.Cell]] = []
    costs: list[list[doc.Cell]] = []
    for one in found:
        head: list[doc.Cell] = [one["objective"], one["tried"], one["diverged"]]
        if "best" not in one:
            results.append([*head, *[None] * 5])
            continue
        shown = [number(one[name], unit) for name in ("mean", "worst", "spread")]
        results.append([*head, one["best"].text(unit), one["settings"], *shown])
        at_best = [one["kl"].text(), one["length"].text()]
        costs.append([one["objective"], *at_best, one["mean_length"], one["length_spread"]])
    return [
        doc.TableSection(
            "Sensitivity",
            note=f"{MEASURES[main].title}. Best: mean and standard deviation over seeds; mean, worst and spread (best "
            "minus worst) over the settings.",
            columns=["objective", "settings", "diverged", "best", "at", "mean", "worst", "spread"],
            rows=results,
        ),
        doc.TableSection(
            "Distance and length",
            note="KL from the start model in nats a response, lengths in tokens.",
            columns=["objective", "KL at best", "length at best", "mean length", "spread of length"],
            rows=costs,
        ),
    ]


def _setting_charts(objective: str, rows: Sequence[plots.Row], metric: str) -> list[doc.Chart]:
    varied = {
        name: {row["settings"][name] for row in rows if name in row["settings"]}
        for name in dict.fromkeys(name for row in rows for name in row["settings"])
    }
    found = []
    for name, values in varied.items():
        if len(values) < 2 or not all(isinstance(one, int | float) for one in values):
            continue
        others = plots.grouped(rows, lambda row, name=name: _others(row, name))
        lines = [
            plots.line(rest or objective, group, metric, lambda row, name=name: row["settings"][name])
            for rest, group in others.items()
        ]
        found += plots.charts(f"{objective}: {name}", lines, name)
    return found


def _others(row: plots.Row, name: str) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in row["settings"].items() if key != name)


def _against_kl(rows: Rows, main: str) -> list[doc.Chart]:
    lines = []
    for objective, own in plots.grouped(rows, lambda row: row["objective"]).items():
        points = []
        for group in plots.grouped(own, plots.settings_text).values():
            kl, value = plots.spread(group, "kl"), plots.spread(group, main)
            if kl is not None and value is not None:
                points.append((kl.mean, value.mean))
        points.sort()
        if points:
            lines.append(doc.Series(objective, [x for x, _ in points], [y for _, y in points]))
    return plots.charts(MEASURES[main].title, lines, MEASURES["kl"].title, x_log=False)


def _settings_table(rows: Rows, main: str) -> doc.TableSection:
    groups: list[tuple[list[doc.Cell], Sequence[plots.Row]]] = [
        (["start model", ""], [row]) for row in rows if row["objective"] == START
    ]
    trained = plots.grouped(rows, lambda row: (row["objective"], plots.settings_text(row)))
    groups += [([*head], found) for head, found in trained.items()]
    note = "Mean and standard deviation over seeds."
    return _table("All settings", note, ["objective", "settings"], rows, groups, main)


def run_study(
    run: Run,
    study: Study,
    cells: Sequence[StudyCell],
    notes: Sequence[str],
    *,
    title: str,
    findings: Callable[[Rows, str], list[str]],
    sections: Callable[[Rows, str], list[doc.AnySection]],
) -> doc.Report:
    """Train and measure every cell that is missing, keep the best model, and report.

    Args:
        notes: what became of the data.
        findings: of all rows and the main metric, sentences; the first is the headline.
        sections: likewise, of the kind of study.

    Raises:
        ConfigError: see `assert_possible`.
    """
    rows = run_cells(run, study, cells)
    save_best(run, study, rows)
    main = study.exam.main
    best, (headline, *seen) = plots.spread_of_best(rows, main), findings(rows, main)
    figures = [doc.Figure(MEASURES[main].title, best.mean, unit=MEASURES[main].unit)] if best else []
    return publish(
        run,
        study.config,
        title=title,
        verdict=doc.Headline("neutral", headline, figures),
        facts={
            "Trainings": str(sum(row["objective"] != START for row in rows)),
            "Seeds": str(study.config.seeds),
            "Held-out pairs": str(len(study.exam.pairs)),
            "Answers": str(len(study.exam.tasks)),
        },
        sections=[*([doc.Text("What was seen", paragraphs=seen)] if seen else []), *sections(rows, main)],
        notes=notes,
        then=[doc.Command(f"coalign chat {run.path}", "talk to the best model")]
        if run.model.exists()
        else [],
        figures={f"{row['id']}/{main}": row[main] for row in rows if row.get(main) is not None},
    )


def _text(rows: Sequence[plots.Row], metric: str) -> str | None:
    found = plots.spread(rows, metric)
    return found.text(MEASURES[metric].unit) if found else None
