"""Answers of endpoints that were paid for, in one SQLite file, by the hash of what was asked.

The key is the SHA-256 of a JSON object with the fields that `endpoint_format.answer_key` lists. Any number of threads
and processes may use a file at once; an answer is on disk once it is known to be of the right form, before anybody
looks at what it says.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coalign.core.errors import EndpointError
from coalign.core.files import append_rows, dump_json

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL, made REAL NOT NULL)"
)
_WAIT = 60.0  # seconds for another process to finish its write


class AnswerCache:
    """Answers by key.

    Args:
        path: the file; made with its folder when it is absent.

    Raises:
        EndpointError: the file is not a database, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(_SCHEMA)
            self._connection.commit()

    def get(self, key: str) -> tuple[dict[str, Any], float] | None:
        """The answer that was kept under `key` and when (seconds since 1970), None when there is none."""
        with self._lock, self._explained():
            row = self._connection.execute(
                "SELECT answer, made FROM answers WHERE key = ?", (key,)
            ).fetchone()
        return (json.loads(row[0]), row[1]) if row else None

    def put(self, answers: dict[str, dict[str, Any]]) -> None:
        """Keep answers, all or none. One that is there already stays as it is."""
        rows = [(key, dump_json(one), time.time()) for key, one in answers.items()]
        with self._lock, self._explained(), self._connection:
            self._connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)

    @property
    def refused(self) -> Path:
        """Where replies that cannot be used are kept for inspection, a row each."""
        return self.path.with_name(f"{self.path.stem}.refused.jsonl")

    def keep_refused(self, **about: Any) -> None:
        """Keep a reply that cannot be used apart from the answers."""
        with self._lock, self._explained():
            append_rows(self.refused, [{"time": round(time.time(), 3), **about}])

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise EndpointError(
                f"{self.path}: the cache of answers cannot be used ({error}).",
                hint="Name another file with --endpoint-cache, or turn it off with --endpoint-cache off.",
            ) from error
