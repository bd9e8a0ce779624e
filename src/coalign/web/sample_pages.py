"""Pages through the files of samples that lie beside a report (`coalign.report.samples`), however many rows they have."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coalign.core.errors import RunError
from coalign.core.files import parse_json
from coalign.report.samples import FOLDER

ROWS = 20
"""Of a page."""


def sample_files(run: Path) -> list[str]:
    """Names of a run's files of samples."""
    return sorted(one.name for one in (run / FOLDER).glob("*.jsonl") if not one.is_symlink())


def sample_file(run: Path, name: str) -> Path:
    """One of a run's files of samples.

    Raises:
        RunError: it has none of this name.
    """
    if name not in sample_files(run):
        raise RunError(f"{run.name} has no samples called {name!r}.")
    return run / FOLDER / name


def page_of(path: Path, line: int) -> dict[str, Any]:
    """The rows from a line on, where it is in the file, and the lines at which the pages before and after begin.

    Raises:
        RunError: the file cannot be read.
    """
    try:
        about = path.stat()
        starts = _starts(path, about.st_size, about.st_mtime_ns)
        first = min(max(line, 1), max(len(starts), 1))
        last = min(first + ROWS - 1, len(starts))
        rows: list[dict[str, Any]] = []
        with path.open("rb") as file:
            if starts:
                file.seek(starts[first - 1])
            for number in range(first, last + 1):
                rows.append(_row(file.readline(), number))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error
    return {
        "rows": rows,
        "first": first,
        "last": last,
        "total": len(starts),
        "before": max(first - ROWS, 1) if first > 1 else None,
        "after": last + 1 if last < len(starts) else None,
    }


@functools.lru_cache(maxsize=8)
def _starts(path: Path, size: int, changed: int) -> array[int]:
    """Where each line begins; once for a file, as long as size and time of change stay."""
    starts, place = array("q"), 0
    with path.open("rb") as file:
        for line in file:
            starts.append(place)
            place += len(line)
    return starts


def _row(line: bytes, number: int) -> dict[str, Any]:
    """A row as the template takes it, whatever the line holds.

    Raises:
        ValueError: it is no row of samples.
    """
    row = parse_json(line.decode("utf-8"))
    if not isinstance(row, Mapping):
        raise ValueError(f"line {number} is no row of samples")
    outputs = [
        {
            "column": str(one.get("column", "")),
            "text": str(one.get("text", "")),
            "score": one["score"] if isinstance(one.get("score"), int | float) else None,
        }
        for one in row.get("outputs", ())
        if isinstance(one, Mapping)
    ]
    return {
        "line": number,
        "prompt": str(row.get("prompt", "")),
        "tags": [str(one) for one in row.get("tags", ())],
        "change": str(row.get("change") or "").replace("unknown", ""),
        "outputs": outputs,
    }
