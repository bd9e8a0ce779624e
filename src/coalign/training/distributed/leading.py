"""One process leads: it runs a program, and the others of the launcher do with it what all of them can do together.

A system that samples, judges and learns in turns reads and writes files of its own between; only one process may. `led` lets
the first process run it as if it were alone, while the others wait for work: batches of answers and of scores, of which each
process makes some, and trainings, which all do together (`coalign.training.distributed.shared_work`). What one process would
make of a batch any of them makes, so rows are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from coalign.core.runs import is_main_process
from coalign.training import processes
from coalign.training.distributed.shared_work import begin, end, serve
from coalign.training.processes import assert_group, process_count

T = TypeVar("T")


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
        begin()
        if not is_main_process():
            return cast(T, serve())
        from coalign.models.backends import open as backends
        from coalign.training.distributed.shared_generator import shared

        try:
            with processes.alone(), backends.wrapped(shared):
                return work(*given, **named)
        finally:
            end()

    return run
