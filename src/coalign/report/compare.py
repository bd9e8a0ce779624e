"""One report over several runs: their figures, the options that differ, their curves and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text as RichText

from coalign.core.errors import CoalignError
from coalign.core.limits import is_number
from coalign.core.runs import Run
from coalign.report import model as doc
from coalign.report.format import MISSING, number
from coalign.report.html import flatten, read_report
from coalign.report.terminal import bare_table, plain, print_section

TITLES = {
    "loss": "Loss",
    "rewards/margins": "Reward margin",
    "rewards/accuracies": "Pairs in the right order",
    "logps/chosen": "Log-probability of the chosen response",
    "logps/rejected": "Log-probability of the rejected response",
    "kl/policy_reference": "Log-ratio of policy and reference, nats a response",
    "length/response": "Response length, tokens",
    "grad_norm": "Gradient norm",
}
"""Logged metrics that are drawn, in order."""

Curve = tuple[list[float], list[float | None]]


@dataclass(frozen=True)
class _Member:
    name: str
    method: str
    state: str
    headline: str
    figures: dict[str, float]
    config: dict[str, str]
    curves: dict[str, Curve]
    samples: list[doc.Samples]


def comparison_report(runs: Sequence[Run]) -> doc.Report:
    """A report with one column, or one line in every chart, for each run.

    Curves come from the event log, so that runs in progress have them too; samples from the runs' own reports, where
    two or more runs answered the same prompts.

    Raises:
        RunError: a run's status cannot be read.
        ConfigError: a run's configuration cannot be read.
    """
    members = [_member(run, name) for run, name in zip(runs, _names(runs), strict=True)]
    differing = _differences(members)
    sections: list[doc.AnySection] = [_overview(members)]
    sections += _figures(members)
    sections.append(
        differing or doc.Text(title="Options that differ", paragraphs=["None: all options are equal."])
    )
    sections += _curves(members)
    sections += _samples(members)
    same = _same_options(members)
    if same:
        sections.append(doc.KeyValues(title="Options in common", items=same))
    return doc.Report(
        title=f"{len(members)} runs compared",
        method=", ".join(dict.fromkeys(one.method for one in members)),
        verdict=doc.Headline(outcome="neutral", text=_summary(members, differing)),
        sections=sections,
    )


def print_comparison(report: doc.Report, console: Console | None = None) -> None:
    """The verdict and the tables; curves and samples are left to the page."""
    console = console or Console(highlight=False)
    console.print(plain(report.title, "bold"))
    console.print(plain(report.verdict.text))
    for section in report.sections:
        if isinstance(section, doc.TableSection):
            print_section(console, section.title, _printed(section))
    console.print()


def _member(run: Run, name: str) -> _Member:
    curves = logged_curves(run.events("train"))
    samples: list[doc.Samples] = []
    try:
        sections = read_report(run.report).sections
    except CoalignError:  # not written yet
        sections = ()
    for section in sections:
        if isinstance(section, doc.Samples):
            samples.append(section)
        elif isinstance(section, doc.Curves) and not curves:
            curves = _drawn(section)
    status = run.status()
    return _Member(
        name=name,
        method=str(status.get("method", "?")),
        state=run.state,
        headline=str(status.get("headline") or status.get("error") or ""),
        figures=_numbers(status.get("figures")),
        config=dict(flatten(run.config())),
        curves=curves,
        samples=samples,
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """Folder names, or whole paths where two are alike."""
    names = [run.path.resolve().name for run in runs]
    counts = Counter(names)
    return [name if counts[name] == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]


def _overview(members: Sequence[_Member]) -> doc.TableSection:
    rows = [[one.name, one.method, one.state, one.headline or MISSING] for one in members]
    return doc.TableSection(title="Runs", columns=["run", "method", "state", "result"], rows=rows)


def _figures(members: Sequence[_Member]) -> list[doc.TableSection]:
    """Numbers that `status.json` holds, those that at least one run has."""
    names = list(dict.fromkeys(name for one in members for name in one.figures))
    if not names:
        return []
    rows: list[list[doc.Cell]] = [[name, *(one.figures.get(name) for one in members)] for name in names]
    return [doc.TableSection(title="Figures", columns=["figure", *(one.name for one in members)], rows=rows)]


def _numbers(values: Any, prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}.")
        elif is_number(value):
            found[f"{prefix}{key}"] = value
    return found


def _differences(members: Sequence[_Member]) -> doc.TableSection | None:
    names = list(dict.fromkeys(name for one in members for name in one.config))
    rows: list[list[doc.Cell]] = [
        [name, *(one.config.get(name, MISSING) for one in members)]
        for name in names
        if len({one.config.get(name, MISSING) for one in members}) > 1
    ]
    if not rows:
        return None
    return doc.TableSection(
        title="Options that differ", columns=["option", *(one.name for one in members)], rows=rows
    )


def _same_options(members: Sequence[_Member]) -> dict[str, str]:
    first, *rest = (one.config for one in members)
    return {name: value for name, value in first.items() if all(one.get(name) == value for one in rest)}


def _summary(members: Sequence[_Member], differing: doc.TableSection | None) -> str:
    methods = dict.fromkeys(one.method for one in members)
    names = [str(row[0]) for row in differing.rows] if differing else []
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{len(members)} runs of {', '.join(methods)}. They differ in: {shown or 'no option'}."


def logged_curves(events: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Title to curve, from the events `train` of a run; a step that was done again after a resume counts once. Events that are not as a
    training writes them are passed over.
    """
    events = [one for one in events if isinstance(one.get("stage", ""), str) and is_number(one.get("step"))]
    stages = list(dict.fromkeys(event.get("stage", "") for event in events))
    curves: dict[str, Curve] = {}
    for key, title in TITLES.items():
        for prefix, suffix in (("", ""), ("eval_", ", held out")):
            for stage in stages:
                points = {
                    event["step"]: event[prefix + key]
                    for event in events
                    if event.get("stage", "") == stage and is_number(event.get(prefix + key))
                }
                if points:
                    where = f" ({stage})" if len(stages) > 1 else ""
                    steps = sorted(points)
                    curves[f"{title}{suffix}{where}"] = (
                        [float(step) for step in steps],
                        [points[step] for step in steps],
                    )
    return curves


def _drawn(section: doc.Curves) -> dict[str, Curve]:
    """Title to curve, from a report."""
    return {
        chart.title if len(chart.series) == 1 else f"{chart.title}, {series.name}": (
            list(series.steps),
            list(series.values),
        )
        for chart in section.charts
        for series in chart.series
    }


def _curves(members: Sequence[_Member]) -> list[doc.Curves]:
    titles = dict.fromkeys(title for one in members for title in one.curves)
    charts = [
        doc.Chart(
            title=title,
            series=[
                doc.Series(name=one.name, steps=one.curves[title][0], values=one.curves[title][1])
                for one in members
                if title in one.curves
            ],
        )
        for title in titles
    ]
    return [doc.Curves(title="Training", charts=charts)] if charts else []


def _samples(members: Sequence[_Member]) -> list[doc.Samples]:
    """For every section of samples that two or more runs have: the prompts in common, what each run's model wrote."""
    titles = dict.fromkeys(section.title for one in members for section in one.samples)
    found = (_common(title, members) for title in titles)
    return [section for section in found if section is not None]


def _common(title: str, members: Sequence[_Member]) -> doc.Samples | None:
    having = [(one.name, section) for one in members for section in one.samples if section.title == title]
    if len(having) < 2:
        return None
    answers = [{row.prompt: row.outputs[-1] for row in section.rows} for _, section in having]
    tags = {row.prompt: row.tags for row in having[0][1].rows}
    prompts = [prompt for prompt in answers[0] if all(prompt in one for one in answers)]
    if not prompts:
        return None
    first = having[0][1]
    return doc.Samples(
        title=title,
        note=f"{len(prompts)} prompts that all of these runs answered; each run's own result.",
        columns=[name for name, _ in having],
        rows=[
            doc.Sample(prompt=prompt, outputs=[one[prompt] for one in answers], tags=tags[prompt])
            for prompt in prompts
        ],
        score_name=first.score_name,
        unit=first.unit,
        better=first.better,
    )


def _printed(section: doc.TableSection) -> Table:
    def numeric(index: int) -> bool:
        return any(isinstance(row[index], int | float) for row in section.rows)

    table = bare_table(*section.columns, right=numeric, overflow="fold")
    for row in section.rows:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def _cell(cell: doc.Cell) -> RichText:
    return plain(cell if isinstance(cell, str) else number(None if cell is None else float(cell)))
