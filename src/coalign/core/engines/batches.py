"""Batches of rows that wait on disk, the worker that works on one of them, and what comes back for each row.

An engine hands numbers of batches to workers and their results back; nothing here knows which engine it is. A worker asks
for its batch itself, so a batch that is worked on twice, because the first worker died, is the same both times.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from coalign.core.errors import CoalignError, ConfigError, MissingExtraError, in_one_line

Item = TypeVar("Item")
Made = TypeVar("Made")
TRIES = 2
"""Workers that may die at the same batch, and then at the same row."""
Work = Callable[[Sequence[Item]], Sequence[Made]]
"""Works on a batch: a result an item, in their order."""


@dataclass(frozen=True)
class Failed:
    """What comes back for an item that cannot be worked on.

    Attributes:
        message: the error with its kind, in one line.
    """

    message: str


def guarded(work: Work[Item, Made], items: Sequence[Item]) -> list[Made | Failed]:
    """The results of a batch, with a `Failed` for each item that raises: a batch that raises is halved until the items that are
    to blame stand alone.

    Raises:
        ConfigError, MissingExtraError: what is not the fault of an item.
        ValueError: another number of results than of items.
    """
    try:
        made = list(work(items))
    except (ConfigError, MissingExtraError):
        raise
    except Exception as error:
        if len(items) == 1:
            return [Failed(in_one_line(error))]
        middle = len(items) // 2
        return [*guarded(work, items[:middle]), *guarded(work, items[middle:])]
    if len(made) != len(items):
        raise ValueError(f"{len(made)} results for {len(items)} items")
    return [*made]


def pool_size(asked: int | None, cores: int) -> tuple[int, str | None]:
    """Workers to start, one core each.

    One core stays free: for the process that hands out rows and writes them, and because Ray Data, whose readers need a core
    as well, waits for ever where its workers hold all of them.

    Args:
        asked: by the user; None takes what there is.
        cores: that can be used.

    Returns:
        How many, at least one, and a sentence where that is fewer than were asked for.
    """
    most = max(1, cores - 1)
    if asked is None or asked <= most:
        return asked or most, None
    have = "1 core" if cores == 1 else f"{cores} cores"
    return most, f"{asked} workers were asked for and there are {have}: {most}, so that one stays free."


class Waiting(Generic[Item]):
    """Batches by their numbers, and who died at them and while they began: one object that all workers ask.

    Args:
        spool: has the batches.
    """

    def __init__(self, spool: Sequence[list[Item]]) -> None:
        self._spool = spool
        self._began: Counter[str] = Counter()
        self._marks: dict[int, Counter[str]] = {}

    def read(self, number: int) -> list[Item]:
        """A batch."""
        return self._spool[number]

    def begin(self, worker: str) -> bool:
        """Whether a worker may begin: it has not died so often while it did. To be told when it has begun."""
        self._began[worker] += 1
        return self._began[worker] <= TRIES + 1

    def begun(self, worker: str) -> None:
        """A worker has begun."""
        self._began.pop(worker, None)

    def died(self, number: int) -> dict[str, int]:
        """How many workers died at a batch (`batch`) and at each of its rows, by their places."""
        return dict(self._marks.get(number, ()))

    def start(self, number: int, name: str) -> None:
        """A worker starts with a batch, or with one row of it."""
        self._marks.setdefault(number, Counter())[name] += 1

    def end(self, number: int, name: str) -> None:
        """It did not die there."""
        self._marks[number][name] -= 1

    def finish(self, number: int) -> None:
        """A batch is done."""
        self._marks.pop(number, None)


class BatchWorker(Generic[Item, Made]):
    """Lives in a worker process: makes what works once, then works on batches by their numbers.

    What goes wrong while it is made is kept and comes back in place of results, so that whoever waits gets the error itself.
    Engines start a worker that died again, and its batch, without end; so each try is counted (`Waiting`). A batch at which
    `TRIES` workers died is worked on row by row, and a row at which as many died alone comes back as `Failed`.

    Args:
        make: what makes the work: opens a model.
        waiting: has the batches.
        name: of the worker, the same when it is started again.
    """

    def __init__(
        self, make: Callable[[], Work[Item, Made]], waiting: Waiting[Item], name: str = "worker"
    ) -> None:
        self._waiting = waiting
        self._work: Work[Item, Made] | None = None
        self._broken: Exception | None = None
        if not waiting.begin(name):
            self._broken = CoalignError(
                "Workers die while they begin.",
                hint="Often memory: each has a model of its own. Take fewer --workers.",
            )
            return
        try:
            self._work = make()
        except Exception as error:
            self._broken = error
        waiting.begun(name)

    def __call__(self, number: int) -> bytes:
        """What `results_of` reads."""
        if self._work is None:
            return _sent(self._broken)
        items, died = self._waiting.read(number), self._waiting.died(number)
        try:
            if died.get("batch", 0) < TRIES:
                self._waiting.start(number, "batch")
                made = guarded(self._work, items)
            else:
                made = [
                    self._alone(item, number, str(place), died.get(str(place), 0))
                    for place, item in enumerate(items)
                ]
        except (ConfigError, MissingExtraError, ValueError) as error:
            return _sent(error)
        self._waiting.finish(number)
        return _sent(made)

    def _alone(self, item: Item, number: int, name: str, died: int) -> Made | Failed:
        """The result of an item, on whose own account its worker may die."""
        assert self._work is not None
        if died >= TRIES:
            return Failed(f"the worker died {TRIES} times at this row")
        self._waiting.start(number, name)
        (made,) = guarded(self._work, [item])
        self._waiting.end(number, name)
        return made


def _sent(value: Any) -> bytes:
    try:
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        pickle.loads(data)  # errors with arguments of their own are written and cannot be read
        return data
    except Exception:
        if not isinstance(value, Exception):
            raise
        known = value if isinstance(value, CoalignError) else None
        kind = ConfigError if isinstance(value, ConfigError) else CoalignError
        return pickle.dumps(kind(known.message if known else in_one_line(value), known and known.hint))


def results_of(data: bytes) -> list[Any]:
    """The results of a batch.

    Raises:
        Exception: what went wrong while the worker was made.
    """
    found = pickle.loads(data)
    if isinstance(found, CoalignError):
        raise found
    if isinstance(found, Exception):
        raise CoalignError(f"A worker cannot begin: {in_one_line(found)}") from found
    return found
