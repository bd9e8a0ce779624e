"""Wall time and peak memory of a stage."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Spent:
    """What a stage took.

    Attributes:
        seconds: wall time.
        peak_mb: highest resident memory of this process during the stage, in MB; where the system cannot reset its
            mark (not Linux), since the process began.
    """

    seconds: float = 0.0
    peak_mb: float = 0.0


@contextlib.contextmanager
def measure() -> Iterator[Spent]:
    """Fill in the yielded `Spent` when the block ends."""
    spent = Spent()
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # resets the peak of resident memory
    started = time.monotonic()
    try:
        yield spent
    finally:
        spent.seconds = time.monotonic() - started
        spent.peak_mb = peak_memory_mb()


def peak_memory_mb() -> float:
    """Peak resident memory in MB since the last reset."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        line = next(one for one in _STATUS.read_text().splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20  # type: ignore[attr-defined]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
