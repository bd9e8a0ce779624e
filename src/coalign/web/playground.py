"""Models that answer in a page: a few are kept loaded, each works for one request at a time."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, build, option, required
from coalign.data.records import Messages
from coalign.models.types import Sampling, Streaming
from coalign.web.local import json_object

Open = Callable[[str], tuple[Streaming, bool]]
"""Loads a model by name; says whether it takes chat messages."""


@dataclass(kw_only=True)
class Request:
    """What a page asks for."""

    model: str = required("name of a model")
    prompt: str = required("what the user says")
    max_new_tokens: Count = option(128, "most tokens of the answer")
    temperature: NonNegative = option(0.7, "0 takes the most probable token")
    top_p: Fraction = option(0.95, "nucleus of the sampling")
    seed: CountOrZero = option(0, "of the sampling")

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("prompt is empty")

    def sampling(self) -> Sampling:
        return Sampling(self.max_new_tokens, self.temperature, self.top_p, seed=self.seed)


class Models:
    """Loaded models.

    Args:
        names: the names that may be asked for, and what each loads (a hub id, a folder).
        load: how a model is loaded.
        keep: models that stay in memory; the one unused for longest leaves.
    """

    def __init__(self, names: Mapping[str, str], load: Open | None = None, *, keep: int = 2) -> None:
        self.names = dict(names)
        self._load = load or load_streaming
        self._keep = keep
        self._loading = threading.Lock()
        self._open: OrderedDict[str, tuple[Streaming, bool, threading.Lock]] = OrderedDict()

    def answer(self, request: Request) -> Iterator[dict[str, Any]]:
        """What the page is told: states, pieces of text, at last the figures; an error ends it.

        Closing the iterator stops the model.
        """
        try:
            yield from self._answer(request)
        except CoalignError as error:
            yield {"error": str(error)}

    def _answer(self, request: Request) -> Iterator[dict[str, Any]]:
        yield {"state": "Loading the model …"}
        streaming, chat, busy = self._opened(request.model)
        prompt: Messages | str = [{"role": "user", "content": request.prompt}] if chat else request.prompt
        yield {"state": "Waiting for the model …"}
        with busy:
            started = time.monotonic()
            yield {"state": "Answering …"}
            for piece in streaming.stream([prompt], request.sampling()):
                if piece.text:
                    yield {"text": piece.text}
                if piece.generation is not None:
                    yield {
                        "done": True,
                        "tokens": piece.generation.length,
                        "finish_reason": piece.generation.finish_reason,
                        "seconds": time.monotonic() - started,
                    }

    def _opened(self, name: str) -> tuple[Streaming, bool, threading.Lock]:
        if name not in self.names:
            raise ConfigError(f"{name!r} is not a model of this page.")
        with self._loading:
            if name not in self._open:
                while len(self._open) >= self._keep:
                    self._open.popitem(last=False)
                self._open[name] = (*self._load(self.names[name]), threading.Lock())
            self._open.move_to_end(name)
            return self._open[name]


def load_streaming(model: str) -> tuple[Streaming, bool]:
    """A Transformers model."""
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.models.generation.generator import TransformersGenerator
    from coalign.models.options import ModelOptions

    tokenizer = load_tokenizer(model)
    policy = load_model(ModelOptions(model=model), training=False)
    return TransformersGenerator(policy, tokenizer), bool(tokenizer.chat_template)


async def parse_request(request: Any) -> Request:
    """The request in a JSON body.

    Raises:
        ConfigError: it is not JSON, or a field is missing, unknown or out of range.
    """
    return build(Request, await json_object(request), where="request")


async def as_lines(events: Iterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Events as one JSON object a line, made in a thread; when the reader goes away, the work ends."""
    from starlette.concurrency import run_in_threadpool

    try:
        while True:
            event = await run_in_threadpool(next, events, None)
            if event is None:
                return
            yield json.dumps(event, ensure_ascii=False).encode() + b"\n"
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()
