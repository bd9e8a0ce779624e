"""A corpus as a pipeline takes it: rows of one or several sources, and what in them is text, prompt and response."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from coalign.core.errors import DataError
from coalign.data.columns import PARTS, Layout, recognise
from coalign.data.parse import parse_row
from coalign.data.records import Kind, Record, Source, responses_of
from coalign.data.rows import iter_rows
from coalign.judging.protocol import JudgeItem
from coalign.loops.rows import Row
from coalign.loops.steps.usual import Filter

UNREADABLE = "unreadable"
"""Column of a row that is none: what is wrong with it."""
_LOOK_AHEAD = 100
_OF_RESPONSES = (*PARTS["scores"], *PARTS["ranks"], "finish_reasons", "tokens")
"""Columns that may hold a value a response."""
_TEXT = ("messages", "prompt", "system", "history", "chosen", "responses", "completion", "text")
_NAMES = (*(name for part in _TEXT for name in PARTS[part]), "input", "context")


@dataclass(frozen=True)
class Corpus:
    """Sources read one after the other.

    Args:
        sources: anything that `coalign.data.rows.iter_rows` reads.
        column: the column that is the text; by default all that hold text of a record.
        kind: what the records are, where their columns allow more than one kind.
        on_bad_record: `fail` at a row that cannot be read, or reject it with the step `readable`.
        limit: rows read of each source.
        unfold: a row with several responses is read as one record a response, whose id is numbered, with its
            own score, rank, finish reason and number of tokens.
    """

    sources: Sequence[str]
    column: str | None = None
    kind: Kind | None = None
    on_bad_record: Literal["fail", "skip"] = "fail"
    limit: int | None = None
    unfold: bool = False

    def __iter__(self) -> Iterator[Row]:
        """The rows, each with an id: its own or its number. Of several sources each is in front of the ids of its rows, and
        in the column `source`.

        Raises:
            DataError: a row that cannot be read (under `fail`), or an id that appears twice.
        """
        several, seen = len(self.sources) > 1, set[int]()
        for source in self.sources:
            for row in itertools.islice(iter_rows(source), self.limit):
                value = row.value
                if value is None:
                    if self.on_bad_record == "fail":
                        raise DataError(
                            f"{source} cannot be used.",
                            [row.problem] if row.problem else [],
                            hint="Correct it, or leave such rows out with --on-bad-record skip.",
                        )
                    value = {UNREADABLE: f"{row.problem}" if row.problem else "unreadable", "raw": row.raw}
                name = str(value.get("id", row.index))
                beside: Row = {"source": source} if several and "source" not in value else {}
                name = f"{source}:{name}" if several else name
                if hash(name) in seen:
                    raise DataError(
                        f"{source}: the id {name!r} appears twice.",
                        hint="Give every row its own id, or none.",
                    )
                seen.add(hash(name))
                whole = {**value, **beside, "id": name}
                yield from _unfolded(whole) if self.unfold else [whole]

    @property
    def readable(self) -> Filter:
        """The step that rejects rows that cannot be read."""
        return Filter("readable", lambda row: "not a record" if UNREADABLE in row else None)

    @cached_property
    def _first(self) -> list[Row]:
        found = [row for row in itertools.islice(self, _LOOK_AHEAD) if UNREADABLE not in row]
        if not found:
            raise DataError(f"{', '.join(self.sources)}: none of the first {_LOOK_AHEAD} rows can be read.")
        return found

    @cached_property
    def layout(self) -> Layout:
        """What the rows are as records.

        Raises:
            DataError: no kind of record has such columns.
        """
        return recognise(self._first, ", ".join(self.sources), self.kind)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold text.

        Raises:
            DataError: there is none, or not the one that was named.
        """
        present = dict.fromkeys(name for row in self._first for name in row)
        found = tuple(name for name in present if name in ((self.column,) if self.column else _NAMES))
        if not found:
            wanted = f"column {self.column}" if self.column else "column that holds text"
            raise DataError(
                f"{', '.join(self.sources)}: there is no {wanted}.",
                hint=f"Its columns are: {', '.join(present)}. Name one with --text-column.",
            )
        return found

    def text(self, row: Row) -> str:
        """The text of a row: of its columns, one under the other."""
        if len(self.columns) == 1 and isinstance(value := row.get(self.columns[0]), str):
            return value
        return "\n".join(part for name in self.columns for part in _parts(row.get(name)))

    def record(self, row: Row) -> Record | None:
        """A row as a record; None where it is not a good one."""
        found = parse_row(row, self.layout, Source(row["id"], None, 0))
        return None if isinstance(found, list) else found

    def item(self, row: Row) -> JudgeItem | None:
        """A row as something to judge: its prompt and its (first) response; None where it has none."""
        record = self.record(row)
        responses = responses_of(record) if record is not None else ()
        if record is None or not responses:
            return None
        return JudgeItem(id=row["id"], prompt=record.prompt, responses=responses[:1])


def _unfolded(row: Row) -> list[Row]:
    """One row a response; a row without a list of responses as it is."""
    name = next((one for one in PARTS["responses"] if isinstance(row.get(one), list) and row[one]), None)
    if name is None:
        return [row]
    count = len(row[name])
    own = {key for key in _OF_RESPONSES if isinstance(row.get(key), list) and len(row[key]) == count}
    shared = {key: value for key, value in row.items() if key not in own and key != name}
    return [
        {
            **shared,
            **{key if key == "tokens" else key.removesuffix("s"): row[key][place] for key in own},
            "completion": row[name][place],
            "id": f"{row['id']}-{place}",
        }
        for place in range(count)
    ]


def _parts(value: Any) -> Iterable[str]:
    """The texts of a value: of messages their contents, of responses each."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _parts(one)
    elif isinstance(value, dict):
        yield from _parts(
            next((value[name] for name in ("content", "value", "text", "response") if name in value), None)
        )
