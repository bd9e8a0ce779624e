"""Which cores are there to work on: those that this process may use, less what other programs take of them.

Threads of one product wait for each other at its end. Where another program holds a core, the wait is long, and what waits
by spinning takes the cores that the others need; so waiting ends soon (`end_spinning`), and there are no more threads than
cores that are free (`Cores.free`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
"""The environment variable that says how many threads a process uses, and those that it starts."""
_SPINNING = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "1"}
_KERNELS = {"LRU_CACHE_CAPACITY": "32", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""More than one step of a model has; PyTorch keeps 1,024 and oneDNN as many, at up to 6 MB a size of a batch."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")


def end_spinning() -> None:
    """Let threads of OpenMP that wait give up their core soon. Counts for a library that is loaded afterwards.

    Some thousand rounds cost nothing on free cores, where the next product comes sooner; with none at all every product wakes
    its threads. What the environment says already stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in _SPINNING.items():
            os.environ.setdefault(name, value)


def keep_few_kernels() -> None:
    """Let oneDNN forget the kernels of batch sizes that were long ago. Counts where it has not multiplied yet.

    It makes one for each number of rows that a product meets, and rows of decoding and of training are of any number: with
    what it keeps by itself a server grows by 900 MB. A new kernel takes less than a millisecond. What the environment says
    already stays.
    """
    for name, value in _KERNELS.items():
        os.environ.setdefault(name, value)


def usable_cores() -> int:
    """Cores that this process may use: of its affinity, within the quota of its container, at least one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def _quota() -> float | None:
    """Cores that a control group allows, of either version; None where it sets no limit."""
    try:
        if _QUOTA.is_file():
            limit, period = _QUOTA.read_text(encoding="utf-8").split()
        else:
            limit = _QUOTA_1.read_text(encoding="utf-8").strip()
            period = _QUOTA_1.with_name("cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        return int(limit) / int(period) if limit.isdigit() else None
    except (OSError, ValueError):
        return None


class Cores:
    """What other programs take, measured from one question to the next.

    Args:
        clock: monotonic seconds.
        taken: seconds that all programs, and seconds that this one and what it started and saw end, have worked on the
            cores that this process may use.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        taken: Callable[[], tuple[float, float]] | None = None,
    ) -> None:
        self._clock = clock
        self._taken = taken or _taken
        self._usable = usable_cores()
        self._since, self._before = clock(), self._taken()

    def free(self, least: float) -> int | None:
        """Cores to work on: those usable less those that others took since the last answer, rounded, at least one.

        Returns:
            None where less than `least` seconds went by since the last answer: too short to tell.
        """
        seconds = self._clock() - self._since
        if seconds < least:
            return None
        everybody, own = self._taken()
        others = max(0.0, (everybody - self._before[0]) - (own - self._before[1])) / seconds
        self._since, self._before = self._clock(), (everybody, own)
        return max(1, math.floor(self._usable - others + 0.5))


_watched: Cores | None = None


def watch() -> None:
    """Look from now on what other programs take (`watched`), for a process of the command line whose threads nobody chose:
    where `OMP_NUM_THREADS` is set, as launchers of several processes do, there is nothing to choose.
    """
    global _watched
    end_spinning()
    _watched = None if THREADS in os.environ else Cores()


def watched() -> Cores | None:
    """What `watch` began."""
    return _watched


def _taken() -> tuple[float, float]:
    import psutil

    cores = psutil.cpu_times(percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(cores))
    everybody = sum(
        sum(one)
        - one.idle
        - getattr(one, "iowait", 0.0)
        - getattr(one, "guest", 0.0)
        - getattr(one, "guest_nice", 0.0)
        for place, one in enumerate(cores)
        if place in mine
    )
    own = os.times()
    return everybody, own.user + own.system + own.children_user + own.children_system
