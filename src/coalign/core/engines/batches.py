"""Batches of rows that wait on disk, the worker that works on one of them, and what comes back for each row.

An engine hands numbers of batches to workers and their results back; nothing here knows which engine it is. A worker reads
its batch itself, so a batch that is worked on twice, because the first worker died, is the same both times.
"""

from __future__ import annotations

import pickle
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from coalign.core.engines.spool import Spool
from coalign.core.errors import CoalignError, ConfigError, MissingExtraError, in_one_line
from coalign.core.processes.locks import hold, is_held, release

Item = TypeVar("Item")
Made = TypeVar("Made")
TRIES = 2
"""Workers that may die at the same batch, and then at the same row."""
_PAUSE = 0.2
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


class BatchWorker(Generic[Item, Made]):
    """Lives in a worker process: makes what works once, then works on batches by their numbers.

    What goes wrong while it is made is kept and comes back in place of results, so that whoever waits gets the error itself.
    Engines start a worker that died again, and its batch, without end; so each try leaves a mark beside the batches. A batch at
    which `TRIES` workers died is worked on row by row, and a row at which as many died alone comes back as `Failed`.

    Args:
        make: what makes the work: opens a model.
        spool: has the batches.
    """

    def __init__(self, make: Callable[[], Work[Item, Made]], spool: Spool[list[Item]]) -> None:
        self._spool = spool
        self._work: Work[Item, Made] | None = None
        self._broken: Exception | None = None
        starting = spool.folder / f"{uuid.uuid4().hex}.starting"
        if len(_died_starting(spool.folder)) > TRIES:
            self._broken = CoalignError(
                "Workers die while they begin.",
                hint="Often memory: each has a model of its own. Take fewer --workers.",
            )
            return
        hold(starting)
        try:
            self._work = make()
        except Exception as error:
            self._broken = error
        release(starting)

    def __call__(self, number: int) -> bytes:
        """What `results_of` reads."""
        if self._work is None:
            return _sent(self._broken)
        items, tries = self._spool[number], self._spool.folder / f"{number}.tries"
        before = _died(tries)
        try:
            if before["batch"] < TRIES:
                _mark(tries, "batch")
                made = guarded(self._work, items)
            else:
                made = [self._alone(item, tries, str(place), before) for place, item in enumerate(items)]
        except (ConfigError, MissingExtraError, ValueError) as error:
            return _sent(error)
        tries.unlink()
        return _sent(made)

    def _alone(self, item: Item, tries: Path, name: str, before: Counter[str]) -> Made | Failed:
        """The result of an item, on whose own account its worker may die."""
        assert self._work is not None
        if before[name] >= TRIES:
            return Failed(f"the worker died {TRIES} times at this row")
        _mark(tries, name)
        (made,) = guarded(self._work, [item])
        _mark(tries, f"-{name}")
        return made


def _died_starting(folder: Path) -> list[Path]:
    """What workers held that ended while they began; those that begin at this moment, many at once in a large pool, hold it."""
    found = [one for one in folder.glob("*.starting") if not is_held(one)]
    if len(found) > TRIES:
        time.sleep(_PAUSE)  # a worker makes its file before it holds it
        found = [one for one in found if one.exists() and not is_held(one)]
    return found


def _died(tries: Path) -> Counter[str]:
    """How many workers died at the batch, and at each of its rows: those that began and did not end."""
    marks = Counter(tries.read_text(encoding="ascii").split() if tries.exists() else ())
    return Counter({name: count - marks[f"-{name}"] for name, count in marks.items()})


def _mark(path: Path, name: str) -> None:
    with path.open("a", encoding="ascii") as file:
        file.write(f"{name}\n")


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
