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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from coalign.core.errors import CoalignError
from coalign.models.generation.decode_loop import DecodeLoop, Decoding
from coalign.models.generation.endings import Endings
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.prompt_logps import prompt_logps
from coalign.models.types import Generation, Generator, Piece, Sampling, Streaming, goes_on

if TYPE_CHECKING:
    from coalign.data.media.prompts import PicturePrompt

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
        echo: the prompt stands before every sample, with the log-probabilities of its tokens where they are asked for.
        decode: something is to be sampled; else the prompt alone is given back.
        model: which of the worker's models is asked.
        pictures: that a local model is shown.
        found: tokens of the prompt whose states were kept from earlier ones; None where that is not known.
    """

    prompt: Any
    sampling: Sampling
    seeded: bool
    streaming: bool
    tell: Callable[[Piece | Exception], None]
    cancelled: bool = False
    ids: list[int] = field(default_factory=list)
    echo: bool = False
    decode: bool = True
    model: str = ""
    pictures: PicturePrompt | None = None
    found: int | None = None


@dataclass(eq=False)
class _Call:
    """What computes with a model beside its decoding.

    Attributes:
        model: its name among the worker's models.
    """

    model: str
    compute: Callable[[], Any]
    result: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Compute, unless nobody waits any more."""
        if not self.result.set_running_or_notify_cancel():
            return
        try:
            self.result.set_result(self.compute())
        except Exception as error:
            self.result.set_exception(error)


@dataclass(eq=False)
class _Open:
    """A work that is being decoded: what its samples have said so far, and which of them are whole."""

    work: Work
    before: Callable[[Generation], Generation]
    said: dict[int, int] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)

    def take(self, piece: Piece, behind: dict[int, int]) -> Piece | None:
        """What is new in a piece, given how many characters this decoding has said (`behind`, which it adds to)."""
        start = behind.get(piece.sample, 0)
        behind[piece.sample] = start + len(piece.text)
        known = self.said.get(piece.sample, 0)
        text = piece.text[max(known - start, 0) :]
        self.said[piece.sample] = max(known, behind[piece.sample])
        if piece.sample in self.whole or (not text and piece.generation is None):
            return None
        if piece.generation is None:
            return replace(piece, text=text)
        self.whole.add(piece.sample)
        return replace(piece, text=text, generation=self.before(piece.generation))


class Worker(Protocol):
    """Decodes what it is given."""

    def submit(self, works: list[Work]) -> None:
        """Queue prompts of one request."""
        ...

    def call(self, model: str, compute: Callable[[], Any]) -> Future[Any]:
        """Queue what computes with the model of this name, which nothing else does at that time."""
        ...

    @property
    def waiting(self) -> int:
        """Prompts that are not answered yet."""
        ...

    def close(self) -> None: ...


def open_worker(
    generators: Mapping[str, Generator], use: Callable[[str], None] = lambda name: None
) -> Worker:
    """The worker that suits what answers.

    Args:
        generators: by the name of the model that a work asks for; several are local ones that share their weights.
        use: called with a name before that model computes.
    """
    local = {name: one for name, one in generators.items() if isinstance(one, TransformersGenerator)}
    if len(local) == len(generators):
        return LoopWorker(local, use)
    (only,) = generators.values()
    return CallWorker(only)


class _Thread:
    """A queue and the thread that works it off."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Sequence[Work | _Call]] = queue.Queue()
        self._ending = threading.Event()
        self._count, self._lock = 0, threading.Lock()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, works: list[Work]) -> None:
        with self._lock:
            self._count += len(works)
        self._queue.put(works)

    def call(self, model: str, compute: Callable[[], Any]) -> Future[Any]:
        made = _Call(model, compute)
        with self._lock:
            self._count += 1
        self._queue.put([made])
        return made.result

    @property
    def waiting(self) -> int:
        return self._count

    def close(self) -> None:
        self._ending.set()
        self._thread.join(10)

    def _finished(self) -> None:
        with self._lock:
            self._count -= 1

    def _arrived(self, timeout: float) -> list[Work | _Call]:
        """What has come; waits for the first, and a little for others that arrive with it. Nothing after `timeout`."""
        found: list[Work | _Call] = []
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
    """Over Transformers models: a loop without end for each, which take turns at every token."""

    def __init__(self, generators: Mapping[str, TransformersGenerator], use: Callable[[str], None]) -> None:
        self._turns = {name: _Turn(one, self._finished) for name, one in generators.items()}
        self._use = use
        super().__init__()

    def _run(self) -> None:
        while not self._ending.is_set():
            idle = all(one.is_idle for one in self._turns.values())
            for one in self._turns.values() if idle else ():
                one.settle()
            for work in self._arrived(TURN if idle else 0.0):
                self._use(work.model)
                if isinstance(work, Work):
                    self._turns[work.model].begin(work)
                else:
                    work.run()
                    self._finished()
            for name, one in self._turns.items():
                if not one.is_idle:
                    self._use(name)
                    one.step()


class _Turn:
    """What one model is decoding.

    When a step fails, what is under way is decoded one by one, from the beginning and without saying anything twice:
    whoever's own request it was that failed is told, and the others get their answers.
    """

    def __init__(self, generator: TransformersGenerator, finished: Callable[[], None]) -> None:
        self._generator, self._finished = generator, finished
        self._loop = DecodeLoop(generator)
        self._settles = True
        self._open: dict[Decoding, _Open] = {}
        self._behind: dict[Decoding, dict[int, int]] = {}

    @property
    def is_idle(self) -> bool:
        return self._loop.is_idle and not self._open

    def settle(self) -> None:
        """What can wait until nothing is decoded. Where it fails answers go on without it."""
        if self._settles:
            try:
                self._generator.settle()
            except Exception as error:
                self._settles = False
                logger.error("the answers could not be compared with the model's own", exc_info=error)

    def step(self) -> None:
        """Decode a token of everything; whoever's request fails is told."""
        try:
            self._step()
        except Exception as error:
            self._one_by_one(error)

    def begin(self, work: Work) -> None:
        """Take a work in."""
        try:
            before = echo_of(self._generator, work)
            if work.sampling.grammar is not None:
                self._generator.matcher(work.sampling.grammar)
        except Exception as error:
            self._told(work, error)
            return
        opened = _Open(work, before)
        if work.decode:
            self._add(opened)
            return
        for sample in range(work.sampling.n):
            whole = before(Generation("", finish_reason="length", logprobs=[], tokens=[], top_logprobs=[]))
            work.tell(Piece(0, sample, whole.text, whole))
        self._finished()

    def _add(self, opened: _Open) -> None:
        work = opened.work
        made = Decoding(
            work.ids,
            work.sampling,
            goes_on=goes_on(work.prompt),
            streaming=work.streaming,
            pictures=work.pictures,
        )
        self._open[made], self._behind[made] = opened, {}
        self._loop.add([made])

    def _step(self) -> None:
        for decoding, opened in list(self._open.items()):
            if opened.work.cancelled:
                decoding.cancelled = True
                self._close(decoding)
        for decoding, piece in self._loop.step() if not self._loop.is_idle else ():
            if decoding not in self._open:
                continue
            opened = self._open[decoding]
            opened.work.found = decoding.found
            new = opened.take(piece, self._behind[decoding])
            if len(opened.whole) == opened.work.sampling.n:
                self._close(decoding)
            if new is not None:
                opened.work.tell(new)

    def _one_by_one(self, error: Exception) -> None:
        """Find whose request makes the loop fail."""
        suspects = list(self._open.values())
        self._forget()
        if len(suspects) == 1:
            self._told(suspects[0].work, error)
            return
        for opened in suspects:
            self._add(opened)
            try:
                while self._open:
                    self._step()
            except Exception as own:
                self._forget()
                self._told(opened.work, own)

    def _forget(self) -> None:
        self._loop.clear()
        self._open.clear()
        self._behind.clear()

    def _told(self, work: Work, error: Exception) -> None:
        if not isinstance(error, CoalignError):
            logger.error("decoding failed", exc_info=error)
        self._finished()
        work.tell(error)

    def _close(self, decoding: Decoding) -> None:
        del self._open[decoding], self._behind[decoding]
        self._finished()


def echo_of(generator: TransformersGenerator, work: Work) -> Callable[[Generation], Generation]:
    """What puts a prompt that is to be echoed before a sample of it."""
    if not work.echo:
        return lambda one: one
    endings = Endings(generator.tokenizer, ())
    prompt, wanted = str(work.prompt), work.sampling.wants_logprobs
    logps, tops = prompt_logps(generator.model, work.ids, work.sampling.top_logprobs) if wanted else ([], [])
    tokens = [endings.alternative(one) for one in work.ids]
    named = [None if top is None else [(endings.alternative(one), logp) for one, logp in top] for top in tops]

    def echoed(one: Generation) -> Generation:
        if not wanted:
            return replace(one, text=prompt + one.text)
        return replace(
            one,
            text=prompt + one.text,
            tokens=[*tokens, *(one.tokens or [])],
            logprobs=cast("list[float]", [*logps, *(one.logprobs or [])]),
            top_logprobs=cast("Any", [*named, *(one.top_logprobs or [])])
            if work.sampling.top_logprobs
            else None,
        )

    return echoed


class CallWorker(_Thread):
    """Over any generator: calls it with the requests that wait and sample alike."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        super().__init__()

    def _run(self) -> None:
        while not self._ending.is_set():
            groups: dict[Any, list[Work]] = {}
            for work in self._arrived(TURN):
                if not isinstance(work, Work):
                    work.run()
                    self._finished()
                    continue
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
