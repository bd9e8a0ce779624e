"""Rows that are made of items by this process or by workers, kept as they come: the missing ones are made, whatever was made
before a kill.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, TypeVar

from coalign.core.engines import ray_data
from coalign.core.engines.batches import Failed, Work
from coalign.core.engines.options import EngineOptions
from coalign.core.engines.row_file import Row, RowFile
from coalign.core.errors import CoalignError
from coalign.core.files import dump_json
from coalign.core.progress import progress, silent

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass
class Failures:
    """Items that could not be worked on.

    Attributes:
        first: id and message of the first of them.
    """

    count: int = 0
    first: tuple[str, str] | None = None

    def add(self, name: str, message: str) -> None:
        self.count += 1
        self.first = self.first or (name, message)

    def check(self, total: int, where: str) -> None:
        """Say what failed, once the others are safe.

        Raises:
            CoalignError: something did.
        """
        if self.first is not None:
            name, message = self.first
            raise CoalignError(
                f"{self.count} of {total} rows failed; they stand in {where} with the column `error`. The first, {name}: {message}",
                hint="The others are whole. The same command with --overwrite tries only those that failed.",
            )


def fill(
    rows: RowFile,
    items: Sequence[Item],
    make: Callable[[], Work[Item, Made]],
    options: EngineOptions,
    *,
    label: str,
    names: Sequence[str],
    row: Callable[[Made], Row],
) -> Failures:
    """Make the rows that are missing in `rows`, batch by batch.

    Batches are cut at fixed places, the same under every engine, and worked on whole when a row of theirs is missing, so that
    numbers depend neither on the engine nor on where a run was cut.

    Args:
        items: a row each.
        make: what makes the work, called by each worker (see `over_ray`).
        names: what messages call the items.
        row: what is kept of a result. An item that failed in a worker is kept as `error`.

    Returns:
        What failed now.

    Raises:
        CoalignError: what the work raises in this process; the batches before are kept.
    """
    size, failures = options.worker_rows, Failures()
    starts = [
        start
        for start in range(0, len(items), size)
        if any(place not in rows for place in range(start, min(start + size, len(items))))
    ]
    with progress(len(items), label) as bar:
        bar.advance(len(items) - sum(min(size, len(items) - start) for start in starts))
        batches = (items[start : start + size] for start in starts)
        over = ray_data.over_ray(batches, make, options) if options.engine == "ray" else _here(batches, make)
        for start, made in zip(starts, over, strict=True):
            found: dict[int, Row] = {}
            for place, one in enumerate(made, start=start):
                if isinstance(one, Failed):
                    failures.add(names[place], one.message)
                    found[place] = {"error": one.message}
                else:
                    found[place] = row(one)
            rows.add(found)
            bar.advance(len(made))
    return failures


def _here(batches: Iterable[Sequence[Item]], make: Callable[[], Work[Item, Made]]) -> Iterator[list[Made]]:
    """The results of every batch, made in this process."""
    work: Work[Item, Made] | None = None
    for batch in batches:
        work = work or make()
        with silent():
            made = list(work(batch))
        yield made


def item_id(place: int, item: Any) -> str:
    """An id that changes with the content of an item, so that rows kept for other data are not taken for its own."""
    text = dump_json(
        item,
        default=lambda one: asdict(one) if is_dataclass(one) and not isinstance(one, type) else str(one),
        sort_keys=True,
    )
    return f"{place}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
