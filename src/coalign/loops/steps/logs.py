"""Records on their way through a pipeline, as they lie on disk between its passes.

A record is a line of three JSON values with tabs between them (JSON has none): its id, the notes of the steps, its
columns. So what a step does not look at is copied and never parsed.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.files import append_rows, json_line, open_to_append, read_rows, write_all, write_rows
from coalign.loops.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SYNC_SECONDS = 1.0
"""Least time between two writes that wait for the disk: a batch with a model takes longer and is safe at once."""
Note = dict[str, Any]


class Item:
    """A record on its way. Columns and notes are parsed when they are asked for, and written as they were where no step
    changed them.
    """

    __slots__ = ("_line", "_row", "_trace")

    def __init__(self, row: Row | None, trace: list[Note] | None, line: Sequence[bytes] = ()) -> None:
        self._row, self._trace, self._line = row, trace, line

    @classmethod
    def of(cls, line: bytes) -> Item:
        return cls(None, None, line.rstrip(b"\n").split(b"\t"))

    @property
    def row(self) -> Row:
        if self._row is None:
            self._row = json.loads(self._line[2])
        return self._row

    @property
    def trace(self) -> list[Note]:
        """What the steps noted, each with its name under `step`."""
        if self._trace is None:
            self._trace = json.loads(self._line[1])
        return self._trace

    def becoming(self, row: Row, note: Note | None) -> Item:
        """What a step makes of it: the same item where nothing changed."""
        if row is self._row and note is None:
            return self
        if row is self._row and self._line:
            changed = Item(row, [*self.trace, note] if note else self.trace)
            changed._line = (self._line[0], json_bytes(changed.trace), self._line[2])
            return changed
        return Item(row, [*self.trace, note] if note else self.trace)

    @property
    def parts(self) -> Sequence[bytes]:
        """Id, notes and columns as JSON."""
        if not self._line:
            self._line = (json_bytes(self.row["id"]), json_bytes(self.trace), json_bytes(self.row))
        return self._line

    @property
    def line(self) -> bytes:
        return b"\t".join(self.parts) + b"\n"


def json_bytes(value: Any) -> bytes:
    """JSON as `coalign.core.files` writes it; text that is not valid Unicode is escaped."""
    if value == []:
        return b"[]"
    return json_line(value)[:-1].encode("utf-8")


@functools.lru_cache(maxsize=4096)
def _quoted(text: str) -> bytes:
    return json_bytes(text)


def rejected_line(parts: Sequence[bytes], step: str, reason: str, note: Note | None = None) -> bytes:
    """A record that fell, as it stands in `rejects.jsonl`.

    Args:
        parts: of its item.
        note: of the step that it fell at.
    """
    name, trace, row = parts
    if note is not None:
        trace = trace[:-1] + (b"" if trace == b"[]" else b", ") + json_bytes(note) + b"]"
    head = b'{"id": %b, "step": %b, "reason": %b, ' % (name, _quoted(step), _quoted(reason))
    return b'%b"row": %b, "steps": %b}\n' % (head, row, trace)


@dataclass(frozen=True)
class Records:
    """Records of a log, all or some of them, in their order.

    Attributes:
        picked: [lines] which; None for all.
    """

    log: Path
    count: int
    picked: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return self.count

    def lines(self) -> Iterator[bytes]:
        with self.log.open("rb") as file:
            yield from file if self.picked is None else itertools.compress(file, self.picked)

    def items(self) -> Iterator[Item]:
        return map(Item.of, self.lines())

    def only(self, chosen: NDArray[np.bool_]) -> Records:
        """Some of them.

        Args:
            chosen: [records].
        """
        import numpy as np

        picked = chosen
        if self.picked is not None:
            picked = self.picked.copy()
            picked[picked] = chosen
        return Records(self.log, int(np.count_nonzero(chosen)), picked)

    def offsets(self) -> NDArray[np.int64]:
        """[records] bytes at which their lines begin."""
        import numpy as np

        with self.log.open("rb") as file:
            lengths = np.fromiter((len(line) for line in file), dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        return starts if self.picked is None else starts[self.picked]


@dataclass
class Batch:
    """What became of some records that were worked on together.

    Attributes:
        of: how many came in.
        out: [steps] how many left each step.
        rejected: [steps] how many fell, by reason.
        files: suffix of a file to the bytes that it gets.
    """

    of: int
    out: Sequence[int]
    rejected: Sequence[Mapping[str, int]]
    files: Mapping[str, bytes]


class BatchLog:
    """Files that grow together by whole batches.

    A line in `STEM.batches.jsonl` says that a batch is there and where it ends in each file. What lies beyond the last
    such line was cut by a kill and is dropped; a file that is shorter than its lines say (a power cut) takes the
    batches that it lost with it.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder, self._stem = folder, stem
        self._batches = folder / f"{stem}.batches.jsonl"

    def path(self, suffix: str) -> Path:
        return self._folder / f"{self._stem}.{suffix}"

    def batches(self) -> list[dict[str, Any]]:
        return read_rows(self._batches, repair=True)

    def append(self, suffixes: Sequence[str], batches: Iterable[Batch]) -> Iterator[Batch]:
        """Write batches, and give each back when it is on disk; `repair` first."""
        with open_to_append([self.path(one) for one in suffixes]) as files:
            synced = 0.0
            for batch in batches:
                for suffix, file in zip(suffixes, files, strict=True):
                    if data := batch.files.get(suffix, b""):
                        write_all(file, data)
                ends = {one: file.tell() for one, file in zip(suffixes, files, strict=True)}
                if late := time.monotonic() - synced > SYNC_SECONDS:
                    for file in files:
                        os.fsync(file.fileno())
                row = {"of": batch.of, "out": list(batch.out), "rejected": list(batch.rejected), "ends": ends}
                append_rows(self._batches, [row], sync=late)
                synced = time.monotonic() if late else synced
                yield batch
            for file in files:
                os.fsync(file.fileno())

    def repair(self, suffixes: Sequence[str]) -> list[dict[str, Any]]:
        """Cut what no whole batch holds; the batches that are there."""
        batches = found = self.batches()
        sizes = {one: path.stat().st_size if (path := self.path(one)).exists() else 0 for one in suffixes}
        while batches and any(batches[-1]["ends"][one] > size for one, size in sizes.items()):
            batches = batches[:-1]
        if len(batches) < len(found):
            write_rows(self._batches, batches)
        for one in suffixes:
            self.path(one).touch()
            os.truncate(self.path(one), batches[-1]["ends"][one] if batches else 0)
        return batches
