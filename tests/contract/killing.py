"""Interruptions of a run at chosen writes, in this process; `tests.drill.kills` kills processes at random moments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from coalign.core import files


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@contextlib.contextmanager
def watched(seen: Callable[[Path, bytes], None]) -> Iterator[None]:
    """Call `seen` with the file and the first bytes of it right before rows are appended to it or it is put in place."""
    write_all, sync = files._write_all, files._sync

    def appending(file: IO[bytes], data: bytes) -> None:
        seen(Path(file.name), data)
        write_all(file, data)

    def placing(path: Path) -> None:
        seen(path.parent.parent / path.name, b"")
        sync(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_write_all", appending)
        patch.setattr(files, "_sync", placing)
        yield
