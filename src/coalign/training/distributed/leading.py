"""One process leads: it runs a program, and the others of the launcher do with it what all of them can do together.

A system that samples, judges and learns in turns reads and writes files of its own between; only one process may. `led` lets
the first process run it as if it were alone, while the others wait for work: batches of answers and of scores, of which each
process makes some, and trainings, which all do together. What one process would make of a batch any of them makes, so rows
are the same.
"""

from __future__ import annotations

import functools
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from coalign.core.errors import CoalignError
from coalign.core.runs import is_main_process
from coalign.training import processes
from coalign.training.processes import assert_group, gathered, group_store, process_count, process_index, told

T = TypeVar("T")
R = TypeVar("R")
PERIOD = 0.1
"""Seconds between two looks for work."""


class _Lead:
    """What this process knows of its lead.

    Attributes:
        sent: commands of the first process so far.
        kept: what was opened last, and its key.
    """

    store: Any = None
    sent: int = 0
    kept: tuple[Any, Any] | None = None


def led(work: Callable[..., T]) -> Callable[..., T]:
    """A function that the first process of a launcher runs while the others serve it; they get None. Without a launcher it is
    the function itself.

    Raises:
        ConfigError: a launcher started several processes that do not know of each other.
    """

    @functools.wraps(work)
    def run(*given: Any, **named: Any) -> T:
        if process_count() == 1:
            return work(*given, **named)
        assert_group(process_count())
        _Lead.store = group_store("lead")
        if not is_main_process():
            return cast(T, _serve())
        from coalign.models.backends import open as backends
        from coalign.training.distributed.shared_generator import shared

        try:
            with processes.alone(), backends.wrapped(shared):
                return work(*given, **named)
        finally:
            _send(None)

    return run


def leads() -> bool:
    """Whether this process runs a program for itself, with others that serve it."""
    return processes.is_alone()


def all_do(function: Callable[..., T], *given: Any, **named: Any) -> T:
    """Call a function in every process, under the launcher's group; to be called by the one that leads.

    Args:
        function: of a module, as its arguments have to be things that `pickle` takes.
    """
    _send((function, given, named))
    with processes.together():
        return function(*given, **named)


def share(function: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
    """Call a function with each of some pieces of work, in as many processes; to be called by the one that leads.

    Args:
        pieces: at most as many as there are processes, see `followers`.

    Raises:
        Exception: what the function raised in any of them, of the first one.
    """
    outcomes = all_do(_own_piece, function, list(pieces))
    for _, error in outcomes:
        if error is not None:
            raise error
    return [value for value, _ in outcomes[: len(pieces)]]


def group_size() -> int:
    """The processes of the launcher, for the one that leads, too."""
    with processes.together():
        return process_count()


def kept(key: Any, open_it: Callable[[], T]) -> T:
    """What was opened under this key, else what `open_it` gives in place of what was opened before it."""
    if _Lead.kept is None or _Lead.kept[0] != key:
        _Lead.kept = None  # frees its memory first
        _Lead.kept = (key, open_it())
    return cast(T, _Lead.kept[1])


def drop() -> None:
    """Keep nothing open."""
    _Lead.kept = None


def _own_piece(function: Callable[[T], R], pieces: list[T]) -> list[tuple[Any, Exception | None]]:
    place, value, failure = process_index(), None, None
    if place < len(pieces):
        try:
            value = function(pieces[place])
        except Exception as error:
            failure = error if is_main_process() else _sendable(error)
    return gathered([(value, failure)])


def _sendable(error: Exception) -> Exception:
    """The error, or its words where it does not survive the way to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return CoalignError(str(error))
    return error


def _send(command: Any) -> None:
    _Lead.sent += 1
    with processes.together():
        _Lead.store.set(str(_Lead.sent), "")
        told(command)


def _serve() -> None:
    """Do what the first process asks for until it needs nothing more. Between two commands it may work alone for hours, longer
    than an operation of the group may wait.
    """
    while True:
        _Lead.sent += 1
        while not _Lead.store.check([str(_Lead.sent)]):
            time.sleep(PERIOD)
        command = told(None)
        if command is None:
            drop()
            return
        function, given, named = command
        function(*given, **named)
