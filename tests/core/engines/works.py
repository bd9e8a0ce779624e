"""What workers of the tests do: in a module of its own, so that other processes can import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from coalign.core.errors import ConfigError


def doubler() -> Callable[[Sequence[int]], list[int]]:
    return lambda numbers: [2 * one for one in numbers]


def picky() -> Callable[[Sequence[int]], list[float]]:
    """Cannot divide by some numbers, and so fails on batches that hold one."""
    return lambda numbers: [10 / (one % 5) for one in numbers]


def broken() -> Callable[[Sequence[int]], list[int]]:
    raise ConfigError("model: 'nowhere' is not there.", hint="Name another.")


class DiesAt:
    """Doubles; its process is killed at a number, the first `times` times."""

    def __init__(self, number: int, marks: Path, times: int = 1) -> None:
        self.number, self.marks, self.times = number, marks, times

    def __call__(self) -> Callable[[Sequence[int]], list[int]]:
        return self.work

    def work(self, numbers: Sequence[int]) -> list[int]:
        if self.number in numbers and len(list(self.marks.iterdir())) < self.times:
            (self.marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [2 * one for one in numbers]


class DiesWhileItBegins:
    def __call__(self) -> Callable[[Sequence[int]], list[int]]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class OnMachines:
    """Doubles, and tells on which machine of a Ray cluster, so many seconds a batch.

    Args:
        meet: wait in each batch until workers of so many machines have begun, which leave marks in a folder.
    """

    def __init__(self, marks: Path, meet: int = 1, seconds: float = 0.0) -> None:
        self.marks, self.meet, self.seconds = marks, meet, seconds

    def __call__(self) -> Callable[[Sequence[int]], list[tuple[int, str]]]:
        import ray

        self.machine = ray.get_runtime_context().get_node_id()
        (self.marks / self.machine).touch()
        return self.work

    def work(self, numbers: Sequence[int]) -> list[tuple[int, str]]:
        limit = time.monotonic() + 120
        while len(list(self.marks.iterdir())) < self.meet and time.monotonic() < limit:
            time.sleep(0.1)
        time.sleep(self.seconds)
        return [(2 * one, self.machine) for one in numbers]


class LooksInto:
    """Doubles, and tells what lies in a folder where it works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Callable[[Sequence[int]], list[tuple[int, list[str]]]]:
        return lambda numbers: [(2 * one, os.listdir(self.folder)) for one in numbers]
