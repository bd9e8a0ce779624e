"""A pool of one worker that is this process: everything of an engine but the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from coalign.core.engines.batches import BatchWorker, Waiting, results_of
from coalign.core.engines.spool import Spool


def over_this_process(
    batches: Iterable[Sequence[Any]], make: Callable[[], Any], *_: Any
) -> Iterator[list[Any]]:
    """Stands in for `over_ray`."""
    spool = Spool(map(list, batches))
    try:
        worker = BatchWorker(make, Waiting(spool))
        for number in range(len(spool)):
            yield results_of(worker(number))
    finally:
        spool.remove()
