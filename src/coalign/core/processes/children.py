"""Child processes that end with the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def ending_with(parent: int) -> Callable[[], None] | None:
    """What a child does before it starts (`preexec_fn`), so that it gets SIGTERM when its parent ends, however that ends; on
    Linux, None elsewhere. The system means the thread that starts it, so that should be one that lasts.

    Args:
        parent: number of the process that starts it.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
