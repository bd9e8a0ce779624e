"""One thread that owns the model: requests that arrive together are decoded together.

Over a Transformers model prompts join and leave at every token (`models/decode_loop.py`), whatever their sampling. Any
other generator (a decoding method, vLLM, an endpoint) gets the requests that wait and sample alike in one call.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from coalign.core.errors import CoalignError
from coalign.models.generation.decode_loop import DecodeLoop, Decoding
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Generator, Piece, Sampling, Streaming, goes_on

logger = logging.getLogger(__name__)

TOGETHER = 0.005
"""Seconds that the first of several requests waits for the others."""
TURN = 0.2
"""Seconds after which an idle worker looks whether it is to end."""


@dataclass(eq=False)
class Work:
    """One prompt of a request.

    Attributes:
        prompt: messages or text.
        sampling: how.
        seeded: the request asks for this seed; else any will do.
        streaming: pieces are wanted as they come.
        tell: called from the worker's thread with each piece, or with the error that ended it.
        cancelled: the one who asked went away.
        ids: tokens of the prompt, where they are known.
    """

    prompt: Any
    sampling: Sampling
    seeded: bool
    streaming: bool
    tell: Callable[[Piece | Exception], None]
    cancelled: bool = False
    ids: list[int] = field(default_factory=list)


class Worker(Protocol):
    """Decodes what it is given."""

    def submit(self, works: list[Work]) -> None:
        """Queue prompts of one request."""
        ...

    @property
    def waiting(self) -> int:
        """Prompts that are not answered yet."""
        ...

    def close(self) -> None: ...


def open_worker(generator: Generator) -> Worker:
    """The worker that suits a generator."""
    return LoopWorker(generator) if isinstance(generator, TransformersGenerator) else CallWorker(generator)


class _Thread:
    """A queue and the thread that works it off."""

    def __init__(self) -> None:
        self._queue: queue.Queue[list[Work]] = queue.Queue()
        self._ending = threading.Event()
        self._count, self._lock = 0, threading.Lock()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, works: list[Work]) -> None:
        with self._lock:
            self._count += len(works)
        self._queue.put(works)

    @property
    def waiting(self) -> int:
        return self._count

    def close(self) -> None:
        self._ending.set()
        self._thread.join(10)

    def _finished(self) -> None:
        with self._lock:
            self._count -= 1

    def _arrived(self, timeout: float) -> list[Work]:
        """What has come; waits for the first, and a little for others that arrive with it. Nothing after `timeout`."""
        found: list[Work] = []
        try:
            found += self._queue.get(timeout=timeout) if timeout else self._queue.get_nowait()
            if timeout:
                time.sleep(TOGETHER)
            while True:
                found += self._queue.get_nowait()
        except queue.Empty:
            return found

    def _run(self) -> None:
        raise NotImplementedError


class LoopWorker(_Thread):
    """Over a Transformers model: one loop without end."""

    def __init__(self, generator: TransformersGenerator) -> None:
        self._loop = DecodeLoop(generator)
        self._open: dict[Decoding, tuple[Work, int]] = {}  # (work, samples that are missing)
        super().__init__()

    def _run(self) -> None:
        while not self._ending.is_set():
            works = self._arrived(TURN if self._loop.is_idle else 0.0)
            self._loop.add(self._decoding(work) for work in works)
            for decoding, (work, _) in list(self._open.items()):
                if work.cancelled:
                    decoding.cancelled = True
                    self._close(decoding)
            try:
                pieces = self._loop.step() if not self._loop.is_idle else []
            except Exception as error:  # the server goes on: whoever was being served is told
                logger.exception("decoding failed")
                self._loop.clear()
                for decoding, (work, _) in list(self._open.items()):
                    self._close(decoding)
                    work.tell(error)
                continue
            for decoding, piece in pieces:
                self._pass_on(decoding, piece)

    def _decoding(self, work: Work) -> Decoding:
        made = Decoding(work.ids, work.sampling, goes_on=goes_on(work.prompt), streaming=work.streaming)
        self._open[made] = (work, work.sampling.n)
        return made

    def _pass_on(self, decoding: Decoding, piece: Piece) -> None:
        if decoding not in self._open:
            return
        work, missing = self._open[decoding]
        if piece.generation is not None:
            missing -= 1
            self._open[decoding] = (work, missing)
        if not missing:
            self._close(decoding)
        work.tell(piece)

    def _close(self, decoding: Decoding) -> None:
        del self._open[decoding]
        self._finished()


class CallWorker(_Thread):
    """Over any generator: calls it with the requests that wait and sample alike."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        super().__init__()

    def _run(self) -> None:
        while not self._ending.is_set():
            groups: dict[Any, list[Work]] = {}
            for work in self._arrived(TURN):
                groups.setdefault(self._alike(work), []).append(work)
            for group in groups.values():
                self._answer([work for work in group if not work.cancelled])
                for _ in group:
                    self._finished()

    def _alike(self, work: Work) -> Any:
        """Works with the same key go into one call: a seed belongs to a call of its own, a stream too."""
        alone = work.streaming or (work.seeded and work.sampling.temperature > 0)
        return id(work) if alone else replace(work.sampling, seed=0)

    def _answer(self, works: list[Work]) -> None:
        if not works:
            return
        sampling = works[0].sampling
        if len(works) > 1:
            sampling = replace(sampling, seed=secrets.randbits(31))
        try:
            if works[0].streaming and hasattr(self._generator, "stream"):
                for piece in cast(Streaming, self._generator).stream([works[0].prompt], sampling):
                    works[0].tell(piece)
                    if works[0].cancelled:
                        return
                return
            results = self._generator.generate([work.prompt for work in works], sampling)
        except Exception as error:
            self._failed(works, error)
            return
        for work, samples in zip(works, results, strict=True):
            for number, one in enumerate(samples):
                work.tell(Piece(0, number, one.text, one))

    def _failed(self, works: list[Work], error: Exception) -> None:
        if len(works) == 1:
            if not isinstance(error, CoalignError):
                logger.error("decoding failed", exc_info=error)
            works[0].tell(error)
            return
        for work in works:  # the error is one prompt's: the others shall have their answer
            self._answer([work])
