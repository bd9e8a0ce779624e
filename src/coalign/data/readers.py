"""`read_records`: any supported source as typed records, with every bad one named."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import write_rows
from coalign.core.progress import counted
from coalign.data.checking.usable import template_marks, written_with_template
from coalign.data.columns import Layout, recognise
from coalign.data.parse import parse_row
from coalign.data.prepared.many import OnDisk, gathered
from coalign.data.prepared.together import Findings, Parse, Together
from coalign.data.records import Kind, Record, Source, fields_of, responses_of, steps_of
from coalign.data.rows import Row, iter_rows, list_columns
from coalign.data.writers import to_row

OnBadRecord = Literal["fail", "skip"]

_LOOK_AHEAD = 100
"""Rows from which the kind is recognised."""


@dataclass(frozen=True)
class RecordSet:
    """What was read.

    Attributes:
        records: the usable ones, in order.
        kind: their kind.
        recognised: one sentence: what, and from which columns.
        problems: everything wrong with the others (several may belong to one record).
        uses: every column, and what is done with it.
        warnings: what may have been meant otherwise, one sentence each.
        source: the file, folder or hub id.
        rejects: where the others were written, when they were.
        bad: the others as rows of a reject file.
    """

    records: Sequence[Record]
    kind: Kind
    recognised: str
    source: str
    problems: list[RecordProblem] = field(default_factory=list)
    rejects: Path | None = None
    uses: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    bad: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_bad(self) -> int:
        """Records that could not be used."""
        return len(self.bad)

    def __len__(self) -> int:
        return len(self.records)


def read_records(
    source: str | Path,
    *,
    kind: Kind | None = None,
    split: str = "train",
    on_bad_record: OnBadRecord = "fail",
    rejects: Path | None = None,
    limit: int | None = None,
    text_alone: bool = True,
    pictures: bool = False,
    columns: Mapping[str, str] | None = None,
    tag: str = "",
    many: bool = False,
    together: Together | None = None,
) -> RecordSet:
    """Read records.

    Args:
        source: a JSON Lines, JSON, CSV or Parquet file (the first three also as .gz or .zst), a folder or a glob of
            such files (`coalign.data.files.shards`), a folder written by `datasets`, a run folder whose run made
            records, WebDataset shards (a `.tar`, a folder, a glob or a range `{00..11}` of them), a hub id (`owner/name` or `owner/name:configuration`), or `-` for JSON Lines on standard input.
        kind: what is wanted, when the columns allow more than one; `prompt` takes the prompts of any kind.
        split: of a data set of the hub or on disk.
        on_bad_record: `fail` raises with every problem; `skip` leaves bad records out and counts them.
        rejects: with `skip`, a JSON Lines file for the bad records and their problems; not written when there are none.
        limit: read only the first rows.
        columns: names that records have to columns of the source that are taken as if they bore them.
        tag: of the source in a mix; its records, ids and rejects carry it.
        text_alone: refuse records with tools, or with replies that have more than text (tool calls, reasoning): for
            callers that pass on texts and messages. What is encoded whole (`coalign.data.encoding`) takes them.
        pictures: with `text_alone`, take records with pictures all the same.
        many: for callers that need no list: beyond a few thousand, records of text are kept on disk
            (`coalign.data.prepared.many`).
        together: with `many`, reads large files with others.

    Raises:
        DataError: the source cannot be read or recognised, a record is bad (under `fail`), or none is usable.
    """
    result = scan_records(
        source,
        kind=kind,
        split=split,
        rejects=rejects if on_bad_record == "skip" else None,
        limit=limit,
        text_alone=text_alone,
        pictures=pictures,
        columns=columns,
        tag=tag,
        many=many,
        together=together,
    )
    if result.problems and on_bad_record == "fail":
        total = len(result.records) + result.n_bad
        raise DataError(
            f"{result.source}: {result.n_bad} of {total} records cannot be used ({result.kind}).",
            result.problems,
            hint="Correct them, or leave them out with --on-bad-record skip (they are counted and can be written to a file).",
        )
    if not result.records:
        raise DataError(f"{result.source}: no record can be used.", result.problems)
    return result


def scan_records(
    source: str | Path,
    *,
    kind: Kind | None = None,
    split: str = "train",
    rejects: Path | None = None,
    limit: int | None = None,
    text_alone: bool = False,
    pictures: bool = False,
    columns: Mapping[str, str] | None = None,
    tag: str = "",
    many: bool = False,
    together: Together | None = None,
) -> RecordSet:
    """As `read_records`, but bad records never raise: they are in `problems`.

    Raises:
        DataError: the source cannot be read or recognised.
    """
    name = _named(source)
    rows, layout = _begun(source, kind, split, limit, columns or {})
    found = Findings()
    records = together.records(found) if together is not None and limit is None else None
    if records is None:
        shown = counted(rows, f"Reading {Path(name).name}")
        usable = _parsing(layout, name, tag, text_alone, pictures)(shown, found)
        records = gathered(usable) if many else list(usable)
    written = rejects if found.bad else None
    if written is not None:
        write_rows(written, found.bad)
    return RecordSet(
        records,
        layout.kind,
        layout.recognised,
        name,
        found.problems,
        written,
        layout.uses_in_file,
        (*layout.warnings, *written_with_template(found.marks)),
        found.bad,
    )


def parse_of(
    source: str | Path,
    *,
    kind: Kind | None,
    split: str,
    text_alone: bool,
    columns: Mapping[str, str] | None,
    tag: str,
) -> Parse:
    """What makes records of the rows of a source, which `read_records` would read with these arguments.

    Raises:
        DataError: the source cannot be read or recognised.
    """
    _, layout = _begun(source, kind, split, None, columns or {})
    return _parsing(layout, str(source), tag, text_alone, pictures=False)


def _begun(
    source: str | Path, kind: Kind | None, split: str, limit: int | None, columns: Mapping[str, str]
) -> tuple[Iterator[Row], Layout]:
    """The rows of a source, and which column plays which part in them."""
    name = _named(source)
    rows = itertools.islice(iter_rows(source, split, list_columns(columns)), limit)
    first = list(itertools.islice(rows, _LOOK_AHEAD))
    values = [row.value for row in first if row.value is not None]
    if not values:
        problems = [row.problem for row in first if row.problem is not None]
        raise DataError(f"{name}: none of the first {len(first)} rows can be read.", problems)
    return itertools.chain(first, rows), recognise(values, name, kind, columns)


def _parsing(layout: Layout, name: str, tag: str, text_alone: bool, pictures: bool) -> Parse:
    """What makes records of rows of the source `name`; see `read_records`."""

    def parse(rows: Iterable[Row], found: Findings) -> Iterator[Record]:
        for row in rows:
            place = row.source(name, tag)
            parsed = [row.problem] if row.problem else parse_row(row.value or {}, layout, place)
            if isinstance(parsed, Record) and text_alone and (beyond := _beyond_text(parsed, pictures)):
                parsed = [beyond]
            if isinstance(parsed, Record):
                found.marks.update(template_marks(parsed))
                yield parsed
            else:
                found.problems.extend(parsed)
                found.bad.append(rejected(place, row.raw if row.value is None else row.value, parsed))

    return parse


def _named(source: str | Path) -> str:
    return "<stdin>" if str(source) == "-" else str(source)


def _beyond_text(record: Record, pictures: bool) -> RecordProblem | None:
    """What a record has that text and messages, and pictures where they are taken, do not hold."""
    if record.pictures and not pictures:
        return record.problem("images", "pictures cannot be used here", "text and messages alone")
    replies = responses_of(record)
    beyond = [*record.template_arguments, *(key for one in replies for key in fields_of(one))]
    beyond += ["tool_calls" for one in replies if steps_of(one)]
    return record.problem(beyond[0], "cannot be used here", "text and messages alone") if beyond else None


def without_rejected(
    records: Sequence[Record], problems: Sequence[RecordProblem]
) -> tuple[Sequence[Record], list[dict[str, Any]]]:
    """The records without a problem, and the others as rows of the reject file."""
    named = {(one.source, one.line, one.index): one for one in problems}
    rows: list[dict[str, Any]] = []

    def kept() -> Iterator[Record]:
        for one in records:
            place = one.source
            problem = named.get((place.file, place.line, place.index - place.before))
            if problem is None:
                yield one
            else:
                row = to_row(one, "standard" if one.plain else "conversational")
                rows.append(rejected(place, row, [problem]))

    return gathered(kept()) if isinstance(records, OnDisk) else list(kept()), rows


def rejected(place: Source, row: Any, problems: Iterable[RecordProblem]) -> dict[str, Any]:
    """What the reject file holds of a bad row: where it was, the row as it was, and why."""
    return {
        "file": place.file,
        **({"tag": place.tag} if place.tag else {}),
        "line": place.line,
        "index": place.index - place.before,
        "row": row,
        "problems": [
            {"field": one.field, "problem": one.problem, "expected": one.expected} for one in problems
        ],
    }
