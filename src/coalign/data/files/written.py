"""Rows as files that others read: JSON Lines, Parquet or WebDataset tars, in one file or in shards of so many rows."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coalign.core.engines.spool import Spool
from coalign.core.errors import DataError, in_one_line
from coalign.core.files import atomic_path, json_bytes, write_rows
from coalign.core.progress import counted

Row = dict[str, Any]
GROUP = 4096
"""Rows of a row group of Parquet."""


def write_shards(out: Path, rows: Iterable[Row], count: int, per_file: int | None = None) -> list[Path]:
    """Write rows to `out`, or to shards `NAME-00000-of-00012.SUFFIX` of `per_file` rows each. Every file is whole or absent, and
    a few thousand rows are in memory at most. Shards of another number that lay there are removed.

    Args:
        out: `.parquet` and `.tar` say the format; everything else is JSON Lines.
        count: of rows.

    Returns:
        The files in order.

    Raises:
        DataError: a column of a Parquet file with values of different types.
        CoalignError: the disk is full; shards before stay.
    """
    rows = counted(rows, "Writing", total=count)
    if per_file is None:
        _write(out, rows, 0)
        return [out]
    total, rest, written = max(1, -(-count // per_file)), iter(rows), list[Path]()
    for number in range(total):
        path = out.with_name(f"{out.stem}-{number:05d}-of-{total:05d}{out.suffix}")
        _write(path, itertools.islice(rest, per_file), number * per_file)
        written.append(path)
    for old in {*shards_of(out)} - {*written}:
        old.unlink()
    return written


def shards_of(out: Path) -> list[Path]:
    """The shards of `write_shards` that are there, whatever their number."""
    digits = "[0-9]" * 5
    return sorted(out.parent.glob(f"{out.stem}-{digits}-of-{digits}{out.suffix}"))


def are_all(shards: Sequence[Path]) -> bool:
    """Whether shards are as many as their names say; also where there is none."""
    return not shards or len(shards) == int(shards[0].stem[-5:])


def write_parquet(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as Parquet, atomically; a column that a row has not is null there. So many rows are in memory as a row group
    has (`GROUP`): the types of the columns are found in a first pass, which lays the rows on disk.

    Raises:
        DataError: a column holds values of different types, or some that Parquet has no type for.
        CoalignError: the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: list[pa.Schema] = []
    names: dict[str, None] = {}

    def noted(group: list[Row]) -> list[Row]:
        names.update(dict.fromkeys(name for row in group for name in row))
        found = pa.table({name: [row.get(name) for row in group] for name in names}).schema
        types[:] = [pa.unify_schemas([*types, found], promote_options="permissive")]
        return group

    try:
        groups = Spool(map(noted, _groups(rows)))
        kind = types[0] if types else pa.schema([])
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, kind) as file:
            for group in groups:
                file.write_table(pa.Table.from_pylist(group, schema=kind))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise DataError(
            f"{path}: a column holds values of different types, or such as Parquet has no type for ({in_one_line(error)}).",
            hint="Write .jsonl instead.",
        ) from error


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    return iter(lambda: list(itertools.islice(rest, GROUP)), [])


def write_tar(path: Path, rows: Iterable[Row], first: int = 0) -> None:
    """Write rows as a WebDataset tar, atomically: a member `000000012.json` each, numbered from `first`."""
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as tar:
        for place, row in enumerate(rows, start=first):
            data = json_bytes(row)
            member = tarfile.TarInfo(f"{place:09d}.json")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            tar.members.clear()  # type: ignore[attr-defined]  # all that were written, kept for a reader


def _write(path: Path, rows: Iterable[Row], first: int) -> None:
    if path.suffix == ".parquet":
        write_parquet(path, rows)
    elif path.suffix == ".tar":
        write_tar(path, rows, first)
    else:
        write_rows(path, rows)
