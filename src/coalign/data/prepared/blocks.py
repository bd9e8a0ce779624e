"""Work on many records in numbered blocks, each made once by one of several processes: those of a launcher, helpers of this
process, or a later start after a kill.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence, Sized
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from coalign.core.files import atomic_path
from coalign.core.processes.locks import hold, release
from coalign.core.progress import progress

BLOCK = 8192
"""Records of a block."""
_LOOK = 0.1
"""Seconds between two looks at what others make."""
_STUCK = 600.0
"""Seconds without a finished block after which helpers are ended and their blocks made here."""
S = TypeVar("S", bound=Sized)


def spans_of(total: int) -> list[range]:
    """So many records in stretches of `BLOCK`."""
    return [range(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]


class Blocks(Generic[S]):
    """The blocks of some records in a folder, each a folder of its own that is there once it is whole.

    Args:
        made: what is there once all blocks are made and put together.
        spans: the records of each block, as many as its length.
        make: writes the block of the records in a span into a folder that does not exist.
    """

    def __init__(self, folder: Path, made: Path, spans: Sequence[S], make: Callable[[S, Path], None]) -> None:
        self.folder, self.made, self.make = folder, made, make
        self.spans = spans
        self.paths = [folder / f"{number:06}" for number in range(len(self.spans))]

    def work(self) -> bool:
        """Make a block that nobody else makes; False where there is none, or `finish` was not called yet."""
        for path, span in zip(self.paths, self.spans, strict=True):
            if path.exists():
                continue
            if self.made.exists():
                return False
            lock = path.with_suffix(".lock")
            try:
                if not hold(lock):
                    continue
            except FileNotFoundError:  # no folder
                return False
            try:
                if not path.exists():
                    with atomic_path(path) as temporary:
                        self.make(span, temporary)
                    return True
            finally:
                release(lock)
        return False

    def finish(self, helpers: int, label: str) -> None:
        """Make all blocks that others do not make, with so many helpers, and wait for the others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        left = dict(zip(self.paths, self.spans, strict=True))
        with (
            _helping(self, min(helpers, len(left) - 1)) as helping,
            progress(sum(map(len, self.spans)), label, unit="record") as bar,
        ):
            last = time.monotonic()
            while left:
                worked = self.work()
                for path in [one for one in left if one.exists()]:
                    bar.advance(len(left.pop(path)))
                    last = time.monotonic()
                if left and not worked:
                    time.sleep(_LOOK)
                    if time.monotonic() - last > _STUCK:
                        _end(helping)


@contextlib.contextmanager
def _helping(blocks: Blocks[Any], number: int) -> Iterator[Sequence[BaseProcess]]:
    """Processes that make blocks: forks, which have the tokenizer and share its memory. Elsewhere than on Linux there are
    none, nor in a process that must not have any.
    """
    if number < 1 or sys.platform != "linux" or multiprocessing.current_process().daemon:
        yield []
        return
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = (
        "false"  # a fork has none of the threads, and there is one for each core now
    )
    context = multiprocessing.get_context("fork")
    helping = [context.Process(target=_help, args=(blocks, os.getpid()), daemon=True) for _ in range(number)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # threads of this process, which the forks do not need
            for one in helping:
                one.start()
        yield helping
    finally:
        _end(helping)
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _help(blocks: Blocks[Any], parent: int) -> None:
    """What a helper does: blocks as long as there are any and the process it helps lives; that one tells what is wrong."""
    gc.freeze()  # so that memory that is shared is not written to
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(Exception):
        while os.getppid() == parent and blocks.work():
            pass


def _end(helping: Sequence[BaseProcess]) -> None:
    for one in helping:
        if one.pid is not None:
            one.kill()
            one.join()
