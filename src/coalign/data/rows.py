"""Rows of any file: JSON Lines, JSON, CSV, Parquet, WebDataset tars, a data set of the hub or on disk. No meaning, only values."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import parse_json
from coalign.core.names import near_path
from coalign.core.runs import Run
from coalign.data.files.columnar import NoRowsError, Values, hub_values, parquet_values, saved_values
from coalign.data.files.lines import text_lines, whole_text
from coalign.data.files.remote import fetched, is_remote
from coalign.data.files.row import Row
from coalign.data.files.shards import is_glob, shards_of_folder, shards_of_glob, suffix_of
from coalign.data.media.tars import is_tar, tar_records, tars_of
from coalign.data.messages import FieldError, describe, half_pair

FORMATS = (
    ".jsonl, .ndjson, .json, .csv, .parquet (text files also with .gz or .zst), a folder or a glob of such files, .tar, .txt "
    "with a prompt a line, a folder that datasets saved, a run folder, a hub id, a URL (hf://, s3://) of such files, or -"
)
_TEXT = re.compile(r"\.txt(\.(gz|zst))?$", re.IGNORECASE)
"""A file of prompts, where it is named itself: in a folder such files say something of the others."""
_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Files of a folder that datasets saved."""
_LONGEST_NAME = 255
"""Of a file, on every usual file system."""
_HUB_ID = re.compile(r"^[\w][\w.-]*/[\w.-]+(:[\w.-]+)?$")
_LIST_COLUMNS = frozenset(
    ("messages", "conversations", "responses", "completions", "scores", "rewards", "ratings", "ranks")
)
_SPACE = re.compile(r"\s*")

T = TypeVar("T")


def iter_rows(
    source: str | Path, split: str = "train", lists: Collection[str] = _LIST_COLUMNS
) -> Iterator[Row]:
    """The rows of `source` (see `coalign.data.readers.read_records`); of shards one file after the other.

    Args:
        lists: columns of CSV files whose cells hold lists as JSON.

    Raises:
        DataError: absent, empty, of unknown format, damaged, or binary.
    """
    name = str(source)
    if name == "-":
        return _json_lines((line.rstrip(b"\n") for line in sys.stdin.buffer), "<stdin>")
    if is_remote(name) and not is_tar(name):
        return _shard_rows(fetched(name), name, lists)
    path = Path(name).expanduser()
    if max(map(len, path.parts), default=0) > _LONGEST_NAME:
        raise DataError(f"{name[:80]}...: no such file: the name is too long.", hint=f"Readable: {FORMATS}.")
    if (path / "status.json").is_file():
        made = _made_by(path)
        return _file_rows(made, str(made), lists)
    if path.is_dir() and any((path / one).exists() for one in _SAVED):
        return _rows_of(saved_values(path, split))
    if is_tar(name):
        return tar_records(files_of(source))
    if path.is_dir() or (is_glob(name) and not path.exists()):
        return _shard_rows(files_of(source, split), name, lists)
    if path.is_file():
        return _file_rows(path, name, lists)
    if _HUB_ID.match(name) and not suffix_of(path):
        return _rows_of(hub_values(name, split))
    raise DataError(f"{name}: no such file.", hint=near_path(name) or f"Readable: {FORMATS}.")


def files_of(source: str | Path, split: str = "train") -> list[Path]:
    """The files of records that a source stands for: itself, what a run made, the shards of a folder or of a glob; none
    for what is no file (the hub, standard input) or is read as a whole (what datasets saved).

    Raises:
        DataError: see `coalign.data.files.shards`; a folder without any.
    """
    name = str(source)
    path = Path(name).expanduser()
    if is_remote(name):
        return list(fetched(name))
    if (path / "status.json").is_file():
        return [_made_by(path)]
    if is_tar(name):
        return tars_of(name)
    if path.is_dir() and not any((path / one).exists() for one in _SAVED):
        found = shards_of_folder(path, split)
        if not found:
            what = "a folder without files that can be read, and not one that datasets saved"
            raise DataError(f"{name}: {what}.", hint=f"Readable: {FORMATS}.")
        return found
    if name != "-" and is_glob(name) and not path.exists():
        return shards_of_glob(name)
    return [path] if path.is_file() else []


def list_columns(mapping: Mapping[str, str]) -> frozenset[str]:
    """Columns whose cells in a CSV file hold lists, where names are mapped to columns."""
    return _LIST_COLUMNS | {column for name, column in mapping.items() if name in _LIST_COLUMNS}


def _shard_rows(files: Iterable[Path], name: str, lists: Collection[str]) -> Iterator[Row]:
    """The rows of one file after the other, which is open alone; files without rows are passed over."""
    before = seen = 0
    for path in files:
        seen, count = seen + 1, 0
        with contextlib.suppress(NoRowsError):
            for row in _file_rows(path, str(path), lists):
                yield in_shard(row, str(path), before)
                count += 1
        before += count
    if not before:
        raise NoRowsError(f"{name}: none of its {seen} files has a row.")


def in_shard(row: Row, file: str, before: int) -> Row:
    """A row of one file of several, before which others have so many rows."""
    return replace(row, index=before + row.index, file=file, before=before)


def _rows_of(values: Iterable[Values]) -> Iterator[Row]:
    """Rows of a source that has no lines."""
    for index, (value, problem) in enumerate(values):
        yield Row(value, None, index, problem)


def parse_each(
    rows: Iterable[Row], source: str | Path, parse: Callable[[Row], T], problems: list[RecordProblem]
) -> Iterator[T]:
    """What `parse` makes of every row that was read; what is wrong with the others is added to `problems`.

    Args:
        parse: raises a `FieldError`, or an `ExceptionGroup` of them, for a row that cannot be used.
        source: as messages name it.
    """
    for row in rows:
        if row.value is None:
            problems += [row.problem] if row.problem else []
            continue
        try:
            made = parse(row)
        except (FieldError, ExceptionGroup) as error:
            for one in error.exceptions if isinstance(error, ExceptionGroup) else (error,):
                assert isinstance(one, FieldError)
                problems.append(row.source(source).problem(one.field or "row", one.problem, one.expected))
        else:
            yield made


def assert_unique(ids: Iterable[str], source: str) -> None:
    """Refuse rows that share an id; of ids that lie on disk (a sequence) eight bytes each are held.

    Raises:
        DataError: an id appears twice; the first such one is named.
    """
    import numpy as np

    names = ids if isinstance(ids, Sequence) else list(ids)
    hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(names)))
    suspect = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: set[str] = set()
    for one in names if suspect else ():
        if one in seen:
            raise DataError(
                f"{source}: the id {one!r} appears twice.", hint="Give every row its own id, or none."
            )
        if hash(one) in suspect:
            seen.add(one)


def _made_by(folder: Path) -> Path:
    """The records that a run made.

    Raises:
        DataError: it made none.
    """
    made = Run.open(folder).records
    if made is None or not made.is_file():
        raise DataError(
            f"{folder}: a run that made no records.",
            hint="Let it end, or name a file of it: `artefacts/` holds what its stages made.",
        )
    return made


def _file_rows(path: Path, name: str, lists: Collection[str]) -> Iterator[Row]:
    suffix = suffix_of(path)
    if _TEXT.search(path.name):
        return _prompt_lines(text_lines(path, name, FORMATS), name)
    if not suffix:
        raise DataError(f"{name}: unknown format.", hint=f"Readable: {FORMATS}.")
    if suffix == ".parquet":
        return _rows_of(parquet_values(path, name))
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(text_lines(path, name, FORMATS), name)
    data = whole_text(path, name, FORMATS)
    if suffix == ".csv":
        return _csv_rows(_decode(data, name), name, lists)
    if suffix == ".json" and not _is_json_lines(data):
        return _json_rows(_decode(data, name), name)
    return _json_lines(data.split(b"\n"), name)


def _prompt_lines(lines: Iterable[bytes], name: str) -> Iterator[Row]:
    """A prompt a line of plain text; empty lines are passed over."""
    index = 0
    for number, line in enumerate(lines, start=1):
        text = _decode(line, name, number).strip()
        if text:
            yield Row({"prompt": text}, number, index)
            index += 1
    if index == 0:
        raise NoRowsError(f"{name}: the file is empty.", hint="One prompt a line is needed.")


def _decode(data: bytes, name: str, first: int = 1) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + first
        column = error.start - data.rfind(b"\n", 0, error.start)
        problem = RecordProblem(
            name, line, f"column {column}", f"byte 0x{data[error.start]:02x}", "UTF-8 text"
        )
        raise DataError(f"{name}: not UTF-8.", [problem]) from error


def _is_json_lines(data: bytes) -> bool:
    """Whether a `.json` file in truth holds one object a line: its first line is one, and more follows."""
    first, _, rest = data.lstrip().partition(b"\n")
    if not first.startswith(b"{") or not rest.strip():
        return False
    try:
        parse_json(first, any_text=True)
    except ValueError:
        return False
    return True


def _json_lines(lines: Iterable[bytes], name: str) -> Iterator[Row]:
    found = False
    for row in json_rows(lines, name):
        found = True
        yield row
    if not found:
        what = "input" if name == "<stdin>" else "file"
        raise NoRowsError(f"{name}: the {what} is empty.", hint="One JSON object a line is needed.")


def json_rows(lines: Iterable[bytes], name: str, line: int = 1, index: int = 0) -> Iterator[Row]:
    """A row of every line that is not empty; `line` and `index` are those of the first."""
    for number, one in enumerate(lines, start=line):
        if one.strip():
            yield _json_line(one, name, number, index)
            index += 1


def _json_line(line: bytes, name: str, number: int, index: int) -> Row:
    def bad(field: str, problem: str, expected: str) -> Row:
        text = line.decode("utf-8", errors="replace")
        return Row(None, number, index, RecordProblem(name, number, field, problem, expected, index), text)

    try:
        value = parse_json(line.decode("utf-8"), any_text=True)
    except UnicodeDecodeError as error:
        return bad(f"column {error.start + 1}", f"byte 0x{line[error.start]:02x}", "UTF-8 text")
    except json.JSONDecodeError as error:
        return bad(f"column {error.colno}", f"not JSON ({error.msg})", "one JSON object a line")
    except ValueError as error:  # a number of thousands of digits, or too many levels
        return bad("column 1", _unreadable(error), "one JSON object a line")
    if not isinstance(value, dict):
        return bad("row", describe(value), "a JSON object")
    halved = half_pair(value) if b"\\ud" in line.lower() else None
    return Row(value, number, index) if halved is None else bad(*halved)


def _unreadable(error: Exception) -> str:
    return f"not JSON that can be read ({str(error).partition(';')[0]})"


def _json_rows(text: str, name: str) -> Iterator[Row]:
    try:
        whole = parse_json(text, any_text=True)
    except json.JSONDecodeError as error:
        problem = RecordProblem(
            name, error.lineno, f"column {error.colno}", f"not JSON ({error.msg})", "a JSON list"
        )
        raise DataError(f"{name}: not valid JSON.", [problem]) from error
    except ValueError as error:
        raise DataError(f"{name}: {_unreadable(error)}.") from error
    escaped = "\\ud" in text.lower()
    rows = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(rows, list):
        raise DataError(f"{name}: holds {describe(whole)}, expected a list of records or {{'data': [...]}}.")
    if not rows:
        raise NoRowsError(f"{name}: the list is empty.", hint="At least one record is needed.")
    for index, (value, line) in enumerate(
        zip(rows, _lines_of_items(text, isinstance(whole, dict)), strict=True)
    ):
        what = ("row", describe(value), "a JSON object") if not isinstance(value, dict) else None
        what = half_pair(value) if what is None and escaped else what
        if what is None:
            yield Row(value, line, index)
        else:
            yield Row(None, line, index, RecordProblem(name, line, *what, index), json.dumps(value))


def _lines_of_items(text: str, in_data: bool) -> Iterator[int]:
    """The line on which each item of the list (the whole text, or its `data`) starts. `text` is valid JSON."""
    decoder = json.JSONDecoder()

    def skip(position: int) -> int:
        found = _SPACE.match(text, position)
        return found.end() if found else position

    position = skip(0) + 1
    start = position
    while (
        in_data and text[skip(position)] != "}"
    ):  # a repeated key counts as json.loads counts it: the last one
        key, position = decoder.raw_decode(text, skip(position))
        value_at = skip(skip(position) + 1)
        if key == "data":
            start = value_at + 1
        position = skip(decoder.raw_decode(text, value_at)[1])
        position += text[position] == ","
    line, counted, position = 1, 0, start
    while text[position := skip(position)] != "]":
        line += text.count("\n", counted, position)
        counted = position
        yield line
        position = skip(decoder.raw_decode(text, position)[1])
        position += text[position] == ","


def _csv_rows(text: str, name: str, lists: Collection[str]) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    index, line = 0, 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = _csv_header(cells, name)
            elif len(cells) != len(header):
                problem = RecordProblem(
                    name, start, "row", f"{len(cells)} cells", f"{len(header)} as in the header", index
                )
                yield Row(None, start, index, problem, ",".join(cells))
                index += 1
            else:
                value = {key: _csv_value(cell, key in lists) for key, cell in zip(header, cells, strict=True)}
                yield Row(value, start, index)
                index += 1
    except csv.Error as error:
        problem = RecordProblem(
            name, line, "row", f"not CSV ({error})", "comma-separated, quoted with double quotes"
        )
        raise DataError(f"{name}: not valid CSV.", [problem]) from error
    if index == 0:
        raise NoRowsError(f"{name}: only a header, no rows.")


def _csv_header(cells: list[str], name: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({one for one in header if header.count(one) > 1})
    if twice:
        raise DataError(f"{name}: the column {', '.join(twice)} appears twice in the header.")
    return header


def _csv_value(cell: str, holds_lists: bool) -> Any:
    """A cell; lists and messages are written as JSON in their cell."""
    if not cell.startswith("["):
        return cell
    try:
        value = parse_json(cell)
    except ValueError:
        return cell
    is_messages = bool(value) and all(isinstance(one, dict) and "role" in one for one in value)
    return value if holds_lists or is_messages else cell
