"""Names that living processes make use of: any number of them claim a name, and nobody takes away what has one.

A claim is a shared lock on a byte of one file that is never removed, so that it ends with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_OPEN: dict[tuple[int, Path], tuple[int, set[str]]] = {}
"""Process and file to its descriptor and the names that this process has claimed. POSIX drops every lock of a process on a
file once any of its descriptors is closed, so there is one and it stays open.
"""
_TURN = threading.RLock()


def claim(file: Path, name: str) -> None:
    """Make use of a name until this process ends; waits while one takes away what has it (`alone`). Nothing happens where
    the system or the file system has no locks.
    """
    with _TURN, contextlib.suppress(OSError):
        descriptor, own = _opened(file)
        if name not in own:
            own.add(name)
            _lock(descriptor, name, shared=True, wait=True)


@contextlib.contextmanager
def alone(file: Path, name: str) -> Iterator[bool]:
    """Whether no living process makes use of a name, nor can before the block ends. Windows has no such locks: there a folder
    with open files cannot be renamed, which the caller tries.
    """
    with _TURN:
        free, descriptor = False, -1
        with contextlib.suppress(OSError):
            descriptor, own = _opened(file)
            free = name not in own and _lock(descriptor, name, shared=False, wait=False)
        try:
            yield free
        finally:
            if free:
                _unlock(descriptor, name)


def _opened(file: Path) -> tuple[int, set[str]]:
    key = (os.getpid(), file.absolute())
    if key not in _OPEN:
        file.parent.mkdir(parents=True, exist_ok=True)
        _OPEN[key] = os.open(file, os.O_RDWR | os.O_CREAT, 0o644), set()
    return _OPEN[key]


def _lock(descriptor: int, name: str, *, shared: bool, wait: bool) -> bool:
    """Raises OSError: another process has it, or there are no locks."""
    try:
        import fcntl
    except ImportError:
        return True
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    fcntl.lockf(descriptor, how, 1, _place(name))
    return True


def _unlock(descriptor: int, name: str) -> None:
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, _place(name))


def _place(name: str) -> int:
    """The byte of the file that stands for a name."""
    return int.from_bytes(
        hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=7).digest(), "big"
    )
