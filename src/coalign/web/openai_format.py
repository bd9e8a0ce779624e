"""Requests and answers in the form of OpenAI's API: chat completions and completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coalign.data.media.conversations import MARK, showing
from coalign.data.media.pictures import Picture
from coalign.data.messages import half_pair, parsed_call, shorten
from coalign.data.records import Message
from coalign.models.types import Generation, Sampling

MOST_SAMPLES = 128
"""Largest `n`."""
MOST_TOP_LOGPROBS = 100
DEFAULT_TOKENS = 1024
"""New tokens where a request names no limit and the context leaves room for them."""
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "best_of": (1,),
    "suffix": ("",),
    "store": (False,),
}
"""Fields of the API that are not supported, and the values at which they would do nothing; None is always one."""
WITHOUT_MEANING = {
    "refusal",
    "annotations",
    "audio",
    "function_call",
    "tool_calls",
    "tool_call_id",
    "reasoning",
    "reasoning_content",
    "name",
}
"""Fields of a message that say nothing where they are empty, as in replies that a client puts back as they came."""
OF_CHATS = {"tools", "tool_choice", "parallel_tool_calls"}
"""Fields of `WITHOUT_EFFECT` that chat completions support."""
ABOUT_THE_CALLER = {"user", "metadata", "safety_identifier", "service_tier", "prompt_cache_key"}


class ApiError(Exception):
    """An error as the API reports it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class TextPart(BaseModel):
    """Text as a part of a message's content."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """A picture as a data URL; `detail` is the model's own affair."""

    model_config = ConfigDict(extra="forbid")

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(BaseModel):
    """A picture as a part of a message's content."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["image_url"]
    image_url: ImageUrl


class CalledFunction(BaseModel):
    """The function of an earlier call."""

    name: str
    arguments: str


class EarlierCall(BaseModel):
    """A call in a message of the assistant."""

    model_config = ConfigDict(extra="forbid")

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None

    def message(self) -> dict[str, Any]:
        """As chat templates take it: arguments as a mapping where they are JSON."""
        return parsed_call({"id": self.id, "type": self.type, "function": self.function.model_dump()})


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    name: str | None = None
    tool_calls: list[EarlierCall] | None = None
    tool_call_id: str | None = None

    def message(self, place: int) -> Message:
        """The turn as generators and chat templates take it.

        Raises:
            ApiError: a picture that is not in the request itself: nothing is fetched, and no file read.
        """
        said: dict[str, Any] = {**self._said(place)}
        if self.tool_calls:
            said["tool_calls"] = [one.message() for one in self.tool_calls]
        if self.role == "tool":
            given = {"tool_call_id": self.tool_call_id, "name": self.name}
            said |= {name: value for name, value in given.items() if value is not None}
        return cast(Message, said)

    def _said(self, place: int) -> Message:
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        shown = [one.image_url.url for one in self.content if isinstance(one, ImagePart)]
        for url in shown:
            if not url.startswith("data:"):
                raise ApiError(
                    400,
                    f"image_url: {shorten(url, 80)} is not in the request, and nothing is fetched; expected a data URL "
                    "(data:image/png;base64,...).",
                    param=f"messages.{place}.content",
                    code="unsupported_image_url",
                )
        text = "".join(MARK if isinstance(one, ImagePart) else one.text for one in self.content)
        return showing([{"role": self.role, "content": text}], list(map(Picture, shown)))[0]


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool = False


class _Request(BaseModel):
    """What both kinds of request share."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=-1)
    n: int = Field(1, ge=1, le=MOST_SAMPLES)
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = None

    def stops(self) -> tuple[str, ...]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(one for one in stop if one)

    def sampling(self, room: int | None, seed: int, **more: Any) -> Sampling:
        """As the back ends take it; `room`: tokens that the model's context leaves, None where it has no end; `more`: further
        fields.
        """
        limit = getattr(self, "max_completion_tokens", None)
        limit = self.max_tokens if limit is None else limit
        if limit is None:
            limit = DEFAULT_TOKENS if room is None else max(min(DEFAULT_TOKENS, room), 1)
        return Sampling(
            max_new_tokens=limit,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            n=self.n,
            seed=seed,
            stop=self.stops(),
            **more,
        )


class ChatRequest(_Request):
    """`POST /v1/chat/completions`. A last message of the assistant is continued."""

    messages: list[ChatMessage] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_TOP_LOGPROBS)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: Literal[False] = False

    def prompts(self) -> list[Any]:
        """The conversation.

        Raises:
            ApiError: vLLM's flags ask for another turn than the one that a last message of the assistant, or of anybody
                else, is followed by here.
        """
        begun = self.messages[-1].role == "assistant"
        for name, value in (("continue_final_message", begun), ("add_generation_prompt", not begun)):
            if getattr(self, name) not in (None, value):
                what = "is continued" if begun else "is answered"
                raise ApiError(
                    400,
                    f"{name}: {str(not value).lower()} is not supported here: a last message of the "
                    f"{self.messages[-1].role} {what}.",
                    param=name,
                    code="unsupported_parameter",
                )
        return [[one.message(place) for place, one in enumerate(self.messages)]]

    def wanted_logprobs(self) -> tuple[bool, int]:
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        return self.logprobs, self.top_logprobs


class CompletionRequest(_Request):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)
    max_tokens: int | None = Field(None, ge=0)
    echo: bool = False

    def prompts(self) -> list[Any]:
        """Texts, or lists of token ids."""
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens: 0 needs echo: true.", param="max_tokens")
        if self.echo and self.stream:
            raise ApiError(
                400, "echo is not supported in a stream.", param="echo", code="unsupported_parameter"
            )
        single = isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
        prompts: list[Any] = [self.prompt] if single else list(self.prompt)
        if not prompts or len(prompts) > MOST_SAMPLES:
            raise ApiError(
                400, f"prompt: {len(prompts)} texts, expected 1 to {MOST_SAMPLES}.", param="prompt"
            )
        return prompts

    def wanted_logprobs(self) -> tuple[bool, int]:
        return self.logprobs is not None, self.logprobs or 0


def parse_request(kind: type[ChatRequest] | type[CompletionRequest], body: Any) -> Any:
    """The request in `body`.

    Raises:
        ApiError: what cannot be used or is not supported, by the name of its field.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "The body is not a JSON object.")
    ignored = WITHOUT_EFFECT.keys() - (OF_CHATS if kind is ChatRequest else set())
    for name, harmless in WITHOUT_EFFECT.items():
        if name not in ignored:
            continue
        value = body.get(name)
        if value is not None and value not in harmless:
            raise ApiError(400, f"{name} is not supported here.", param=name, code="unsupported_parameter")
    drop = {*ignored, *ABOUT_THE_CALLER}
    given = {name: value for name, value in body.items() if name not in drop and value is not None}
    halved = half_pair(given)
    if halved is not None:
        raise ApiError(400, f"{halved[0]}: {halved[1]}, expected {halved[2]}.", param=halved[0])
    if isinstance(given.get("messages"), list):
        given["messages"] = [_meaning(one) for one in given["messages"]]
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"]))
        unknown = first["type"] == "extra_forbidden"
        message = f"{param}: is not a field that is known here." if unknown else f"{param}: {first['msg']}."
        code = "unsupported_parameter" if unknown else None
        raise ApiError(
            400, message, param=str(first["loc"][0]) if first["loc"] else None, code=code
        ) from error


def _meaning(message: Any) -> Any:
    """A message without its empty fields."""
    if not isinstance(message, dict):
        return message
    full = {
        name: value
        for name, value in message.items()
        if value is not None and (name not in WITHOUT_MEANING or value not in ("", [], {}))
    }
    return {"content": "", **full} if full.get("role") == "assistant" else full


class Format:
    """Builds the answers to one request.

    Args:
        chat: chat completions, else completions.
        model: name to report.
        fingerprint: what the model is, whatever it is called.
    """

    def __init__(self, *, chat: bool, model: str, fingerprint: str) -> None:
        self.chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def answer(
        self,
        samples: list[Generation],
        usage: dict[str, Any],
        read: Callable[[Generation], tuple[dict[str, Any], str]] | None = None,
    ) -> dict[str, Any]:
        """The whole answer; `samples` in the order of prompts and samples.

        Args:
            read: a sample to the assistant's message and why it ended, where it may be more than its text.
        """
        choices = []
        for index, one in enumerate(samples):
            said, finish = {"role": "assistant", "content": one.text}, str(one.finish_reason)
            if read is not None:
                said, finish = read(one)
            text = {"message": said} if self.chat else {"text": one.text}
            choices.append(self._choice(index, text, finish, self._logprobs(one)))
        return {**self._head, "object": self._object(""), "choices": choices, "usage": usage}

    def begin(self, index: int) -> dict[str, Any]:
        """The first event of a chat's choice."""
        return self._event([self._choice(index, {"delta": {"role": "assistant", "content": ""}}, None, None)])

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """An event with new text."""
        return self._event([self._choice(index, self._delta(text), None, None)])

    def end(self, index: int, text: str, one: Generation) -> dict[str, Any]:
        """The last event of a choice: its last text, why it ended, and the log-probabilities of all its tokens."""
        return self._event([self._choice(index, self._delta(text), one.finish_reason, self._logprobs(one))])

    def delta(self, index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """An event of a chat's choice, with any delta."""
        return self._event([self._choice(index, {"delta": delta}, finish, None)])

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        return {**self._event([]), "usage": usage}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": self._object(".chunk" if self.chat else ""), "choices": choices}

    def _object(self, suffix: str) -> str:
        return f"chat.completion{suffix}" if self.chat else "text_completion"

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}} if self.chat else {"text": text}

    def _choice(self, index: int, text: dict[str, Any], finish: str | None, logprobs: Any) -> dict[str, Any]:
        return {"index": index, **text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, one: Generation) -> dict[str, Any] | None:
        if one.logprobs is None or one.tokens is None:
            return None
        tops = one.top_logprobs or [[] for _ in one.tokens]
        if self.chat:
            content = [
                {**_token(text, logp), "top_logprobs": [_token(*other) for other in top]}
                for text, logp, top in zip(one.tokens, one.logprobs, tops, strict=True)
            ]
            return {"content": content, "refusal": None}
        offsets = [sum(map(len, one.tokens[:place])) for place in range(len(one.tokens))]
        return {
            "tokens": one.tokens,
            "token_logprobs": one.logprobs,
            "top_logprobs": [None if top is None else _by_text(top) for top in tops]
            if one.top_logprobs is not None
            else None,
            "text_offset": offsets,
        }


def _token(text: str, logp: float) -> dict[str, Any]:
    return {"token": text, "logprob": logp, "bytes": list(text.encode("utf-8", "replace"))}


def _by_text(top: list[tuple[str, float]]) -> dict[str, float]:
    """Alternatives by text; of two tokens with the same text the more probable one."""
    found: dict[str, float] = {}
    for text, logp in top:
        found.setdefault(text, logp)
    return found
