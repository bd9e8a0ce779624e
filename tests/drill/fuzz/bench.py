"""Calls of the command line in this process, each of which must end: with its work done, or with what is wrong in words."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import pytest

from coalign.cli.main import main
from coalign.core.faults import FAULT
from tests.contract.small import SMALL, furnish

T = TypeVar("T")
LONGEST = 30.0
"""Seconds after which an input counts as one that hangs; nearly all take less than one."""


class HangError(BaseException):
    """Raised wherever the code is after `LONGEST` seconds: nothing catches it."""


class Result(NamedTuple):
    """How a call of the command line ended."""

    code: int
    out: str
    err: str


class FoundError(AssertionError):
    """An input was taken or refused in a way that is a fault of ours."""


@contextlib.contextmanager
def watchdog(seconds: float = LONGEST) -> Iterator[None]:
    """End what takes longer than so many seconds with `HangError`."""

    def bark(signal_number: int, frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """A folder with tiny models, in which commands are called.

    Attributes:
        root: with the models and the files of all tiny runs.
        folder: of the input that is tried, empty at its start.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.number = 0
        self.folder = root
        self.open = contextlib.ExitStack()
        self._opened: dict[Any, Any] = {}

    def furnish(self, slug: str) -> None:
        """The files and models of a system's tiny run, in `root`."""
        furnish(self.root, SMALL[slug])

    def opened(self, make: Callable[[], contextlib.AbstractContextManager[T]]) -> T:
        """What `make` opens, once for all inputs; `open` closes it."""
        if make not in self._opened:
            self._opened[make] = self.open.enter_context(make())
        return self._opened[make]

    def next_folder(self) -> Path:
        """A new folder, in which what follows works."""
        self.number += 1
        self.folder = self.root / f"input-{self.number}"
        self.folder.mkdir()
        return self.folder

    def coalign(self, *argv: str, given: bytes = b"") -> Result:
        """Call the command line as a process would be called, with `given` on standard input.

        Raises:
            FoundError: it showed a traceback, told of a fault of its own, wrote what cannot be shown, or failed without a word.
        """
        out, err = (
            io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=how)
            for how in ("strict", "backslashreplace")
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as ended:
                main(argv)
        texts = []
        for one in (out, err):
            one.flush()
            texts.append(one.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]
        result = Result(int(ended.value.code or 0), *texts)
        for what in (FAULT, "Traceback (most recent"):
            if what in result.err + result.out:
                raise FoundError(_fault_in(result))
        if result.code not in (0, 1, 2):
            raise FoundError(f"code {result.code}: {result.err[-300:]}")
        if result.code and not (result.err + result.out).strip():
            raise FoundError(f"code {result.code} without a word")
        return result


def _fault_in(result: Result) -> str:
    """The last lines of the traceback that a fault of ours was kept in."""
    text = result.err + result.out
    kept = text.rpartition("Its traceback: ")[2].split("\n")[0]
    shown = Path(kept).read_text(encoding="utf-8") if kept and Path(kept).is_file() else text
    return "\n".join(shown.strip().splitlines()[-4:])[-700:]
