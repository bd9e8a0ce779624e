"""What a client gets of a request: events as they come, the tokens that it took, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from coalign.core.errors import CoalignError, ConfigError, DataError
from coalign.models.types import Generation, Piece
from coalign.web.batching import Work
from coalign.web.metrics import Metrics
from coalign.web.openai_format import ApiError, Format
from coalign.web.tool_calls import CallStream, Offer

LOOK_EVERY = 0.5
"""Seconds after which the server looks whether a client is still there."""


class EventStream:
    """A request that is answered with server-sent events."""

    def __init__(
        self,
        works: list[Work],
        events: asyncio.Queue[Any],
        form: Format,
        asked: Any,
        metrics: Metrics,
        offer: Offer | None = None,
    ) -> None:
        self._works, self._events, self._form, self._metrics = works, events, form, metrics
        self._usage = bool(asked.stream_options and asked.stream_options.include_usage)
        self._missing = sum(work.sampling.n for work in works)
        self._done: list[Generation] = []
        self._calls = offer and [CallStream(offer, form, index) for index in range(self._missing)]

    async def first(self, request: Any) -> tuple[int, Piece]:
        """The first piece. Where there is none nothing more is decoded for this request.

        Raises:
            ApiError: the request failed, or the client is gone.
        """
        try:
            return _good(await next_event(self._events, request))
        except BaseException:
            self._give_up()
            raise

    async def lines(self, first: tuple[int, Piece]) -> AsyncIterator[str]:
        try:
            if self._form.chat:
                for index in range(self._missing):
                    yield _line(self._form.begin(index))
            event: tuple[int, Piece] | None = first
            while event is not None:
                for one in self._told(*event):
                    yield _line(one)
                event = _good(await self._events.get()) if self._missing else None
            if self._usage:
                yield _line(self._form.usage(usage_of(self._works, self._done)))
            yield "data: [DONE]\n\n"
        except ApiError as error:
            yield _line(error.body())
        finally:  # the client may have gone
            self._metrics.used(usage_of(self._works, self._done))
            self._give_up()

    def _give_up(self) -> None:
        for work in self._works:
            work.cancelled = True

    def _told(self, number: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """The events of a piece."""
        index = number * self._works[0].sampling.n + piece.sample
        if piece.generation is not None:
            self._missing -= 1
            self._done.append(piece.generation)
        if self._calls:
            one = self._calls[index]
            yield from one.end(piece.text, piece.generation) if piece.generation else one.piece(piece.text)
        elif piece.generation is None:
            yield self._form.piece(index, piece.text)
        else:
            yield self._form.end(index, piece.text, piece.generation)


async def next_event(events: asyncio.Queue[Any], request: Any) -> tuple[int, Piece | Exception]:
    """What comes next of a request's prompts: (prompt, piece or error).

    Raises:
        ApiError: the client is gone.
    """
    while True:
        try:
            return await asyncio.wait_for(events.get(), LOOK_EVERY)
        except TimeoutError:
            if await request.is_disconnected():
                raise ApiError(499, "The client is gone.") from None


def _good(event: tuple[int, Piece | Exception]) -> tuple[int, Piece]:
    number, outcome = event
    if isinstance(outcome, Exception):
        raise explained(outcome)
    return number, outcome


def _line(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def usage_of(works: list[Work], samples: list[Generation]) -> dict[str, Any]:
    """The tokens of a request as OpenAI counts them."""
    prompt = sum(len(work.ids) for work in works)
    sampled = sum(one.length for one in samples)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled,
    }  # fmt: skip
    found = [work.found for work in works if work.found is not None]
    return {**usage, "prompt_tokens_details": {"cached_tokens": sum(found)}} if found else usage


def explained(error: Exception) -> ApiError:
    """What a client is told of an error."""
    if isinstance(error, DataError | ConfigError):
        return ApiError(400, str(error))
    if isinstance(error, CoalignError):
        return ApiError(500, str(error))
    return ApiError(500, f"Decoding failed ({type(error).__name__}).")
