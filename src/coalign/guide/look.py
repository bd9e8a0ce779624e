"""A look at a file before advice: what kind of data it holds, how much, and how long its records are."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError
from coalign.data.columns import recognise
from coalign.data.rows import iter_rows
from coalign.guide.situation import BAD

FIRST, LABELLED = 200, 5000
"""Rows by which the kind is recognised, and by which labels are looked at."""
SUFFIXES = {
    "images": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a"),
    "video": (".mp4", ".mkv", ".webm", ".mov", ".avi"),
    "tables": (".xml", ".html", ".htm"),
}
COLUMNS = {
    "images": ("image", "images"),
    "audio": ("audio", "audio_filepath"),
    "video": ("video", "clip", "videos"),
    "tables": ("cells", "html"),
}
CHARACTERS = 4
"""Of a token, about."""
_TURNS = 4


@dataclass(frozen=True)
class Seen:
    """What a file holds.

    Attributes:
        have: kinds of data, as `Situation.have` takes them.
        records: how many; None where counting would mean reading all of a folder.
        tokens: of a record, about.
        said: sentences for the reader.
    """

    have: list[str]
    records: int | None
    tokens: int
    said: list[str] = field(default_factory=list)


def look(source: str) -> Seen:
    """Look at a file or folder.

    Raises:
        DataError: it is not there, or its kind cannot be recognised; the columns found are named.
    """
    path = Path(source)
    media = _media(path)
    if media is not None:
        kind, count = media
        return Seen([kind], count, 300, [f"{source} holds {count:,} files of {kind}."])
    rows = iter_rows(source)
    first = [row.value for row in itertools.islice(rows, FIRST) if row.value is not None]
    if not first:
        raise DataError(f"{source}: none of the first {FIRST} rows can be read.")
    kind, why = _kind(first, source)
    rest = itertools.islice((row.value for row in rows if row.value is not None), LABELLED - len(first))
    have = [BAD] if kind == "feedback" and _all_bad(itertools.chain(first, rest)) else [kind]
    records = _count(path, len(first), rows)
    tokens = max(
        round(
            statistics.fmean(len(json.dumps(row, ensure_ascii=False, default=str)) for row in first)
            / CHARACTERS
        ),
        1,
    )
    said = [f"{source}: {records:,} records of about {tokens:,} tokens. {why}"]
    if have == [BAD]:
        said.append("Every label is bad: there are no good responses to learn from.")
    return Seen(have, records, tokens, said)


def _media(path: Path) -> tuple[str, int] | None:
    """Files of pictures, sound, video or tables, the most frequent kind of a folder."""
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [one for one in path.rglob("*") if one.is_file()]
    else:
        return None
    counts = {
        kind: sum(one.name.lower().endswith(suffixes) for one in files) for kind, suffixes in SUFFIXES.items()
    }
    kind = max(counts, key=counts.__getitem__)
    return (kind, counts[kind]) if counts[kind] else None


def _kind(rows: Sequence[Mapping[str, Any]], source: str) -> tuple[str, str]:
    names = {name for row in rows for name in row}
    for kind, columns in COLUMNS.items():
        found = [one for one in columns if one in names]
        if found:
            return kind, f"The column {found[0]} holds {kind}."
    if _turns(rows) >= _TURNS:
        return "conversations", "Chats of several turns."
    if names <= {"text", "id", "source", "meta", "metadata"} or {"context", "claim"} <= names:
        return "texts", "Texts without prompts." if "text" in names else "Texts with their sources."
    try:
        layout = recognise(rows, source)
    except DataError:
        if "responses" in names or {"model", "response"} <= names or {"model", "output"} <= names:
            return "responses", "Responses of several models, without scores."
        raise
    said = f"{layout.recognised[0].upper()}{layout.recognised[1:]}."
    return f"{layout.kind}s" if layout.kind != "feedback" else "feedback", said


def _turns(rows: Sequence[Mapping[str, Any]]) -> float:
    """Messages of a chat, the median, where rows are nothing but chats."""
    names = {name for row in rows for name in row}
    column = next((one for one in ("messages", "conversation", "conversations") if one in names), None)
    if column is None or names & {"chosen", "rejected", "label", "completion", "responses"}:
        return 0
    return statistics.median(len(row[column]) if isinstance(row.get(column), list) else 0 for row in rows)


def _all_bad(rows: Any) -> bool:
    labels = [
        next((row[name] for name in ("label", "labels", "feedback", "thumbs") if name in row), None)
        for row in rows
    ]
    known = [one for one in labels if one is not None]
    return bool(known) and all(
        one in (False, 0, -1, "bad", "down", "false", "negative", "dislike") for one in known
    )


def _count(path: Path, read: int, rows: Any) -> int:
    """Rows of the source; of JSON Lines by their line ends."""
    if path.is_file() and path.suffix in (".jsonl", ".ndjson"):
        with path.open("rb") as file:
            chunks = iter(lambda: file.read(1 << 20), b"")
            return max(sum(chunk.count(b"\n") for chunk in chunks), 1)
    return read + sum(1 for _ in rows)
