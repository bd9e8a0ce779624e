"""Large files of records in stretches, which several processes can read, each row with the place that it has in the whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coalign.core.errors import DataError
from coalign.data.files.columnar import parquet_values
from coalign.data.files.lines import is_compressed, lines_between, text_lines
from coalign.data.files.shards import suffix_of
from coalign.data.rows import FORMATS, Row, files_of, in_shard, json_rows

STRETCH = 8 << 20
"""Bytes of text or of row groups from which on a stretch ends: some thousand records."""
_LINES = (".jsonl", ".ndjson")
_EMPTY = re.compile(rb"\n[ \t\r\x0b\x0c]*(?=\n|\Z)")
"""A line without a row, behind the end of the line before it."""


@dataclass(frozen=True)
class Stretch:
    """Some rows of a file that follow each other.

    Attributes:
        path: the file; messages call it `name`.
        start, end: bytes of plain text, cut where lines end, or row groups of Parquet. A compressed file is one stretch, with 0
            and 0.
        rows: how many.
        line: of the text at which they start.
        index: rows of the file before them.
        shard: whether the source is several files, of which those before this one have `before` rows.
    """

    path: str
    name: str
    start: int
    end: int
    rows: int
    line: int
    index: int
    shard: bool
    before: int

    def __len__(self) -> int:
        return self.rows


def stretches_of(source: str, split: str) -> list[Stretch]:
    """The stretches of a source, found by counting lines; none where its format cannot be cut (a JSON list, CSV, the hub) or
    it is one compressed file, which can only be read from its start.

    Raises:
        DataError, OSError: it cannot be read; who reads it as a whole tells what is wrong.
    """
    files = files_of(source, split)
    if any(suffix_of(one) not in (*_LINES, ".parquet") for one in files):
        return []
    if len(files) == 1 and suffix_of(files[0]) in _LINES and is_compressed(files[0]):
        return []
    whole = Path(source).expanduser()
    shard = not whole.is_file() and not (whole / "status.json").is_file()
    found: list[Stretch] = []
    before = 0
    for path in files:
        name = source if path == whole else str(path)
        index = 0
        for start, end, line, rows in _cut(path, name):
            if rows:
                found.append(Stretch(str(path), name, start, end, rows, line, index, shard, before))
            index += rows
        before += index
    return found


def rows_of(stretch: Stretch) -> Iterator[Row]:
    """The rows of a stretch, as `coalign.data.rows.iter_rows` gives them in the whole source.

    Raises:
        DataError: as of that; there are not as many as were counted.
    """
    path, name, count = Path(stretch.path), stretch.name, 0
    if suffix_of(path) == ".parquet":
        groups = range(stretch.start, stretch.end)
        values = parquet_values(path, name, groups, stretch.index)
        rows = (
            Row(value, None, index, problem) for index, (value, problem) in enumerate(values, stretch.index)
        )
    elif stretch.end:
        lines = lines_between(path, name, FORMATS, stretch.start, stretch.end)
        rows = json_rows(lines, name, stretch.line, stretch.index)
    else:
        rows = json_rows(text_lines(path, name, FORMATS), name)
    for row in rows:
        yield in_shard(row, stretch.path, stretch.before) if stretch.shard else row
        count += 1
    if count != len(stretch):
        raise DataError(f"{name}: {count} rows where {len(stretch)} were counted.")


def _cut(path: Path, name: str) -> Iterator[tuple[int, int, int, int]]:
    """Of each stretch of a file: start, end, first line, rows."""
    if suffix_of(path) == ".parquet":
        yield from _groups(path)
    elif is_compressed(path):
        yield 0, 0, 1, sum(bool(one.strip()) for one in text_lines(path, name, FORMATS))
    else:
        with path.open("rb") as file:
            start, line = 0, 1
            while data := file.read(STRETCH):
                data += b"" if data.endswith(b"\n") else file.readline()
                whole = b"\n" + data.removesuffix(b"\n")
                lines = whole.count(b"\n")
                yield start, start + len(data), line, lines - len(_EMPTY.findall(whole))
                start, line = start + len(data), line + lines


def _groups(path: Path) -> Iterator[tuple[int, int, int, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        told = pq.read_metadata(path)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from error
    first = size = rows = 0
    for place in range(told.num_row_groups):
        group = told.row_group(place)
        size, rows = size + group.total_byte_size, rows + group.num_rows
        if size >= STRETCH or place == told.num_row_groups - 1:
            yield first, place + 1, 1, rows
            first, size, rows = place + 1, 0, 0
