"""The findings about pictures and clips, in the terminal and as a report with thumbnails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coalign.core.errors import RecordProblem
from coalign.data.checking.check import Check
from coalign.data.checking.check_view import print_problems
from coalign.data.media.check import SHOWN_GROUPS, MediaCheck, Spread
from coalign.data.media.gallery import named, record_gallery, thumbnails
from coalign.data.readers import RecordSet
from coalign.report import model as doc
from coalign.report.html import write_report
from coalign.report.parts import counted
from coalign.report.pictures import Shown, gallery

MOST_ROWS = 12
"""Rows of a count that are shown."""


def print_media_check(check: MediaCheck, console: Console) -> None:
    """Print everything but the pictures."""
    console.print(Text(check.source, style="bold"), soft_wrap=True)
    console.print(Text(f"Recognised: {check.what}."), soft_wrap=True)
    for part, column in check.columns.items():
        console.print(Text.assemble("  ", (column, "bold"), f": {part}"), soft_wrap=True)
    if check.unused:
        console.print(Text(f"  kept beside the record: {', '.join(check.unused)}"), soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for name, value in facts(check).items():
        table.add_row(name, value)
    console.print()
    console.print(table)
    for title, counts in _tables(check).items():
        console.print(Text(f"\n{title}", style="bold"))
        rows = list(counts.items())
        for name, number in rows[:MOST_ROWS]:
            console.print(Text(f"  {number:>9,}  {name}"), soft_wrap=True)
        if len(rows) > MOST_ROWS:
            console.print(f"  ... and {len(rows) - MOST_ROWS} more (all with --json)")
    for line in check.warnings():
        console.print(Text.assemble(("\nwarning ", "yellow"), line), soft_wrap=True)
    for ids in check.equal[:SHOWN_GROUPS]:
        console.print(Text(f"  the same: {', '.join(ids[:8])}"), soft_wrap=True)
    print_problems("Bad records", check.problems, console)
    console.print()
    console.print(
        Text.assemble(
            ("Usable" if check.usable else "Not usable", "bold green" if check.usable else "bold red"),
            f": {verdict(check)}",
        ),
        soft_wrap=True,
    )


def verdict(check: MediaCheck) -> str:
    """One sentence."""
    bad = f" Bad records: {check.n_bad:,}." if check.n_bad else ""
    return f"{check.n_records:,} {check.what} decoded.{bad}"


def facts(check: MediaCheck) -> dict[str, str]:
    """Names and figures as text."""
    found = {
        f"{check.what} decoded": f"{check.n_records:,}",
        "bad records": f"{check.n_bad:,}",
        "captions": f"{check.captions:,}",
        "with several captions": f"{check.several:,}",
        "without a caption": f"{check.without:,}",
    }
    spreads: list[tuple[str, Spread | None, str]] = [
        ("width", check.width, " px"),
        ("height", check.height, " px"),
        ("seconds", check.seconds, " s"),
        ("frames a second", check.rate, ""),
        ("frames", check.frames, ""),
    ]
    for name, one, unit in spreads:
        if one is not None:
            low, median, high = (f"{value:,.6g}" for value in (one.low, one.median, one.high))
            found[name] = f"{low}{unit}" if one.low == one.high else f"{low} to {high}{unit}, median {median}"
    return found


def _tables(check: MediaCheck) -> dict[str, Mapping[str, int]]:
    found = {
        "Colour modes": check.modes,
        "Codecs" if check.kind == "video" else "Formats": check.formats,
        "Conversions": check.conversions,
        "Sizes": check.sizes,
        "Classes": check.labels,
        "Captions of several": check.equal_captions,
    }
    return {title: counts for title, counts in found.items() if counts}


def write_media_report(checks: Sequence[MediaCheck], path: Path) -> None:
    """A page (and its JSON beside it) with counts, problems and thumbnails."""
    several = len(checks) > 1
    sections: list[doc.AnySection] = []
    for check in checks:
        of = f"{_name(check.source)}: " if several else ""
        sections += [
            *gallery(f"{of}{check.what.capitalize()}", check.shown, total=check.n_records),
            *([doc.Text(title=f"{of}Warnings", paragraphs=check.warnings())] if check.warnings() else []),
            *_listed(f"{of}Bad records", check.problems),
            *_equal_table(f"{of}The same {check.what}", check),
            *(_counts(f"{of}{title}", title, counts) for title, counts in _tables(check).items()),
            doc.KeyValues(title=f"{of}Figures", items=facts(check) | {"columns": check.columns}),
        ]
    text = " ".join(f"{_name(one.source)}: {verdict(one)}" if several else verdict(one) for one in checks)
    usable = all(one.usable for one in checks)
    figures = [
        doc.Figure("decoded", sum(one.n_records for one in checks), unit="integer"),
        doc.Figure("bad", sum(one.n_bad for one in checks), unit="integer"),
        doc.Figure("same as another", sum(sum(map(len, one.equal)) for one in checks), unit="integer"),
    ]
    report = doc.Report(
        title=f"{', '.join(_name(one.source) for one in checks)}: what was decoded",
        method="data check",
        verdict=doc.Headline(
            "neutral" if usable else "worse", f"{'Usable' if usable else 'Not usable'}. {text}", figures
        ),
        sections=sections,
    )
    write_report(report, path)


def _name(source: str) -> str:
    return Path(source).name or source


def _counts(title: str, what: str, counts: Mapping[str, int]) -> doc.TableSection:
    first = dict(list(counts.items())[:MOST_ROWS])
    note = f"The most frequent {len(first)} of {len(counts):,}." if len(first) < len(counts) else ""
    return counted(title, (what, "Records"), first, note=note)


def write_record_report(found: Sequence[RecordSet], checks: Sequence[Check], path: Path) -> None:
    """A page (and its JSON beside it) with the pictures of records of text: beside what is written around them, and, of the
    first record of each shape, beside its tokens.
    """
    sections: list[doc.AnySection] = []
    for records, check in zip(found, checks, strict=True):
        of = f"{_name(check.source)}: " if len(checks) > 1 else ""
        shown = {str(one.source): one for one in records.records if one.pictures}
        sections += gallery(
            f"{of}Token by token",
            (
                Shown(
                    thumbnails(shown[one.place]),
                    f"{one.place}: {_tokens(one.prompt)}",
                    named(one.responses, _tokens),
                )
                for one in check.pictures
                if one.place in shown
            ),
            note="The first record of each shape.",
        )
        sections += record_gallery(records.records, f"{of}Records with pictures")
        sections += _listed(f"{of}Bad records", check.problems) + _listed(f"{of}Dropped", check.dropped or [])
    usable = all(one.usable for one in checks)
    pictures = sum(one.shown[0] for one in checks)
    text = f"{'Usable' if usable else 'Not usable'}: {sum(one.n_records for one in checks):,} records, {pictures:,} pictures."
    names = ", ".join(_name(one.source) for one in checks)
    verdict = doc.Headline("neutral" if usable else "worse", text)
    write_report(
        doc.Report(title=f"{names}: records", method="data check", verdict=verdict, sections=sections), path
    )


def _tokens(tokens: Sequence[str]) -> str:
    return "|".join(one.replace("\n", "⏎").replace(" ", "·") for one in tokens)


def _listed(title: str, problems: Sequence[RecordProblem]) -> list[doc.TableSection]:
    rows = [[str(one).removesuffix(f", expected {one.expected}"), one.expected] for one in problems]
    return [doc.TableSection(title=title, columns=["Problem", "Expected"], rows=rows)] if rows else []


def _equal_table(title: str, check: MediaCheck) -> list[doc.TableSection]:
    rows = [[len(ids), ", ".join(ids)] for ids in check.equal]
    units: dict[str, doc.Unit] = {"Records": "integer"}
    return [doc.TableSection(title=title, columns=["Records", "Ids"], rows=rows, units=units)] if rows else []
