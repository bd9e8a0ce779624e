"""`coalign score grits`: how well table structures are recognised, table by table and in the mean.

    coalign score grits predicted.jsonl --truth annotated/

GriTS (arXiv 2203.12555) by topology, content and location, and exact match. True and predicted tables are of any format
that is read (`coalign.data.tables.readers`) and belong together by their id. A true table without a prediction counts
as one predicted empty, and a prediction without a true table is told; nothing is left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from coalign.core.engines.spool import View
from coalign.core.errors import DataError, RecordProblem
from coalign.core.options import Count, OptionGroup, option, required
from coalign.core.progress import progress
from coalign.data.tables.readers import read_tables
from coalign.data.tables.table import Cell, Table
from coalign.measures.media.grits import KINDS, Grid, GriTS, Kind, TextSimilarity, grits
from coalign.measures.statistics import bootstrap_mean
from coalign.report import model as doc
from coalign.report.model import Report

NAMES: dict[Kind, str] = {"top": "Topology", "con": "Content", "loc": "Location"}
_AT_ONCE = 100


@dataclass(kw_only=True)
class Likeness(OptionGroup):
    """How predicted tables are compared with true ones."""

    __group__ = "Scoring"

    kinds: list[Kind] = option(
        ["top", "con", "loc"],
        "topology, content, location (only where both tables have boxes)",
        source="paper",
    )
    text_similarity: TextSimilarity = option(
        "difflib",
        "difflib as the published code; blocks: the same without its rule for long texts; lcs: longest common subsequence",
        source="official code",
    )
    location: Literal["auto", "tight", "region"] = option(
        "auto",
        "boxes to compare: tight around texts, or the cells' share of the grid; auto: the share where both tables have it",
    )


@dataclass(kw_only=True)
class ScoringOptions(Likeness):
    """Options of `coalign score grits`; the file holds the predictions."""

    __group__ = "Scoring"

    truth: str = required("annotated tables: a file or a folder")
    split: str = option("test", "split of a hub data set")
    limit: Count | None = option(None, "score only so many true tables")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at tables that cannot be read, or count them"
    )


@dataclass(frozen=True)
class Compared:
    """True tables with their predictions, and what has no other side."""

    pairs: Sequence[tuple[Table, Table | None]]
    unmatched: list[str]
    problems: list[RecordProblem] = field(default_factory=list)

    @property
    def items(self) -> Sequence[tuple[Table, Table | None]]:
        return self.pairs

    @property
    def ids(self) -> Sequence[str]:
        return View(self.pairs, lambda pair: pair[0].id)


def matched(true: Sequence[Table], predicted: Sequence[Table]) -> Compared:
    """Tables with the same id; where no id is shared, with the same id without its folder and suffix.

    Raises:
        DataError: no prediction belongs to a true table.
    """
    for key in (lambda one: one.id, lambda one: Path(one.id).stem):
        by_key = {key(one): place for place, one in enumerate(predicted)}
        places = [by_key.get(key(one)) for one in true]
        if any(place is not None for place in places):
            used = set(places)
            left = [one.id for place, one in enumerate(predicted) if place not in used]
            return Compared(View(range(len(true)), partial(_pair, true, predicted, places)), left)
    shown = f"{true[0].id!r} and {predicted[0].id!r}" if true and predicted else "none"
    raise DataError(
        f"No predicted table has the id of a true one (the first are {shown}).",
        hint="Give predictions the `id` of their table, or files the same names.",
    )


def _pair(
    true: Sequence[Table], predicted: Sequence[Table], places: Sequence[int | None], number: int
) -> tuple[Table, Table | None]:
    place = places[number]
    return true[number], None if place is None else predicted[place]


def compare(pairs: Sequence[tuple[Table, Table | None]], how: Likeness) -> list[dict[str, Any]]:
    """A row a pair: GriTS with precision, recall, upper bound and exact match, and what was wrong with either grid."""
    rows: list[dict[str, Any]] = []
    with progress(len(pairs), "Scoring", "table") as bar:
        for begin in range(0, len(pairs), _AT_ONCE):
            part = pairs[begin : begin + _AT_ONCE]
            grids = [
                (Grid.of(true.cells if not region else _regions(true)), _predicted_grid(other, region))
                for true, other in part
                for region in [_by_region(true, other, how.location)]
            ]
            scores = grits(grids, how.kinds, text=how.text_similarity)
            for (true, other), sides, one in zip(part, grids, scores, strict=True):
                rows.append(_row(true, other, sides, one))
            bar.advance(len(part))
    return rows


def _by_region(true: Table, other: Table | None, location: str) -> bool:
    if location != "auto":
        return location == "region"
    return other is not None and all(cell.region is not None for one in (true, other) for cell in one.cells)


def _regions(table: Table) -> list[Cell]:
    return [Cell(cell.rows, cell.columns, cell.text, cell.region) for cell in table.cells]


def _predicted_grid(table: Table | None, region: bool) -> Grid:
    if table is None:
        return Grid.of([])
    return Grid.of(_regions(table) if region else table.cells)


def _row(
    true: Table, other: Table | None, grids: tuple[Grid, Grid], scores: Mapping[Kind, GriTS]
) -> dict[str, Any]:
    row: dict[str, Any] = {"id": true.id, "predicted": other is not None}
    without = not all(len(one.loc.values) > 1 for one in grids) and other is not None
    for kind, one in scores.items():
        if kind == "loc" and without:
            continue
        row |= {
            f"grits_{kind}": one.score,
            f"precision_{kind}": one.precision,
            f"recall_{kind}": one.recall,
            f"upper_bound_{kind}": one.upper_bound,
            f"exact_{kind}": one.exact,
        }
    for side, grid in zip(("true", "predicted"), grids, strict=True):
        row |= {f"{side}_rows": grid.shape[0], f"{side}_columns": grid.shape[1]}
        row |= {
            f"{side}_{what}": count
            for what, count in (("holes", grid.holes), ("overlaps", grid.overlaps))
            if count
        }
    return row


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean of each score and share of exact tables, with 95 % intervals (bootstrap over tables)."""
    found: dict[str, Any] = {
        "tables": len(rows),
        "without prediction": sum(not row["predicted"] for row in rows),
    }
    for kind in KINDS:
        for what in ("grits", "exact"):
            values = [float(row[f"{what}_{kind}"]) for row in rows if f"{what}_{kind}" in row]
            if values:
                found[f"{what}_{kind}"] = bootstrap_mean(values).to_dict()
    return found


def read(source: str, options: ScoringOptions) -> Compared:
    """The pairs of tables of a file of predictions.

    Raises:
        DataError: tables that cannot be read, or that do not belong together.
    """
    how: dict[str, Any] = {"split": options.split, "on_bad_record": options.on_bad_record, "many": True}
    true, predicted = read_tables(options.truth, limit=options.limit, **how), read_tables(source, **how)
    found = matched(true.tables, predicted.tables)
    unmatched = [
        RecordProblem(source, None, "id", f"{one!r} belongs to no true table", "an id of the truth")
        for one in (found.unmatched if options.limit is None else [])
    ]
    return Compared(found.pairs, found.unmatched, [*true.problems, *predicted.problems, *unmatched])


def scorer(
    options: ScoringOptions,
) -> Callable[[Sequence[tuple[Table, Table | None]]], list[dict[str, Any]]]:
    """What makes rows of pairs of tables."""
    return partial(compare, how=options)


def page(found: Compared, rows: Sequence[Mapping[str, Any]], options: ScoringOptions) -> Report:
    """The page of `coalign score grits --html`."""
    result = means(rows)
    figures = [
        doc.Figure(f"GriTS, {NAMES[kind].lower()}", result[f"grits_{kind}"]["mean"], unit="percent")
        for kind in KINDS
        if f"grits_{kind}" in result
    ]
    if "exact_con" in result:
        figures.append(doc.Figure("Exact match of content", result["exact_con"]["mean"], unit="percent"))
    text = f"{len(rows)} tables, {result['without prediction']} of them without a prediction."
    sections: list[doc.AnySection] = [score_table(rows)]
    if found.problems:
        sections.append(doc.Text(title="Left out", paragraphs=[str(one) for one in found.problems]))
    return Report(
        title="Table structures",
        method="grits",
        verdict=doc.Headline("neutral", text, figures),
        sections=sections,
    )


def score_table(rows: Sequence[Mapping[str, Any]], most: int = 500) -> doc.TableSection:
    """The tables with their scores, the worst first."""
    kinds: list[Kind] = [kind for kind in KINDS if any(f"grits_{kind}" in row for row in rows)]
    lowest = heapq.nsmallest(
        most, rows, key=lambda row: min((row.get(f"grits_{kind}", 1.0) for kind in kinds), default=1.0)
    )
    columns = [
        "Table",
        *(NAMES[kind] for kind in kinds),
        "Exact content",
        "Rows",
        "Columns",
        "Predicted rows",
        "Predicted columns",
    ]
    note = f"The {most} worst of {len(rows):,}." if len(rows) > most else "The worst first."
    return doc.TableSection(
        title="Scores",
        note=note,
        columns=columns,
        rows=[
            [
                row["id"],
                *(row.get(f"grits_{kind}") for kind in kinds),
                row.get("exact_con"),
                *(row[f"{side}_{axis}"] for side in ("true", "predicted") for axis in ("rows", "columns")),
            ]
            for row in lowest
        ],
        units={**{NAMES[kind]: "percent" for kind in kinds}, **dict.fromkeys(columns[-4:], "integer")},
    )
