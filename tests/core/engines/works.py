"""What workers of the tests do: in a module of its own, so that other processes can import it."""

from __future__ import annotations

import os
import signal
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
