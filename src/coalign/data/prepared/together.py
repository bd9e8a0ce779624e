"""A large source read by several processes: those of a launcher that prepare the same data, and helpers of this process.

Every row is read by one of them. What they find is put together in the order of the source, so that records, their ids and
content, problems and their places are those of one process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from coalign.core.errors import CoalignError, RecordProblem
from coalign.core.machine.cores import THREADS, usable_cores
from coalign.data.prepared.blocks import Blocks
from coalign.data.prepared.kept import read_plain, write_plain
from coalign.data.prepared.many import put_together, write_records
from coalign.data.prepared.stretches import Stretch, rows_of, stretches_of
from coalign.data.records import Record
from coalign.data.rows import Row

_PLAN, _FOUND = "plan.bin", "found.bin"


@dataclass
class Findings:
    """What rows are that became no records, and the marks of chat templates in those that did."""

    problems: list[RecordProblem] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    marks: Counter[str] = field(default_factory=Counter)


Parse = Callable[[Iterable[Row], Findings], Iterator[Record]]


class Together:
    """The reading of a source in a folder that all processes know which read it.

    Args:
        made: what is there once it is read and put together.
        parse: gives what makes records of rows; asked once, where it is needed.
    """

    def __init__(self, folder: Path, made: Path, source: str, split: str, parse: Callable[[], Parse]) -> None:
        self.folder, self.made, self.source, self.split = folder, made, source, split
        self._parse = parse
        self._blocks: Blocks[Stretch] | None = None

    def work(self) -> bool:
        """Read a stretch that nobody else reads, while another process puts the source together; False where there is none."""
        try:
            if self._blocks is None:
                plan = read_plain(self.folder / _PLAN)
                self._blocks = None if plan is None else self._blocks_of([Stretch(*one) for one in plan])
            return self._blocks is not None and self._blocks.work()
        except (CoalignError, OSError, ValueError):  # told by the process that puts it together
            return False

    def records(self, found: Findings) -> Sequence[Record] | None:
        """The records of the source, with what is to be said of the others added to `found`; None where it is to be read as a
        whole: it is small or cannot be cut, there is nobody to share it with, or something is wrong with it.
        """
        helpers = int(os.environ.get(THREADS) or usable_cores()) - 1
        if helpers < 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return None
        try:
            spans = stretches_of(self.source, self.split)
            if len(spans) < 2:
                return None
            blocks = self._blocks = self._blocks_of(spans)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_plain(self.folder / _PLAN, [list(astuple(one)) for one in spans])
            blocks.finish(helpers, "Reading")
            told = [read_plain(one / _FOUND) for one in blocks.paths]
            records = put_together(blocks.paths)
        except (CoalignError, OSError, ValueError):
            return None
        finally:
            self._remove()
        for one in told:
            found.problems += [RecordProblem(**row) for row in one["problems"]]
            found.bad += one["bad"]
            found.marks.update(one["marks"])
        return records

    def _remove(self) -> None:
        """Remove the folder at once, so that nobody takes what is removed for what is to be read."""
        out = self.folder.with_name(f"{self.folder.stem}-{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            self.folder.rename(out)
            shutil.rmtree(out, ignore_errors=True)

    def _blocks_of(self, spans: Sequence[Stretch]) -> Blocks[Stretch]:
        parse = self._parse()

        def make(span: Stretch, folder: Path) -> None:
            found = Findings()
            folder.mkdir()
            if write_records(folder, parse(rows_of(span), found)) is not None:
                raise ValueError("records that no file holds")
            told = {
                "problems": [asdict(one) for one in found.problems],
                "bad": found.bad,
                "marks": dict(found.marks),
            }
            if not write_plain(folder / _FOUND, told):
                raise ValueError("rows that no file holds")

        return Blocks(self.folder, self.made, spans, make)
