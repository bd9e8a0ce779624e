"""The page of corrected tables: what was fixed, what was left out and why, tables before and after, scores of predictions."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coalign.core.runs import Run
from coalign.data.tables.json_tables import tables_of_row
from coalign.data.tables.readers import TableSet
from coalign.data.tables.table import Table
from coalign.measures.media.grits import KINDS
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import figure_of, outcome_of, paired, too_few
from coalign.report.pictures import Shown, gallery, thumbnail
from coalign.tables.canonical.drawing import LEGEND, draw
from coalign.tables.canonical.header import HEADER_FIX
from coalign.tables.scoring import NAMES, score_table

SIDE = 352
"""Pixels of the longer side of a drawn table."""
Row = Mapping[str, Any]


def write_table_report(
    run: Run,
    config: Any,
    tables: TableSet,
    rows: Sequence[Row],
    results: Mapping[str, Any],
    scores: Mapping[str, Sequence[Row]],
) -> None:
    """Write the run's report and its headline.

    Args:
        rows: of `aligned.jsonl`, in the order of the tables.
        scores: `before` and `after`, rows a table, or nothing where nothing was predicted.
    """
    compared = _compared(scores)
    exact = next((row for row in compared if row.name == "Exact match of content"), None)
    figures = [
        doc.Figure("Kept", results["kept"], unit="integer", note=f"of {results['tables']:,}"),
        doc.Figure("Changed", results["changed"], unit="integer", better="neither"),
        doc.Figure("Left out", results["rejected"] + results["not readable"], unit="integer", better="lower"),
        *([figure_of(exact)] if exact is not None else []),
    ]
    text = (
        f"{results['kept']:,} of {results['tables'] + results['not readable']:,} tables are kept, {results['changed']:,} of "
        f"them corrected; {results['rejected']:,} are left out, each with its reason"
        + (f", and {results['not readable']:,} could not be read." if results["not readable"] else ".")
    )
    outcome: doc.Outcome = "neutral"
    if exact is not None:
        outcome = outcome_of(exact.difference, n=exact.n)
        text += too_few(exact.n or 0)
    sections: list[doc.AnySection] = [*_counts(results)]
    if compared:
        note = "The same predictions, scored against the annotation as it was and as it is now; tables that are kept."
        sections += [
            doc.Comparison(title="Predictions", note=note, rows=compared, names=("As annotated", "Corrected"))
        ]
        sections += [score_table(scores["after"])]
    sections += _galleries(tables, rows, config.pictures)
    publish(
        run,
        config,
        title="Canonical tables",
        verdict=doc.Headline(outcome, text, figures),
        facts={"Data": tables.source, "Rules": config.rules},
        sections=sections,
        notes=_notes(tables),
        limitations=[
            "Corrections only merge: cells that an annotation merged by mistake stay so, header cells taken apart sideways too.",
            "Whether a table has a header, and how far it reaches, follows from rules: look at the pictures of changed tables.",
        ],
        then=[
            doc.Command(
                command=f"coalign score grits PREDICTED.jsonl --truth {shlex.quote(str(run.artefacts / 'tables' / 'tables.jsonl'))}",
                purpose="score a recogniser on the corrected tables",
            )
        ],
    )


def _counts(results: Mapping[str, Any]) -> Iterator[doc.TableSection]:
    titles = {
        "fixes": "What was corrected",
        "rejects": "Why tables are left out",
        "accepted": "Accepted reasons",
    }
    for what, title in titles.items():
        if results[what]:
            yield doc.TableSection(
                title=title,
                columns=["Reason" if what != "fixes" else "Fix", "Tables", "Times"],
                rows=[[name, one["tables"], one["times"]] for name, one in results[what].items()],
                units={"Tables": "integer", "Times": "integer"},
            )


def _compared(scores: Mapping[str, Sequence[Row]]) -> list[doc.ComparisonRow]:
    if not scores:
        return []
    found = []
    names = {f"grits_{kind}": f"GriTS, {NAMES[kind].lower()}" for kind in KINDS}
    for key, name in {
        **names,
        "exact_con": "Exact match of content",
        "exact_top": "Exact match of topology",
    }.items():
        sides = [[float(row[key]) for row in scores[side] if key in row] for side in ("before", "after")]
        if sides[0] and len(sides[0]) == len(sides[1]):
            found.append(paired(name, *sides, emphasis=key == "exact_con"))
    return found


def _galleries(tables: TableSet, rows: Sequence[Row], most: int) -> list[Any]:
    pairs = list(zip(rows, tables.tables, strict=True))
    changed = sorted((pair for pair in pairs if pair[0]["changed"]), key=lambda pair: -_merged(pair[0]))
    left_out = [pair for pair in pairs if pair[0]["rejects"] and pair[1].cells]
    shares = most - most // 3, most // 3
    return [
        *gallery(
            "Corrected tables",
            (_shown(row, before, after=True) for row, before in changed[: shares[0]]),
            note=f"{LEGEND} Those with the most kinds of fixes first.",
            total=len(changed),
        ),
        *gallery(
            "Tables that are left out",
            (_shown(row, before, after=False) for row, before in left_out[: shares[1]]),
            note=LEGEND,
            total=len(left_out),
        ),
    ]


def _merged(row: Row) -> int:
    """How many kinds of fixes a table had that changed its grid."""
    return len(row["fixes"].keys() - {HEADER_FIX, "filled missing grid cell", "removed inline tags"})


def _shown(row: Row, before: Table, *, after: bool) -> Shown:
    pictures = [thumbnail(draw(before), "as annotated", side=SIDE)]
    if after:
        (table,) = tables_of_row(row["table"], row["id"], Path())
        table.picture = before.picture
        pictures.append(thumbnail(draw(table), "corrected", side=SIDE))
    counts = row["fixes"] if after else row["rejects"]
    return Shown(pictures, caption=str(row["id"]), values=dict(counts), tone=None if after else "bad")


def _notes(tables: TableSet) -> list[str]:
    notes = [f"{what}: {count:,}" for what, count in tables.notes.items() if count]
    return [*notes, *(f"Not read: {one}" for one in tables.problems[:50])]
