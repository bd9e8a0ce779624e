"""Rows that are kept as they come, in any order, and read in the order of their places without being in memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from coalign.core.errors import ConfigError
from coalign.core.files import append_rows, stream_rows

Row = dict[str, Any]


class Appended:
    """The rows that were appended to a JSON Lines file since they were last asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self._end = path, 0

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """Each with the byte at which it begins; a torn last line is passed over."""
        last = None
        for last, row in stream_rows(self.path, start=self._end):
            yield last, row
        if last is not None:
            with self.path.open("rb") as file:
                file.seek(last)
                self._end = last + len(file.readline())


class RowFile(Sequence[Row]):
    """Rows of known ids in a JSON Lines file, one an id. Memory holds the ids and eight bytes a row.

    A row is kept with its place (`index`) and its `id`; one that is there under another id belongs to other data and is not
    taken. Of two rows of one place the first counts. A row with an `error` does not count when the file is opened again, so
    that it is tried anew.

    Args:
        path: may not exist yet; a line torn by a kill is passed over.
        ids: of all rows, in order.
    """

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        self.path, self._ids = path, ids
        self._starts = array("q", [-1]) * len(ids)
        self._new = Appended(path)
        self._read(errors=False)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, place: object) -> bool:
        """Whether the row of a place is there."""
        return isinstance(place, int) and self._starts[place] >= 0

    @property
    def missing(self) -> int:
        """Rows that are not there."""
        return self._starts.count(-1)

    @property
    def done(self) -> Iterator[int]:
        """Places of rows that are there."""
        return (place for place, start in enumerate(self._starts) if start >= 0)

    def add(self, made: Mapping[int, Row]) -> None:
        """Keep rows by their places, synced to disk when it returns.

        Raises:
            CoalignError: the disk is full; the rows before stay.
        """
        new = [
            {"index": place, "id": self._ids[place], **row}
            for place, row in made.items()
            if place not in self
        ]
        if new:
            append_rows(self.path, new)
            self._read(errors=True)

    def _read(self, *, errors: bool) -> None:
        """Note where the rows begin that were added since the last time."""
        for start, row in self._new:
            place = row.get("index")
            if not isinstance(place, int) or not 0 <= place < len(self._ids) or place in self:
                continue
            if row.get("id") == self._ids[place] and (errors or "error" not in row):
                self._starts[place] = start

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        places = range(len(self))[place]
        with self.path.open("rb") as file:
            if isinstance(places, int):
                return self._row(file, places)
            return [self._row(file, one) for one in places]

    def __iter__(self) -> Iterator[Row]:
        if not len(self):
            return
        with self.path.open("rb") as file:
            for place in range(len(self)):
                yield self._row(file, place)

    def _row(self, file: Any, place: int) -> Row:
        if place not in self:
            raise KeyError(f"{self.path}: no row {place} yet")
        file.seek(self._starts[place])
        return json.loads(file.readline())


def begin(path: Path, settings: Mapping[str, Any]) -> None:
    """Make the file of rows with a line of settings, or find that it was made with the same.

    Raises:
        ConfigError: it was made with others; those that differ are named.
    """
    before = next((row["settings"] for _, row in stream_rows(path) if "settings" in row), None)
    if before is None:
        append_rows(path, [{"settings": dict(settings)}])
        return
    before.setdefault("identity", settings.get("identity"))  # earlier versions did not keep it
    differing = [name for name in settings if settings[name] != before.get(name)]
    if differing:
        lines = [
            "  identity: the model under this name is another one now"
            if name == "identity"
            else f"  {name}: {before.get(name)!r} there, {settings[name]!r} now"
            for name in differing
        ]
        raise ConfigError(
            f"{path} was started with other settings:\n" + "\n".join(lines),
            hint="Give the same options to continue it, another --out, or delete it.",
        )
