"""One source of records, read, checked and converted to what is learnt from; of large files kept for the next start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from coalign.core.cache import hold_limit, use
from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.data.checking.usable import assert_contrast, equal_responses, undecodable
from coalign.data.convert import CONVERSIONS, converted
from coalign.data.files.hub import TAKEN
from coalign.data.files.remote import is_remote
from coalign.data.media.tars import is_tar
from coalign.data.prepared.kept import contents, in_turn, kept_folder, key_of, read_plain, write_plain
from coalign.data.prepared.many import OnDisk, RecordStore
from coalign.data.prepared.together import Together
from coalign.data.readers import OnBadRecord, RecordSet, parse_of, read_records, without_rejected
from coalign.data.records import Kind, Record
from coalign.data.rows import files_of
from coalign.data.sources import ColumnNames, DataSource, canonical_columns
from coalign.data.splits import drawn

TOLD = "told.bin"
"""Beside kept records: what was told of them."""


class Reading(Protocol):
    """How records are read, where a source says nothing else (`coalign.training.material.ReadingOptions`)."""

    @property
    def split(self) -> str: ...
    @property
    def kind(self) -> Kind | None: ...
    @property
    def column(self) -> ColumnNames | None: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def on_bad_record(self) -> OnBadRecord: ...


@dataclass(frozen=True)
class Part:
    """What one source gives, and its figures.

    Attributes:
        records: that can be learnt from, at most as many as its cap.
        kind: of them.
        bad: rows of the reject file.
        read, rejected: rows of the file.
        usable: records before the cap.
    """

    source: DataSource
    records: Sequence[Record]
    kind: Kind
    bad: list[dict[str, Any]]
    read: int
    rejected: int
    usable: int


def read_part(
    reading: Reading,
    source: DataSource,
    kind: Kind,
    also: Collection[Kind],
    notes: list[str],
    seed: int,
    text_alone: bool,
) -> Part:
    """The records of one source that can be learnt from; what happened is added to `notes`.

    Records that are many lie on disk (`coalign.data.prepared.many`); those of files are kept in the cache under the files'
    content and all that their reading depends on.

    Args:
        kind: to convert to; `also` are taken as they are.
        seed: of what is drawn under a cap.
        text_alone: as of `coalign.data.readers.read_records`.

    Raises:
        DataError: as of `coalign.training.material.read_material`.
    """
    found: list[Path] = []
    if is_tar(source.path) or _is_there(source.path):
        found = files_of(source.path, source.split or reading.split)
    content = contents(found)
    folder = None
    if content:
        columns = sorted((source.columns or canonical_columns(reading.column) or {}).items())
        asked = asdict(replace(source, weight=1.0, max=None, columns={}))
        how = [
            reading.kind,
            reading.split,
            reading.on_bad_record,
            reading.limit,
            text_alone,
            kind,
            sorted(also),
        ]
        folder = kept_folder("records", key_of("part", content, asked, columns, how))
    if folder is None:
        return _capped(_read(reading, source, kind, also, notes, text_alone), seed)
    use(folder)
    parse = partial(parse_of, source.path, **_how(reading, source, text_alone))
    shared = folder.with_name(f".{folder.name}.reading.tmp")
    together = Together(shared, folder / TOLD, source.path, source.split or reading.split, parse)
    with in_turn(folder / TOLD, together.work) as first:
        told = None if first else read_plain(folder / TOLD)
        if told is not None:
            notes += told["notes"]
            return _capped(Part(source, RecordStore(folder), **told["part"]), seed)
        if not first:  # damaged
            shutil.rmtree(folder, ignore_errors=True)
        own: list[str] = []
        part = _read(reading, source, kind, also, own, text_alone, together)
        notes += own
        if contents(found) != content:
            raise DataError(
                f"{source.path}: changed while it was read.",
                hint="Start again once nothing writes to it any more.",
            )
        if isinstance(part.records, RecordStore):
            figures = {name: getattr(part, name) for name in ("kind", "bad", "read", "rejected", "usable")}
            if write_plain(part.records.folder / TOLD, {"notes": own, "part": figures}):
                part = replace(part, records=part.records.keep(folder))
                hold_limit()
        return _capped(part, seed)


def assert_apart(sources: Sequence[DataSource], split: str) -> None:
    """Refuse a file that belongs to two sources, whose records would count twice without a word.

    Args:
        split: of sources that name none.

    Raises:
        DataError: one does.
    """
    owners: dict[Path, DataSource] = {}
    for source in sources if len(sources) > 1 else ():
        for path in files_of(source.path, source.split or split):
            other = owners.setdefault(path.resolve(), source)
            if other is not source:
                raise DataError(
                    f"{path}: belongs to two sources, {other.path} and {source.path}.",
                    hint="Name it once; a weight gives its records more often.",
                )


def _is_there(path: str) -> bool:
    """Whether a source is a path; what is wrong with it is told when it is read."""
    try:
        return is_remote(path) or (
            path != "-" and (os.path.exists(os.path.expanduser(path)) or any(one in path for one in "*?["))
        )
    except (OSError, ValueError):
        return False


def _capped(part: Part, seed: int) -> Part:
    source = part.source
    return replace(part, records=drawn(part.records, source.max, f"{seed}/max/{source.tag}"))


def _read(
    reading: Reading,
    source: DataSource,
    kind: Kind,
    also: Collection[Kind],
    notes: list[str],
    text_alone: bool,
    together: Together | None = None,
) -> Part:
    """See `read_part`; all records, whatever the source's cap."""
    found = read_records(
        source.path,
        on_bad_record=reading.on_bad_record,
        limit=reading.limit,
        many=True,
        together=together,
        **_how(reading, source, text_alone),
    )
    of = f"{source.tag}: " if source.tag else ""
    copy = (
        f", the copy of {TAKEN[source.path]} in the cache: the hub cannot be reached"
        if source.path in TAKEN
        else ""
    )
    notes.append(f"{source.path}: {found.recognised}{copy}")
    if found.problems:
        notes.append(f"{of}{found.n_bad} bad records were skipped; the first: {found.problems[0]}")
    notes += [f"warning: {of}{one}" for one in found.warnings]
    kept: Kind = found.kind if found.kind in also else kind
    distinct, equal = _decodable(found, reading, of, notes)
    if kept not in ("demonstration", "prompt"):
        distinct, more = _distinct(distinct, reading, of, notes)
        equal = [*equal, *more]
    if (found.kind, kept) == ("feedback", "ranking"):
        assert_contrast(distinct, "feedback", source.path)
    records = converted(replace(found, records=distinct), kept)
    told = []
    if found.kind != kept:
        how = CONVERSIONS.get((found.kind, kept), "the prompts alone")
        told.append(
            f"{of}{len(distinct)} {found.kind} records were read as {len(records)} {kept} records: {how}"
        )
    if not records:
        why = "".join(f" {note}." for note in told)
        raise DataError(
            f"{source.path}: no record is left to learn from.{why}",
            hint="`coalign data check` shows what is there.",
        )
    notes += told
    bad = [*found.bad, *equal]
    return Part(source, records, kept, bad, len(found) + found.n_bad, len(bad), len(records))


def _how(reading: Reading, source: DataSource, text_alone: bool) -> dict[str, Any]:
    """Arguments of reading that say what rows are."""
    return {
        "kind": source.kind or reading.kind,
        "split": source.split or reading.split,
        "text_alone": text_alone,
        "columns": source.columns or canonical_columns(reading.column),
        "tag": source.tag,
    }


def _decodable(
    found: RecordSet, reading: Reading, of: str, notes: list[str]
) -> tuple[Sequence[Record], list[dict[str, Any]]]:
    """The records whose pictures can be decoded, and the others as rows of the reject file, where bad records are skipped;
    else all: encoding decodes them, and names those that stop the run.
    """
    on_disk = isinstance(found.records, OnDisk)  # without pictures
    if reading.on_bad_record == "fail" or on_disk or not any(one.pictures for one in found.records):
        return found.records, []
    return _parted(
        found.records,
        undecodable(found.records),
        f"{of}{{}} records with pictures that cannot be decoded",
        notes,
    )


def _distinct(
    records: Sequence[Record], reading: Reading, of: str, notes: list[str]
) -> tuple[Sequence[Record], list[dict[str, Any]]]:
    """The records that do not set a response against itself, and the others as rows of the reject file; these stop the
    run, or are skipped and noted.
    """
    problems = equal_responses(records)
    if problems and reading.on_bad_record == "fail":
        raise DataError(
            f"{len(problems)} of {len(records)} records set a response against itself.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip.",
        )
    return _parted(records, problems, f"{of}{{}} records that set a response against itself", notes)


def _parted(
    records: Sequence[Record], problems: Sequence[RecordProblem], what: str, notes: list[str]
) -> tuple[Sequence[Record], list[dict[str, Any]]]:
    """The records without a problem, and the others as rows of the reject file.

    Args:
        what: they are called in the note, with a place for their number.
    """
    if not problems:
        return records, []
    notes.append(f"{what.format(rows_with(problems))} were skipped; the first: {problems[0]}")
    return without_rejected(records, problems)
