"""Requests under way at the same time, in threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    items: Sequence[Item], work: Callable[[Item], Result], at_once: int
) -> Iterator[tuple[Item, Result | BaseException]]:
    """(item, what came of it) as items finish. After a failure nothing more is begun; what is under way is given first.

    The threads are daemons: an interrupted process does not wait for answers that are under way.

    Args:
        work: is called in threads; what it raises is given as the result.
        at_once: most items under way.
    """
    outcomes: queue.SimpleQueue[tuple[Item, Result | BaseException] | None] = queue.SimpleQueue()
    waiting, lock, stop = iter(items), threading.Lock(), threading.Event()

    def run() -> None:
        while not stop.is_set():
            with lock:
                following = next(waiting, None)
            if following is None:
                break
            try:
                outcomes.put((following, work(following)))
            except BaseException as error:
                stop.set()
                outcomes.put((following, error))
        outcomes.put(None)

    count = min(at_once, len(items))
    for number in range(count):
        threading.Thread(target=run, name=f"request-{number}", daemon=True).start()
    try:
        while count:
            outcome = outcomes.get()
            if outcome is None:
                count -= 1
            else:
                yield outcome
    finally:
        stop.set()
