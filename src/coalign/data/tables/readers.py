"""`read_tables`: annotated tables of any supported format, with every bad one named.

A source is a file, or a folder that is searched with its subfolders and read by the first of these kinds that it has:

.xml          ICDAR-2013 structure files (`*-str.xml` alone, where there are some) and PASCAL VOC with `*_words.json`
.html, .htm   every `<table>`
.jsonl, .json rows as in `coalign.data.tables.json_tables` (also .gz, .zst, .parquet, or a hub id)
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from coalign.core.engines.spool import Spool
from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import parse_json
from coalign.core.progress import counted
from coalign.data.messages import FieldError
from coalign.data.rows import iter_rows
from coalign.data.tables.html_tables import cells_of_html
from coalign.data.tables.json_tables import tables_of_row
from coalign.data.tables.table import MOST_PLACES, Table
from coalign.data.tables.xml_tables import icdar_tables, parse_xml, voc_table

FORMATS = "tables in JSON rows (.jsonl, .json, .parquet), HTML, PASCAL VOC or ICDAR-2013 XML, or a folder of such files"
_KINDS = ((".xml",), (".html", ".htm"), (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".jsonl.zst", ".parquet"))


@dataclass(frozen=True)
class TableSet:
    """What was read.

    Attributes:
        tables: the readable ones, in order, with ids of their own.
        source: as it was named.
        problems: what is wrong with the others.
        notes: what readers changed or left out, with how often.
    """

    tables: Sequence[Table]
    source: str
    problems: list[RecordProblem] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def n_bad(self) -> int:
        return len(self.problems)

    def __len__(self) -> int:
        return len(self.tables)


def read_tables(
    source: str | Path,
    *,
    split: str = "train",
    on_bad_record: Literal["fail", "skip"] = "fail",
    limit: int | None = None,
    many: bool = False,
) -> TableSet:
    """Read tables.

    A table is readable when its cells are: overlapping cells, holes and missing rows are for the caller to judge.

    Args:
        split: of a data set of the hub.
        on_bad_record: `fail` raises with every problem; `skip` leaves unreadable tables out and counts them.
        limit: read only so many tables.
        many: for callers that need no list: the tables lie on disk.

    Raises:
        DataError: the source is not there or has no tables, or one cannot be read (under `fail`).
        MissingExtraError: XML, without the extra `tables`.
    """
    problems: list[RecordProblem] = []
    notes: Counter[str] = Counter()

    def usable() -> Iterator[Table]:
        for table in counted(_found(source, split, problems), f"Reading {Path(source).name}", "table"):
            if table.n_rows * table.n_columns > MOST_PLACES:
                found = f"{table.n_rows} rows and {table.n_columns} columns"
                problems.append(
                    RecordProblem(table.source, table.line, "cells", found, f"at most {MOST_PLACES} places")
                )
                continue
            notes.update(table.notes)
            yield table

    named = _with_own_ids(itertools.islice(usable(), limit))
    tables = Spool(named) if many else list(named)
    if problems and on_bad_record == "fail":
        raise DataError(
            f"{source}: {len(problems)} tables cannot be read.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip (they are counted and listed).",
        )
    if not tables:
        raise DataError(f"{source}: no table can be read.", problems, hint=f"Needed: {FORMATS}.")
    return TableSet(tables, str(source), problems, notes)


def _with_own_ids(tables: Iterable[Table]) -> Iterator[Table]:
    seen: Counter[str] = Counter()
    for table in tables:
        seen[table.id] += 1
        yield table if seen[table.id] == 1 else replace(table, id=f"{table.id}-{seen[table.id]}")


def _found(source: str | Path, split: str, problems: list[RecordProblem]) -> Iterator[Table]:
    path = Path(source)
    if path.is_dir() and (files := _files_of(path)):
        for file in files:
            yield from _of_file(file, str(file.relative_to(path).with_suffix("")), split, problems)
    else:
        yield from _of_file(path, path.stem, split, problems, str(source))


def _files_of(folder: Path) -> list[Path]:
    """Files of the first kind that a folder has; none, where it is a folder that rows are read from otherwise."""
    everything = sorted(one for one in folder.rglob("*") if one.is_file() and not one.name.startswith("."))
    for suffixes in _KINDS:
        found = [
            one for one in everything if one.name.endswith(suffixes) and not one.name.endswith("_words.json")
        ]
        if suffixes == (".xml",) and any(one.name.endswith("-str.xml") for one in found):
            found = [one for one in found if one.name.endswith("-str.xml")]
        if found and not any((one.parent / "dataset_info.json").exists() for one in found):
            return found
    return []


def _of_file(
    path: Path, name: str, split: str, problems: list[RecordProblem], source: str | None = None
) -> Iterator[Table]:
    """The tables of a file; what cannot be read is added to `problems`."""
    source = source or str(path)
    if path.suffix.lower() not in (".xml", ".html", ".htm", ".json"):
        yield from _of_rows(iter_rows(source, split), source, name, path.parent, problems)
        return
    if not path.is_file():
        raise DataError(f"{source}: there is no such file.", hint=f"Needed: {FORMATS}.")
    readers: dict[str, Callable[[Path, str], Iterator[Table | FieldError]]] = {
        ".xml": _of_xml,
        ".json": _of_json,
    }
    try:
        for found in readers.get(path.suffix.lower(), _of_html)(path, name):
            if isinstance(found, FieldError):
                problems.append(
                    RecordProblem(source, None, found.field or "file", found.problem, found.expected)
                )
            else:
                found.source = source
                yield found
    except FieldError as error:
        problems.append(RecordProblem(source, None, error.field or "file", error.problem, error.expected))


def _of_xml(path: Path, name: str) -> Iterator[Table | FieldError]:
    root = parse_xml(path)
    if root.tag == "annotation":
        yield voc_table(root, path)
        return
    if root.tag != "document":
        raise FieldError(
            f"the root <{root.tag}>", "<annotation> (PASCAL VOC) or <document> (ICDAR-2013)", "file"
        )
    for table, error in icdar_tables(root, name.removesuffix("-str")):
        if table is not None:
            yield table
        elif error is not None:
            yield error


def _of_html(path: Path, name: str) -> Iterator[Table | FieldError]:
    try:
        found = cells_of_html(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeError) as error:
        raise FieldError(f"cannot be read ({error})", "HTML in UTF-8", "file") from error
    if not found:
        raise FieldError("no <table>", "HTML with a table", "file")
    for place, cells in enumerate(found):
        yield Table(name if len(found) == 1 else f"{name}-{place}", cells)


def _of_json(path: Path, name: str) -> Iterator[Table | FieldError]:
    """A list of rows, one row, or a mapping of names to rows or to HTML."""
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FieldError(f"cannot be read ({error})", "JSON", "file") from error
    rows: Iterable[tuple[str, Any]]
    if isinstance(value, list):
        rows = [(f"{name}-{place}" if len(value) > 1 else name, one) for place, one in enumerate(value)]
    elif isinstance(value, Mapping) and ("cells" in value or "html" in value):
        rows = [(name, value)]
    elif isinstance(value, Mapping):
        rows = [
            (str(key), {"html": one, "id": key} if isinstance(one, str) else one)
            for key, one in value.items()
        ]
    else:
        raise FieldError(f"a {type(value).__name__}", "a list or a mapping of tables", "file")
    for key, row in rows:
        try:
            if not isinstance(row, Mapping):
                raise FieldError(
                    f"a {type(row).__name__} for {key!r}", "a mapping with `cells` or `html`", "row"
                )
            yield from tables_of_row(row, key, path.parent)
        except FieldError as error:
            yield FieldError(error.problem, error.expected, f"{key}: {error.field}")


def _of_rows(
    rows: Iterable[Any], source: str, name: str, folder: Path, problems: list[RecordProblem]
) -> Iterator[Table]:
    for row in rows:
        place = row.source(source)
        if row.value is None:
            problems += [row.problem] if row.problem else []
            continue
        try:
            for table in tables_of_row(row.value, f"{name}-{row.line or row.index}", folder):
                table.source, table.line = place.file, place.line
                yield table
        except FieldError as error:
            problems.append(place.problem(error.field or "row", error.problem, error.expected))
