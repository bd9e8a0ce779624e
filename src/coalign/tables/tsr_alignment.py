"""Table annotations made canonical: over-segmented headers and rows put together, every fix a switch, every reject told why.

Aligning benchmark datasets for table structure recognition (arXiv 2303.00716): data sets of annotated tables disagree
with themselves and with each other, and a model that is trained or measured on them pays for it. Corrections only merge
(`coalign.tables.canonical`); what cannot be corrected by a rule is left out, with its reason.

    coalign run tsr-alignment --data annotated/
    coalign run tsr-alignment --data icdar2013/ --rules icdar-2013 --formats jsonl,html,voc
    coalign run tsr-alignment --data annotated/ --predictions predicted.jsonl
    coalign score grits predicted.jsonl --truth annotated/

The order of steps is that of the official scripts, of which there are two: `--rules fintabnet` and `--rules icdar-2013`.
Differences from them: a first-column cell takes blank cells of its own columns directly below, where the scripts make
cells of other widths overlap; a header never reaches beyond the last row; a header annotated by whole rows counts as
annotated; words of a page are read from files, not from its PDF.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coalign.core.files import append_rows, read_rows, write_json, write_rows
from coalign.core.options import Count, CountOrZero, option, required
from coalign.core.progress import progress
from coalign.core.runs import Run
from coalign.data.tables.json_tables import tables_of_row
from coalign.data.tables.readers import TableSet, read_tables
from coalign.data.tables.table import Table, to_row
from coalign.data.tables.writers import Format, write_tables
from coalign.tables.canonical.align import Aligner, Fixes
from coalign.tables.canonical.report import write_table_report
from coalign.tables.scoring import Likeness, compare, matched, means

RESULTS = "aligned.jsonl"
"""A row a table: what was done, why it is left out, and the table."""
_AT_ONCE = 100


@dataclass(kw_only=True)
class ComparedPredictions(Likeness):
    """How predictions are scored, against the annotation as it was and as it is now."""

    __group__ = "Predictions"

    predictions: str | None = option(
        None, "predicted tables with the ids of the annotated ones: scored before and after"
    )

    correct_predictions: bool = option(
        False,
        "put the predictions through the same fixes before the second score",
        only_with="predictions",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.predictions is None:
            self.refuse(Likeness, "without predictions")


@dataclass(kw_only=True)
class Config(Fixes, ComparedPredictions):
    """Options of `coalign run tsr-alignment`."""

    __group__ = "Method"

    data: str = required("annotated tables: a file, a folder or a hub id")
    split: str = option("train", "split of a hub data set")
    limit: Count | None = option(None, "read only so many tables")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at tables that cannot be read, or count them"
    )
    formats: list[Format] = option(
        ["jsonl"], "files to write: jsonl, html, voc (PASCAL VOC, words and pictures)"
    )
    padding: CountOrZero = option(5, "pixels around a table in PASCAL VOC", source="official code")
    train_padding: CountOrZero = option(
        30, "the same for tables of the split `train`", source="official code"
    )
    pictures: CountOrZero = option(60, "tables shown in the report before and after")


def run(config: Config, run: Run) -> None:
    """Correct every table, write what is kept and what is left out, score predictions, report.

    Raises:
        DataError: tables that cannot be read, or predictions that belong to none.
        ConfigError: a file of exceptions that cannot be used.
    """
    tables = read_tables(
        config.data, split=config.split, on_bad_record=config.on_bad_record, limit=config.limit
    )
    run.log("data", tables=len(tables), left_out=tables.n_bad, notes=dict(tables.notes))
    rows = align(tables.tables, config, run.artefacts / RESULTS)
    kept = [one for one in _tables(rows, tables) if one is not None]
    write_rows(
        run.artefacts / "rejected.jsonl",
        [
            {"id": row["id"], "reasons": row["rejects"], "table": to_row(table)}
            for row, table in zip(rows, tables.tables, strict=True)
            if row["rejects"]
        ]
        + [{"id": None, "reasons": {"not readable": 1}, "problem": str(one)} for one in tables.problems],
    )
    written = write_tables(
        kept, run.artefacts / "tables", config.formats, paddings=(config.train_padding, config.padding)
    )
    scores = _scores(config, tables.tables, kept) if config.predictions is not None else {}
    for name, found in scores.items():
        write_rows(run.artefacts / f"scores-{name}.jsonl", found)
    results = summarise(rows, tables) | {"written": written}
    results |= {f"scores {name}": means(found) for name, found in scores.items()}
    write_json(run.artefacts / "results.json", results)
    write_table_report(run, config, tables, rows, results, scores)


def align(tables: Sequence[Table], fixes: Fixes, path: Path) -> list[dict[str, Any]]:
    """A row a table: `id`, `fixes`, `rejects`, `accepted`, `changed`, and the corrected `table`. Rows that `path` has are kept."""
    aligner = Aligner(fixes)
    done = {row["id"] for row in read_rows(path, repair=True)}
    with progress(len(tables), "Correcting", "table") as bar:
        bar.advance(len(done))
        missing = [one for one in tables if one.id not in done]
        for begin in range(0, len(missing), _AT_ONCE):
            part = missing[begin : begin + _AT_ONCE]
            append_rows(path, [_aligned(aligner, one) for one in part])
            bar.advance(len(part))
    by_id = {row["id"]: row for row in read_rows(path)}
    return [by_id[one.id] for one in tables]


def _aligned(aligner: Aligner, table: Table) -> dict[str, Any]:
    found = aligner(table)
    made = to_row(found.table)
    return {
        "id": table.id,
        "fixes": dict(found.fixes),
        "rejects": dict(found.rejects),
        "accepted": dict(found.accepted),
        "changed": found.kept and _structure(found.table) != _structure(table),
        "table": made,
    }


def _structure(table: Table) -> list[tuple[Any, ...]]:
    return sorted((cell.rows, cell.columns, cell.text, cell.header, cell.projected) for cell in table.cells)


def _tables(rows: Sequence[Mapping[str, Any]], read: TableSet) -> Iterator[Table | None]:
    """The corrected tables of the rows, None for one that is left out."""
    for row, before in zip(rows, read.tables, strict=True):
        if row["rejects"]:
            yield None
            continue
        (table,) = tables_of_row(row["table"], row["id"], Path())
        table.source, table.line, table.picture = before.source, before.line, before.picture
        yield table


def summarise(rows: Sequence[Mapping[str, Any]], tables: TableSet) -> dict[str, Any]:
    """Counts: tables that are kept, changed and left out, and each fix and reason by tables and by places."""
    found: dict[str, Any] = {
        "tables": len(rows),
        "not readable": tables.n_bad,
        "kept": sum(not row["rejects"] for row in rows),
        "changed": sum(row["changed"] for row in rows),
        "rejected": sum(bool(row["rejects"]) for row in rows),
    }
    for what in ("fixes", "rejects", "accepted"):
        by_table: Counter[str] = Counter()
        by_place: Counter[str] = Counter()
        for row in rows:
            if what == "fixes" and row["rejects"]:
                continue
            by_table.update(row[what].keys())
            by_place.update(row[what])
        found[what] = {
            name: {"tables": count, "times": by_place[name]} for name, count in by_table.most_common()
        }
    return found


def _scores(
    config: Config, before: Sequence[Table], after: Sequence[Table]
) -> dict[str, list[dict[str, Any]]]:
    """Scores of the predictions against the annotation of the tables that are kept, as it was and as it is now. A prediction
    that the fixes would leave out stays as it is.
    """
    assert config.predictions is not None
    predicted = read_tables(config.predictions, split=config.split, on_bad_record=config.on_bad_record).tables
    names = {one.id for one in after}
    first = compare(matched([one for one in before if one.id in names], predicted).pairs, config)
    if config.correct_predictions:
        aligner = Aligner(config)
        corrected = [(one, aligner(one)) for one in predicted]
        predicted = [found.table if found.kept else one for one, found in corrected]
    return {"before": first, "after": compare(matched(after, predicted).pairs, config)}
