"""A row of any file, as it was read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import RecordProblem
from coalign.data.records import Source


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read.

    Attributes:
        value: the columns; None where the row could not be read, then `problem` says why.
        line: 1-based first line; None where the source has no lines.
        index: 0-based position in the whole source.
        raw: the text of a row that could not be read.
        file: the file of several that holds it; empty where the source is one.
        before: rows of the files before that one.
    """

    value: dict[str, Any] | None
    line: int | None
    index: int
    problem: RecordProblem | None = None
    raw: str = ""
    file: str = ""
    before: int = 0

    def source(self, name: str | Path, tag: str = "") -> Source:
        """Where it is.

        Args:
            name: of the source, for messages.
            tag: of the source in a mix.
        """
        whole = str(name) if self.file else ""
        return Source(self.file or str(name), self.line, self.index, self.before, tag, whole)
