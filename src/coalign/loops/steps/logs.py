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
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.files import json_bytes, open_to_append, write_all
from coalign.loops.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SYNC_SECONDS = 1.0
"""Least time between two writes that wait for the disk: a batch with a model takes longer and is safe at once."""
Note = dict[str, Any]
_decode = json.JSONDecoder().decode


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
            self._row = _decode(self._line[2].decode("utf-8"))
        return self._row

    @property
    def trace(self) -> list[Note]:
        """What the steps noted, each with its name under `step`."""
        if self._trace is None:
            self._trace = [] if self._line[1] == b"[]" else _decode(self._line[1].decode("utf-8"))
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
            name, trace = self.row["id"], self.trace
            plain = name.isascii() and name.isalnum()
            self._line = (
                b'"%b"' % name.encode("ascii") if plain else json_bytes(name),
                json_bytes(trace) if trace else b"[]",
                json_bytes(self.row),
            )
        return self._line

    @property
    def line(self) -> bytes:
        return b"\t".join(self.parts) + b"\n"


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
    """Records of a log, all that were kept or some of them, in their order.

    Attributes:
        picked: [records kept in the log] which; None for all.
    """

    log: Path
    count: int
    picked: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return self.count

    def lines(self) -> Iterator[bytes]:
        found = lines_of(self.log, KEPT)
        return found if self.picked is None else itertools.compress(found, self.picked)

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
        """[records] bytes at which they begin in the log."""
        import numpy as np

        found, place = array("q"), 0
        with self.log.open("rb") as file:
            for line in file:
                if line[0] == KEPT:
                    found.append(place + 1)
                place += len(line)
        starts = np.frombuffer(found, dtype=np.int64)
        return starts if self.picked is None else starts[self.picked]


KEPT, FALLEN, END = b"+-="
"""First byte of a line of a log: a record that was kept, one that fell (as in `rejects.jsonl`), the end of a batch."""


def lines_of(log: Path, kind: int) -> Iterator[bytes]:
    """The lines of a kind, without their first byte."""
    with log.open("rb") as file:
        for line in file:
            if line[0] == kind:
                yield line[1:]


@dataclass
class Batch:
    """What became of some records that were worked on together.

    Attributes:
        of: how many came in.
        out: [steps] how many left each step.
        reasons: [steps] how many fell, by reason.
        kept: those that are left.
        fallen: lines of those that fell.
    """

    of: int
    out: Sequence[int]
    reasons: Sequence[Mapping[str, int]]
    kept: Sequence[Item] = ()
    fallen: Sequence[bytes] = ()

    @property
    def data(self) -> bytes:
        """Its lines in the log; the last one says that it is whole."""
        end = json_bytes({"of": self.of, "out": list(self.out), "reasons": list(self.reasons)})
        kept = [b"+%b\t%b\t%b\n" % (*one.parts,) for one in self.kept]
        fallen = [b"-" + one for one in self.fallen]
        return b"".join([*kept, *fallen, b"=", end, b"\n"])


class BatchLog:
    """A log that grows by whole batches, each with one write.

    What lies behind the last line that ends a batch was cut by a kill, and is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def batches(self) -> Iterator[Batch]:
        """The batches that are there, without their records."""
        if self.path.exists():
            for line in lines_of(self.path, END):
                found = json.loads(line)
                yield Batch(found["of"], found["out"], found["reasons"])

    def repair(self) -> None:
        """Cut what no whole batch holds."""
        self.path.touch()
        whole = place = 0
        with self.path.open("rb") as file:
            for line in file:
                place += len(line)
                if line[0] == END and line.endswith(b"\n"):
                    whole = place
        os.truncate(self.path, whole)

    def append(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Write batches, and give each back when it is there; `repair` first. A batch that took long is safe from a power
        cut, too.
        """
        with open_to_append(self.path) as file:
            synced = 0.0
            for batch in batches:
                write_all(file, batch.data)
                if time.monotonic() - synced > SYNC_SECONDS:
                    os.fsync(file.fileno())
                    synced = time.monotonic()
                yield batch
            os.fsync(file.fileno())
