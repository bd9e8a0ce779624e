"""The report in a terminal: the headline, comparisons with intervals, three samples, timings, what to do next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as RichText

from coalign.report import model as doc
from coalign.report.format import difference_texts, interval_text, number
from coalign.report.parts import effect, median_row
from coalign.report.text import visible

_OUTCOME_STYLE = {
    "improved": "bold green",
    "worse": "bold red",
    "not improved": "bold red",
    "mixed": "bold yellow",
    "neutral": "bold",
}
_EFFECT_STYLE: dict[doc.Effect, str] = {"better": "green", "worse": "red", "unclear": "", "unknown": ""}
_SAMPLE_CHARACTERS = 400
_WIDE = 110


def print_report(report: doc.Report, console: Console | None = None) -> None:
    """Print what fits a terminal; curves, distributions and the configuration are left to the HTML report."""
    console = console or Console(highlight=False)
    console.print()
    console.print(plain(report.title, "bold"))
    console.print(_verdict(report.verdict))
    for section in report.sections:
        if isinstance(section, doc.Comparison):
            print_section(console, section.title, _comparison(section, wide=console.width >= _WIDE))
        elif isinstance(section, doc.Samples) and section.rows:
            print_section(console, section.title, _samples(section))
        elif isinstance(section, doc.Timings):
            print_section(console, section.title, _timings(section))
        elif isinstance(section, doc.TableSection) and section.in_terminal:
            print_section(console, section.title, _table(section))
    if report.next_commands:
        lines = [
            RichText.assemble(
                ("  ", ""), (visible(one.command), "bold cyan"), (f"  {visible(one.purpose)}", "dim")
            )
            for one in report.next_commands
        ]
        print_section(console, "Go on", Group(*lines))
    console.print()


def pick_samples(section: doc.Samples) -> list[tuple[str, int]]:
    """(why, index) of the median, which is what to expect, the largest gain and the largest loss; the first three where
    nothing is scored.
    """
    gains = [
        (gain, index) for index, row in enumerate(section.rows) if (gain := section.gain(row)) is not None
    ]
    if len(gains) < 3:
        return [("", index) for index in range(min(3, len(section.rows)))]
    gains.sort()
    last = "largest loss" if gains[0][0] < 0 else "smallest gain"
    middle = median_row(section)
    gains = [one for one in gains if one[1] != middle]
    return [("median", middle or 0), ("largest gain", gains[-1][1]), (last, gains[0][1])]


def print_section(console: Console, title: str, body: Table | Group) -> None:
    """Print a titled block after an empty line."""
    console.print()
    console.print(plain(title, "bold"))
    console.print(body)


def _verdict(verdict: doc.Headline) -> Group:
    head = RichText.assemble(
        (verdict.outcome.capitalize(), _OUTCOME_STYLE[verdict.outcome]), "  ", visible(verdict.text)
    )
    return Group(head, *(_figure(figure) for figure in verdict.figures))


def _figure(figure: doc.Figure) -> RichText:
    text = RichText(f"  {visible(figure.label)}: ")
    if figure.before is not None:
        text.append(f"{number(figure.before, figure.unit)} → ")
    text.append(visible(number(figure.value, figure.unit)), "bold")
    if figure.difference is not None:
        style = _EFFECT_STYLE[effect(figure.difference, figure.better)]
        text.append("  " + " ".join(difference_texts(figure.difference, figure.unit)), style)
    if figure.note:
        text.append(f"  {visible(figure.note)}", "dim")
    return text


def _comparison(section: doc.Comparison, *, wide: bool) -> Table:
    """The table; in a narrow terminal only the differences show their intervals."""
    table = bare_table("", "n", *section.names, "difference", f"{section.level * 100:g}% interval")
    for row in section.rows:
        change, interval = difference_texts(row.difference, row.unit) if row.difference else ("", "")
        table.add_row(
            plain(row.name),
            "" if row.n is None else number(row.n, "integer"),
            *(_level(one, row.unit, wide) for one in (row.before, row.after)),
            RichText(change, _EFFECT_STYLE[effect(row.difference, row.better)]),
            RichText(interval, "dim"),
            style="bold" if row.emphasis else "",
        )
    return table


def _level(estimate: doc.Estimate, unit: doc.Unit, wide: bool) -> RichText:
    text = RichText(number(estimate.value, unit))
    return text.append(f" {interval_text(estimate, unit)}", "dim") if wide else text


def _samples(section: doc.Samples) -> Group:
    return Group(*(_sample(section, why, section.rows[index], index) for why, index in pick_samples(section)))


def _sample(section: doc.Samples, why: str, row: doc.Sample, index: int) -> Padding:
    head = RichText(f"#{index + 1} ", "dim").append(_shortened(row.prompt), "bold")
    if why:
        head.append(f"  ({why})", "dim")
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), show_edge=False)
    for name, output in zip(section.columns, row.outputs, strict=True):
        score = "" if output.score is None else f"  {section.score_name} {number(output.score, section.unit)}"
        table.add_column(plain(f"{name}{score}", "dim"), ratio=1, overflow="fold")
    table.add_row(*(RichText(_shortened(output.text) or "(empty)") for output in row.outputs))
    return Padding(Group(head, table), (0, 0, 1, 2))


def _table(section: doc.TableSection) -> Table:
    table = bare_table(*section.columns, overflow="fold")
    for row in section.rows:
        cells = zip(section.columns, row, strict=True)
        table.add_row(
            *(
                plain(one if isinstance(one, str) else number(one, section.units.get(name, "number")))
                for name, one in cells
            )
        )
    return table


def _timings(section: doc.Timings) -> Table:
    table = bare_table("stage", "time", "peak memory")
    for stage in section.stages:
        table.add_row(plain(stage.name), number(stage.seconds, "seconds"), number(stage.peak_bytes, "bytes"))
    table.add_section()
    peaks = [stage.peak_bytes for stage in section.stages if stage.peak_bytes is not None]
    total = sum(stage.seconds for stage in section.stages)
    table.add_row("total", number(total, "seconds"), number(max(peaks, default=None), "bytes"), style="bold")
    return table


def bare_table(
    *columns: str, right: Callable[[int], bool] = bool, overflow: Literal["fold", "ellipsis"] = "ellipsis"
) -> Table:
    """An empty table; `right` says of each column whether it is aligned on the right, by default all but the first."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(plain(column), justify="right" if right(index) else "left", overflow=overflow)
    return table


def plain(text: str, style: str = "") -> RichText:
    """Text that is printed as it is: no markup is read in it and no control character reaches the terminal."""
    return RichText(visible(text), style)


def _shortened(text: str) -> str:
    shown = visible(text).strip()
    return shown if len(shown) <= _SAMPLE_CHARACTERS else shown[:_SAMPLE_CHARACTERS].rstrip() + " …"
