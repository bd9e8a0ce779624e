"""What the process that leads asks the others to do with it; see `coalign.training.distributed.leading`."""

from __future__ import annotations

import contextlib
import functools
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from coalign.core.errors import CoalignError
from coalign.core.runs import is_main_process
from coalign.training import processes
from coalign.training.processes import gathered, group_store, process_count, process_index, told
from coalign.training.task import DivergedError

T = TypeVar("T")
R = TypeVar("R")
PERIOD = 0.1
"""Seconds between two looks for work."""
WORK, END = "work", "end"


class _Group:
    """What this process knows of the others, once one of them leads.

    Attributes:
        times: how often one led.
        sent: commands of the first process so far.
        kept: what was opened last, and its key.
    """

    store: Any = None
    times: int = 0
    sent: int = 0
    kept: tuple[Any, Any] | None = None


def leads() -> bool:
    """Whether this process runs a program for itself, with others that serve it."""
    return processes.is_alone()


def all_do(function: Callable[..., T], *given: Any, **named: Any) -> T:
    """Call a function in every process, under the launcher's group; to be called by the one that leads.

    Args:
        function: of a module, as its arguments have to be things that `pickle` takes.
    """
    send((function, given, named))
    with processes.together():
        return function(*given, **named)


def by_all(function: Callable[..., T]) -> Callable[..., T]:
    """A training that every process does its part of: the one that leads has the others do it too, see `all_do`. It loads what it
    trains itself, and the first process alone writes.
    """

    @functools.wraps(function)
    def do(*given: Any, **named: Any) -> T:
        if leads():
            return all_do(do, *given, **named)
        drop()  # a generator that batches were shared with
        return function(*given, **named)

    return do


def share(function: Callable[[T], R], pieces: Sequence[T]) -> list[R]:
    """Call a function with each of some pieces of work, in as many processes; to be called by the one that leads.

    Args:
        pieces: at most as many as there are processes, see `group_size`.

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
    if _Group.kept is None or _Group.kept[0] != key:
        _Group.kept = None  # frees its memory first
        _Group.kept = (key, open_it())
    return cast(T, _Group.kept[1])


def drop() -> None:
    """Keep nothing open."""
    _Group.kept = None


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


def begin() -> None:
    """Form the group; to be called by all processes before one of them leads."""
    _Group.store, _Group.sent = group_store(f"lead/{_Group.times}"), 0
    _Group.times += 1


def send(command: Any) -> None:
    """Give the others a command; to be called by the process that leads."""
    _Group.sent += 1
    _Group.store.set(str(_Group.sent), WORK)
    with processes.together():
        told(command)


def end() -> None:
    """Let the others go; to be called by the process that leads. Not an operation of the group: after an error they may be in
    another one, and then end with this process.
    """
    with contextlib.suppress(RuntimeError):  # the store may be gone
        _Group.store.set(str(_Group.sent + 1), END)


def serve() -> None:
    """Do what the first process asks for until it needs nothing more. Between two commands it may work alone for hours, longer
    than an operation of the group may wait.
    """
    while True:
        _Group.sent += 1
        key = str(_Group.sent)
        if _told_to(key) == END:
            drop()
            return
        command: Any = told(cast(Any, None))
        function, given, named = command
        with contextlib.suppress(
            DivergedError
        ):  # all found it: the one that leads says whether that is the end
            function(*given, **named)


def _told_to(key: str) -> str:
    """What stands under a key of the store, once something does; the end where the store is gone with the process that leads."""
    with contextlib.suppress(RuntimeError):
        while not _Group.store.check([key]):
            time.sleep(PERIOD)
        return _Group.store.get(key).decode()
    return END
