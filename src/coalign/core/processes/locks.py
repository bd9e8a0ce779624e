"""A file that one process holds until it ends, however it ends, on Linux, macOS and Windows; and which process that is."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from pathlib import Path

_HELD: dict[Path, int] = {}
_PLACE = 1 << 30
"""The byte that is locked: Windows keeps others from reading what is locked, and this lies beyond the text."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HELD.clear)  # a fork has none of its parent's locks


def hold(path: Path) -> bool:
    """Hold the file for this process and write into it who does; False where another process holds it."""
    if path.resolve() in _HELD:
        return True
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if not _try_lock(file):
        os.close(file)
        return False
    _HELD[path.resolve()] = file
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()} {platform.node()}\n".encode())
    return True


def release(path: Path) -> None:
    """Hold the file no longer, and remove it."""
    file = _HELD.pop(path.resolve(), None)
    if file is not None:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)


def is_held(path: Path) -> bool:
    """Whether a living process holds the file."""
    if path.resolve() in _HELD:
        return True
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(file)
    finally:
        os.close(file)


def holder(path: Path) -> int | None:
    """The process on this machine that holds the file; None where none does, or it is another machine's."""
    if path.resolve() in _HELD:
        return os.getpid()  # its file is not opened: POSIX drops the lock when any descriptor of it is closed
    if not is_held(path):
        return None
    try:
        number, _, machine = path.read_text(encoding="utf-8").strip().partition(" ")
    except (OSError, ValueError):
        return None
    return int(number) if number.isdigit() and machine == platform.node() else None


def _try_lock(file: int) -> bool:
    """Take the lock; True also where the file system or the platform has none."""
    try:
        import fcntl
    except ImportError:
        return _try_windows_lock(file)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _PLACE)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _try_windows_lock(file: int) -> bool:
    try:
        import msvcrt
    except ImportError:
        return True
    windows: object = msvcrt
    try:
        os.lseek(file, _PLACE, os.SEEK_SET)
        windows.locking(file, windows.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    finally:
        os.lseek(file, 0, os.SEEK_SET)
    return True
