"""`/v1/embeddings` and `/v1/score`: a sentence encoder and a reward model beside what is served, or its own states."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from coalign.core.errors import DataError
from coalign.data.messages import half_pair
from coalign.web.openai_format import ApiError

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.embedding import CausalEncoder, SentenceEncoder
    from coalign.models.reward_model import RewardModel

MOST_TEXTS = 2048
"""Texts of one request."""


class EmbeddingRequest(BaseModel):
    """`POST /v1/embeddings`, as OpenAI has it."""

    model_config = ConfigDict(extra="forbid")

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class ScoreRequest(BaseModel):
    """`POST /v1/score`, as vLLM has it: a prompt or one for each response, and responses."""

    model_config = ConfigDict(extra="forbid")

    text_1: str | list[str]
    text_2: str | list[str]
    model: str | None = None


class Encodes(Protocol):
    """Models that embed texts themselves."""

    def encoder(self, name: str | None) -> tuple[str, CausalEncoder] | None:
        """The model of this name; None where it cannot. Raises `ApiError` where there is none."""
        ...

    async def computed(self, name: str, work: Callable[[], Any]) -> Any:
        """What a function gives that computes with the model of this name."""
        ...


class Beside:
    """The models beside what is served. One request at a time computes with them.

    Args:
        encoder, rewards: (name, model); None: the route says how to start with one.
        served: embeds texts where there is no encoder.
    """

    def __init__(
        self,
        encoder: tuple[str, SentenceEncoder] | None,
        rewards: tuple[str, RewardModel] | None,
        served: Encodes | None = None,
    ) -> None:
        self._encoder, self._rewards, self._served = encoder, rewards, served
        self._lock = asyncio.Lock()

    async def embeddings(self, body: Any) -> dict[str, Any]:
        """The answer to an embedding request.

        Raises:
            ApiError: what cannot be used, by the name of its field.
        """
        asked: EmbeddingRequest = _parsed(EmbeddingRequest, body)
        causal = self._served.encoder(asked.model) if self._served and self._encoder is None else None
        name, encoder = causal or _named(self._encoder, asked.model, "--embedding-model")
        texts = _texts(asked.input, "input")
        if asked.dimensions not in (None, encoder.size):
            message = f"dimensions: {asked.dimensions}, and this encoder has {encoder.size}."
            raise ApiError(400, message, param="dimensions")
        lengths = [len(ids) for ids in encoder.ids(texts)]
        if not all(lengths):
            raise ApiError(400, "input: a text has no token.", param="input")
        if encoder.max_length is not None and max(lengths) > encoder.max_length:
            message = f"input: a text of {max(lengths)} tokens, expected at most {encoder.max_length}."
            raise ApiError(400, message, param="input", code="context_length_exceeded")
        if causal is None:
            states = await self._computed(lambda: encoder.encode(texts))
        else:
            states = await self._pooled(causal[1], name, texts)
        found = states.numpy().astype("<f4")
        coded = asked.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": place,
                "embedding": base64.b64encode(row.tobytes()).decode() if coded else row.tolist(),
            }
            for place, row in enumerate(found)
        ]
        usage = {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
        return {"object": "list", "model": name, "data": data, "usage": usage}

    async def scores(self, body: Any) -> dict[str, Any]:
        """The answer to a score request: rewards as `RewardModel.score` gives them.

        Raises:
            ApiError: what cannot be used, by the name of its field.
        """
        asked: ScoreRequest = _parsed(ScoreRequest, body)
        name, model = _named(self._rewards, asked.model, "--reward-model")
        prompts, responses = _texts(asked.text_1, "text_1"), _texts(asked.text_2, "text_2")
        prompts = prompts * len(responses) if isinstance(asked.text_1, str) else prompts
        if len(prompts) != len(responses):
            message = (
                f"text_1: {len(prompts)} texts, and text_2 has {len(responses)}; expected one, or as many."
            )
            raise ApiError(400, message, param="text_1")
        chats: Any = [[{"role": "user", "content": one}] for one in prompts]
        try:
            found = await self._computed(lambda: model.score(chats, responses))
        except DataError as error:
            raise ApiError(400, error.message, param="text_1") from error
        data = [{"index": place, "object": "score", "score": one} for place, one in enumerate(found)]
        head = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
        return {**head, "model": name, "data": data}

    async def _pooled(self, encoder: CausalEncoder, name: str, texts: list[str]) -> Tensor:
        """A pass at a time: answers are decoded between them."""
        import torch

        assert self._served is not None
        ids = encoder.ids(texts)
        found = torch.empty(len(texts), encoder.size)
        for rows in encoder.passes(ids):
            part = [ids[row] for row in rows]
            found[rows] = await self._served.computed(name, lambda part=part: encoder.pooled(part))
        return found

    async def _computed(self, work: Callable[[], Any]) -> Any:
        async with self._lock:
            return await asyncio.to_thread(work)


def _named(known: Any, name: str | None, option: str) -> Any:
    if known is None:
        raise ApiError(
            404, f"No such model is served; start the server with {option}.", code="model_not_found"
        )
    if name not in (None, known[0]):
        message = f"The model {name!r} does not answer here; {known[0]!r} does."
        raise ApiError(404, message, param="model", code="model_not_found")
    return known


def _texts(given: str | list[str], field: str) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not texts or len(texts) > MOST_TEXTS or not all(texts):
        raise ApiError(400, f"{field}: expected 1 to {MOST_TEXTS} texts that are not empty.", param=field)
    return texts


def _parsed(kind: type[BaseModel], body: Any) -> Any:
    halved = half_pair(body)
    if halved is not None:
        raise ApiError(400, f"{halved[0]}: {halved[1]}, expected {halved[2]}.", param=halved[0])
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "The body"
        param = str(first["loc"][0]) if first["loc"] else None
        raise ApiError(400, f"{where}: {first['msg']}.", param=param) from error
