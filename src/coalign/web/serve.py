"""A model, a run's result or a decoding method behind an OpenAI-compatible server on this machine.

`/v1/models`, `/v1/chat/completions` and `/v1/completions`, with streaming, n, stop, seed, log-probabilities and
prefill (a last message of the assistant is continued); pictures as data URLs. Fields that would be ignored are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError, DataError
from coalign.core.extras import require
from coalign.core.files import parse_json
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.sampling import check_sampling
from coalign.models.tools.asking import ToolPrompts
from coalign.models.types import Generation, Generator, Piece, Sampling, Tokenised
from coalign.web.batching import Work, Worker, open_worker
from coalign.web.local import local_app
from coalign.web.metrics import CONTENT_TYPE, Measured, Metrics
from coalign.web.openai_format import ApiError, ChatRequest, CompletionRequest, Format, parse_request
from coalign.web.scored import Beside
from coalign.web.streams import EventStream, explained, next_event, usage_of
from coalign.web.structured import grammar_of
from coalign.web.tool_calls import Offer, offer_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from coalign.data.media.prompts import PicturePrompt
    from coalign.models.embedding import CausalEncoder, Pooling, SentenceEncoder
    from coalign.models.generation.adapter_bank import AdapterBank
    from coalign.models.generation.prefix_cache.store import PrefixCache
    from coalign.models.grammars.schemas import Grammar
    from coalign.models.reward_model import RewardModel

logger = logging.getLogger(__name__)

KEY_VARIABLE = "COALIGN_SERVE_KEY"
"""Environment variable of the key that clients must send."""
MOST_BYTES = 32 * 2**20
"""Largest body of a request, its pictures included."""
MOST_WAITING = 512
"""Prompts under way or waiting; beyond it a client is told to come back."""


@dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
        name: the model's name for clients.
        generator: what answers.
        key: what clients must send, None: nothing.
        fingerprint: what the model is, whatever it is called (a hash of its weights), so that clients know whether
            answers that they keep are this model's; None: they are this start's alone.
        adapters: the generator is the base of several adapters, each of which is a model of its own for clients.
        encoder, rewards: (name, model) of what answers `/v1/embeddings` and `/v1/score`. Without an encoder a local model
            embeds texts itself.
        pooling: which of its states it then gives.
        prefixes: where the states of earlier prompts are kept.
    """

    name: str
    generator: Generator
    key: str | None = None
    fingerprint: str | None = None
    adapters: AdapterBank[Any] | None = None
    encoder: tuple[str, SentenceEncoder] | None = None
    rewards: tuple[str, RewardModel] | None = None
    prefixes: Sequence[PrefixCache] = ()
    pooling: Pooling = "mean"


@dataclass(frozen=True)
class _Model:
    """What answers under a name."""

    name: str
    generator: Generator
    fingerprint: str
    parent: str | None = None

    @property
    def local(self) -> Tokenised | None:
        """The generator where it knows tokens: a local model, or a method around one."""
        generator: Any = self.generator
        return generator if hasattr(generator, "encode") and hasattr(generator, "context") else None

    @functools.cached_property
    def prompts(self) -> ToolPrompts:
        """How it is shown tools."""
        return ToolPrompts(self.generator)

    @property
    def context(self) -> int | None:
        return self.local.context if self.local else None


def make_app(served: Served, *, hosts: tuple[str, ...] = ()) -> FastAPI:
    """The application.

    Args:
        hosts: host names to answer to beside this machine's own; `*` answers to any.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    responses = require("fastapi.responses", "serve")
    server, metrics = _Server(served), Metrics()
    beside = Beside(served.encoder, served.rewards, server)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        server.worker.close()

    def answered(status: int, body: Any, headers: dict[str, str] | None = None) -> Any:
        return responses.JSONResponse(body, status, headers=headers)

    async def refused(_: Any, error: Any) -> Any:
        return answered(error.status, error.body(), error.headers)

    async def no_route(request: Any, error: Any) -> Any:
        path, status = request.url.path, error.status_code
        said = f"There is no {path} here." if status == 404 else f"{path} does not take {request.method}."
        return answered(status, ApiError(status, said).body())

    async def health(_: Any) -> Any:
        return answered(200, {"status": "ok", "waiting": server.worker.waiting})

    async def models(request: Any) -> Any:
        server.admit(request)
        return answered(200, {"object": "list", "data": [server.listing(name) for name in server.models]})

    async def model(request: Any) -> Any:
        server.admit(request)
        return answered(200, server.listing(request.path_params["name"]))

    async def complete(kind: Any, request: Any) -> Any:
        server.admit(request)
        asked = parse_request(kind, await _json(request))
        answering = server.model(asked.model)
        offer = offer_of(asked, answering.prompts) if kind is ChatRequest else None
        grammar = await asyncio.to_thread(grammar_of, asked, offer, answering.prompts if offer else None)
        works, events = server.submit(asked, offer, grammar)
        form = Format(chat=kind is ChatRequest, model=answering.name, fingerprint=answering.fingerprint)
        if asked.stream:
            stream = EventStream(works, events, form, asked, metrics, offer)
            # The first event decides whether it is an answer or an error with a status of its own.
            first = await stream.first(request)
            return responses.StreamingResponse(stream.lines(first), media_type="text/event-stream")
        samples = [one for each in await _gather(works, events, request) for one in each]
        usage = usage_of(works, samples)
        metrics.used(usage)
        return answered(200, form.answer(samples, usage, offer and offer.message))

    async def compute(work: Any, request: Any) -> Any:
        server.admit(request)
        found = await work(await _json(request))
        metrics.used(found.get("usage", {}))
        return answered(200, found)

    async def figures(request: Any) -> Any:
        server.admit(request)
        return responses.Response(
            metrics.text(server.worker.waiting, served.prefixes), media_type=CONTENT_TYPE
        )

    app: Any = local_app("coalign", hosts=hosts, lifespan=lifespan)
    for error, handler in ((ApiError, refused), (404, no_route), (405, no_route)):
        app.add_exception_handler(error, handler)
    routes = (
        ("/health", health, "GET"),
        ("/metrics", figures, "GET"),
        ("/v1/models", models, "GET"),
        ("/v1/models/{name:path}", model, "GET"),
        ("/v1/chat/completions", functools.partial(complete, ChatRequest), "POST"),
        ("/v1/completions", functools.partial(complete, CompletionRequest), "POST"),
        ("/v1/embeddings", functools.partial(compute, beside.embeddings), "POST"),
        ("/v1/score", functools.partial(compute, beside.scores), "POST"),
        ("/score", functools.partial(compute, beside.scores), "POST"),
    )
    app.add_middleware(Measured, metrics=metrics, paths=frozenset(path for path, _, _ in routes))
    for path, handler, verb in routes:
        app.add_route(path, handler, methods=[verb])
    return app


class _Server:
    """What the routes share."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.created = int(time.time())
        self.started = secrets.token_hex(8)
        fingerprint, bank = served.fingerprint or f"start-{self.started}", served.adapters
        generators = bank.generators if bank else {served.name: served.generator}
        self.models = {
            name: _Model(name, one, fingerprint)
            if name == served.name
            else _Model(name, one, f"{fingerprint}+{bank.identities[name] if bank else name}", served.name)
            for name, one in generators.items()
        }
        self.worker: Worker = open_worker(generators, bank.use) if bank else open_worker(generators)

    def listing(self, name: str | None = None) -> dict[str, Any]:
        """A model as `/v1/models` tells of it; an adapter has its base as `parent`."""
        one = self.model(name)
        return {
            "id": one.name, "object": "model", "created": self.created, "owned_by": "coalign", "parent": one.parent,
            "max_model_len": one.context, "fingerprint": one.fingerprint, "started": self.started,
        }  # fmt: skip

    def admit(self, request: Any) -> None:
        """Ask for the key where there is one."""
        if self.served.key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), self.served.key.encode()):
            raise ApiError(401, "The key is missing or wrong.", code="invalid_api_key")

    def model(self, name: str | None) -> _Model:
        """The model of this name, the first where none is asked for."""
        found = self.models.get(self.served.name if name is None else name)
        if found is None:
            known = " and ".join(map(repr, self.models))
            message = (
                f"The model {name!r} is not served here; {known} {'is' if len(self.models) == 1 else 'are'}."
            )
            raise ApiError(404, message, param="model", code="model_not_found")
        return found

    def encoder(self, name: str | None) -> tuple[str, CausalEncoder] | None:
        """The served model of this name as an encoder of texts, where it is a local one."""
        from coalign.models.embedding import CausalEncoder

        model = self.model(name)
        if not isinstance(model.generator, TransformersGenerator):
            return None
        return model.name, CausalEncoder(model.generator, self.served.pooling)

    async def computed(self, name: str, work: Callable[[], Any]) -> Any:
        """What a function gives that computes with the model of this name, between two tokens of what is decoded."""
        if self.worker.waiting >= MOST_WAITING:
            raise ApiError(429, "Too many requests are waiting.", headers={"retry-after": "1"})
        return await asyncio.wrap_future(self.worker.call(name, work))

    def submit(
        self, asked: Any, offer: Offer | None = None, grammar: Grammar | None = None
    ) -> tuple[list[Work], asyncio.Queue[Any]]:
        """Queue a request's prompts; what comes of them arrives in the queue as (prompt, piece or error).

        Args:
            offer: the tools of a chat that knows some.
            grammar: what the answers must be.
        """
        model = self.model(asked.model)
        prompts = asked.prompts()
        if self.worker.waiting + len(prompts) > MOST_WAITING:
            raise ApiError(429, "Too many requests are waiting.", headers={"retry-after": "1"})
        logprobs, tops = asked.wanted_logprobs()
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Any]()
        works = []
        echo, decode = bool(asked.echo), asked.max_tokens != 0
        if echo and not isinstance(model.generator, TransformersGenerator):
            raise ApiError(400, "echo needs a local model without a method.", param="echo")
        for number, given in enumerate(prompts):
            prompt, ids, pictures = self._encoded(model, given, offer)
            room = None if model.context is None or not ids else model.context - len(ids)
            seed = secrets.randbits(31) if asked.seed is None else asked.seed + number
            sampling = asked.sampling(room, seed, logprobs=logprobs, top_logprobs=tops, grammar=grammar)
            if offer is not None and offer.tools:
                stops = (*sampling.stop, *model.prompts.stops(parallel=offer.parallel))
                sampling = replace(sampling, stop=tuple(dict.fromkeys(stops)))
            least = sampling if decode else replace(sampling, max_new_tokens=1)
            self._assert_usable(model, least, room, len(ids))

            def tell(outcome: Piece | Exception, number: int = number) -> None:
                with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                    loop.call_soon_threadsafe(events.put_nowait, (number, outcome))

            seeded, streaming = asked.seed is not None, asked.stream
            works.append(
                Work(
                    prompt,
                    sampling,
                    seeded,
                    streaming,
                    tell,
                    ids=ids,
                    echo=echo,
                    decode=decode,
                    model=model.name,
                    pictures=pictures,
                )
            )
        self.worker.submit(works)
        return works, events

    def _encoded(
        self, model: _Model, prompt: Any, offer: Offer | None
    ) -> tuple[Any, list[int], PicturePrompt | None]:
        """The prompt as messages or text, its tokens where they are known, and its pictures where they are decoded here."""
        generator: Any = model.generator
        try:
            if offer is not None:
                prompt = offer.prompt(prompt, model.prompts)
            if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
                if not isinstance(generator, TransformersGenerator):
                    raise ApiError(400, "Token ids need a local model without a method.", param="prompt")
                most = len(generator.tokenizer)
                if not all(0 <= one < most for one in prompt):
                    raise ApiError(400, f"prompt: expected token ids from 0 to {most - 1}.", param="prompt")
                return generator.tokenizer.decode(prompt), prompt, None
            if isinstance(generator, TransformersGenerator):
                return prompt, *generator.encode_seen(prompt)
            return prompt, model.local.encode(prompt) if model.local else [], None
        except DataError as error:
            raise ApiError(400, error.message, param="messages") from error

    def _assert_usable(self, model: _Model, sampling: Sampling, room: int | None, length: int) -> None:
        try:
            check_sampling(sampling, grammars=True)
        except ConfigError as error:
            raise ApiError(400, error.message) from error
        if room is not None and sampling.max_new_tokens > room:
            raise ApiError(
                400,
                f"The prompt has {length} tokens and max_tokens is {sampling.max_new_tokens}; the model's context "
                f"has room for {model.context}.",
                param="max_tokens",
                code="context_length_exceeded",
            )


async def _json(request: Any) -> Any:
    """The body, at most `MOST_BYTES` of it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":
        raise ApiError(415, f"The body is {kind or 'of no type'}, expected application/json.")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise ApiError(413, f"The body has more than {MOST_BYTES} bytes.")
    try:
        return parse_json(data, any_text=True)
    except ValueError as error:
        raise ApiError(400, f"The body is not JSON that can be read ({error}).") from error


async def _gather(works: list[Work], events: asyncio.Queue[Any], request: Any) -> list[list[Generation]]:
    """All samples of all prompts. Gives up when the client is gone."""
    found: list[dict[int, Generation]] = [{} for _ in works]
    missing = sum(work.sampling.n for work in works)
    try:
        while missing:
            number, outcome = await next_event(events, request)
            if isinstance(outcome, Exception):
                raise explained(outcome)
            if outcome.generation is not None:
                found[number][outcome.sample] = outcome.generation
                missing -= 1
    finally:
        for work in works:
            work.cancelled = True
    return [[samples[place] for place in sorted(samples)] for samples in found]
