"""What is sent to an OpenAI-compatible server, under which key its answer is kept, and what the answer says."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from coalign.core.errors import EndpointError
from coalign.data.media.conversations import in_parts, prompt_key
from coalign.data.records import Messages, Shown
from coalign.models.types import Generation, Sampling, is_prefilled

SENT_SIDE = 1024
"""Pixels of the longer side of a picture that is sent, at most."""
FORMAT = 2
"""Version of the key: raised when a field gets another meaning."""
Prefill = Literal["continue", "vllm", "off"]


@dataclass(frozen=True)
class Asked:
    """One prompt of one call.

    Attributes:
        address: of the server.
        model: its name there.
        prompt: messages, which may hold pictures (`coalign.data.media.conversations.showing`), or text.
        occurrence: how many prompts before it in the call are the same: equal prompts get samples of their own.
        prefill: how the server is asked to continue an assistant's turn.
        identity: what is known of the model behind its name (`endpoint_identity`).
    """

    address: str
    model: str
    prompt: Messages | str
    occurrence: int
    prefill: Prefill
    identity: str = ""

    @property
    def path(self) -> str:
        return "completions" if isinstance(self.prompt, str) else "chat/completions"


def answer_key(asked: Asked, sampling: Sampling, sample: int) -> str:
    """The hash under which one sample is kept: SHA-256 over a JSON object of

    - `format`: version of this list; `address`, `path`, `model`, `identity`: who was asked;
    - `prompt`: the messages (role and content, a picture by a hash of its pixels) or the text; `prefill`: how a begun
      turn is continued;
    - `max_tokens`, `temperature`, `top_p`, `top_k`, `stop`, `logprobs`, `top_logprobs`: the sampling;
    - `seed`, `occurrence`, `sample`: which of the samples; 0, 0, 0 for greedy decoding, where they do not matter.

    The key of the server, time-outs, retries, budgets, concurrency and the number of samples are no part of it.
    """
    greedy = sampling.temperature == 0
    fields = {
        "format": FORMAT,
        "address": asked.address,
        "path": asked.path,
        "model": asked.model,
        "identity": asked.identity,
        "prompt": prompt_key(asked.prompt),
        "prefill": asked.prefill if is_prefilled(asked.prompt) else None,
        "max_tokens": sampling.max_new_tokens,
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "top_k": sampling.top_k,
        "stop": list(sampling.stop),
        "logprobs": sampling.wants_logprobs,
        "top_logprobs": sampling.top_logprobs,
        "seed": 0 if greedy else sampling.seed,
        "occurrence": 0 if greedy else asked.occurrence,
        "sample": 0 if greedy else sample,
    }
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _image_url(picture: Shown) -> dict[str, Any]:
    one = picture.open()
    one.thumbnail((SENT_SIDE, SENT_SIDE))
    stream = io.BytesIO()
    one.save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def wire_seed(sampling: Sampling, occurrence: int, sample: int) -> int:
    """The seed of the request whose first sample is `sample`: below 2^31, which every server takes."""
    digest = hashlib.sha256(f"{sampling.seed} {occurrence} {sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def request_body(asked: Asked, sampling: Sampling, first: int, count: int) -> dict[str, Any]:
    """The request for samples `first` to `first + count - 1`."""
    body: dict[str, Any] = {
        "model": asked.model,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.temperature > 0:
        body["seed"] = wire_seed(sampling, asked.occurrence, first)
    if count > 1:
        body["n"] = count
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if isinstance(asked.prompt, str):
        body["prompt"] = asked.prompt
        if sampling.wants_logprobs:
            body["logprobs"] = max(sampling.top_logprobs, 1)
        return body
    body["messages"] = [in_parts(one, _image_url) for one in asked.prompt]
    if sampling.wants_logprobs:
        body["logprobs"] = True
        if sampling.top_logprobs:
            body["top_logprobs"] = sampling.top_logprobs
    if is_prefilled(asked.prompt) and asked.prefill == "vllm":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def choices_of(answer: dict[str, Any], sampling: Sampling) -> list[dict[str, Any]]:
    """The choices of an answer in the order of their index, every field that is used of the type that it must have.

    Raises:
        ValueError: there is none, one has no text, or a field is of another type; the field is named.
        EndpointError: log-probabilities were asked for and are not there.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError("it has no choices")
    usage = answer.get("usage")
    _expect("usage", usage, dict, "an object")
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        _expect(f"usage.{name}", (usage or {}).get(name), int, "a whole number")
    _expect("system_fingerprint", answer.get("system_fingerprint"), str, "text")
    for number, one in enumerate(choices):
        place = f"choices.{number}"
        if not isinstance(one, dict) or not ("text" in one or isinstance(one.get("message"), dict)):
            raise ValueError("a choice has neither message nor text")
        _expect(f"{place}.index", one.get("index"), int, "a whole number")
        _expect(f"{place}.finish_reason", one.get("finish_reason"), str, "text")
        _assert_text(f"{place}.message.content", said_of(one))
        if sampling.wants_logprobs and one.get("logprobs") is not None:
            _assert_logprobs(f"{place}.logprobs", one["logprobs"])
        parse_choice(one, sampling, None)
    return sorted(choices, key=lambda one: one.get("index") or 0)


def _assert_logprobs(place: str, logprobs: Any) -> None:
    try:
        tokens, values, tops = parse_logprobs(logprobs)
    except EndpointError as error:
        raise ValueError(f"{place} is not usable, expected log-probabilities of tokens") from error
    if not len(tokens) == len(values) or not all(map(math.isfinite, values)):
        raise ValueError(f"{place} is not usable, expected a finite number for every token")
    for text in (*tokens, *(text for place in tops for text, _ in place)):
        _assert_text(f"{place}.token", text)


def said_of(choice: dict[str, Any]) -> Any:
    """What a choice says, in either form; None where it says nothing."""
    message = choice.get("message")
    return message.get("content") if isinstance(message, dict) else choice.get("text")


def _expect(place: str, value: Any, kind: type, expected: str) -> None:
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ValueError(f"{place} is {_shown(value)}, expected {expected}")


def _assert_text(place: str, value: Any) -> None:
    _expect(place, value, str, "text")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ValueError(f"{place} holds half a surrogate pair ({half}), expected valid text") from error


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def delta_of(event: Any) -> tuple[str, str | None, Any]:
    """(text, finish reason, log-probabilities) of one event of a stream; nothing of one without choices.

    Raises:
        ValueError: a field is of another type than it must have.
    """
    choices = event.get("choices") or [{}] if isinstance(event, dict) else None
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise ValueError(f"it is {_shown(event)}, expected an object with a list of choices")
    choice = choices[0]
    _expect("delta", choice.get("delta"), dict, "an object")
    _expect("finish_reason", choice.get("finish_reason"), str, "text")
    delta = choice.get("delta") or choice
    text = delta.get("content", delta.get("text"))
    _assert_text("content", text)
    return text or "", choice.get("finish_reason"), choice.get("logprobs")


def parse_choice(choice: dict[str, Any], sampling: Sampling, n_tokens: int | None) -> Generation:
    """One sample out of a choice.

    Args:
        n_tokens: what the server counted for it, when it counted it alone.

    Raises:
        EndpointError: log-probabilities were asked for and are not there.
    """
    text = said_of(choice) or ""
    places = [text.find(one) for one in sampling.stop]
    cut = min((place for place in places if place >= 0), default=None)
    tokens = logprobs = tops = None
    if sampling.wants_logprobs:
        tokens, logprobs, tops = parse_logprobs(choice.get("logprobs"))
        tops = [place[: sampling.top_logprobs] for place in tops] if sampling.top_logprobs else None
        n_tokens = len(tokens)
    finish = "length" if choice.get("finish_reason") == "length" and cut is None else "stop"
    return Generation(text[:cut], [], finish, logprobs, tokens, tops, n_tokens)


def parse_logprobs(
    logprobs: Any,
) -> tuple[list[str], list[float], list[list[tuple[str, float]]]]:
    """(token texts, log-probabilities, alternatives) in the form of chat completions or of completions.

    Raises:
        EndpointError: it is neither.
    """
    try:
        if isinstance(logprobs.get("content"), list):
            content = logprobs["content"]
            tops = [
                [(str(o["token"]), float(o["logprob"])) for o in t.get("top_logprobs") or []] for t in content
            ]
            return [str(t["token"]) for t in content], [float(t["logprob"]) for t in content], tops
        values = [float(one) for one in logprobs["token_logprobs"]]
        places = logprobs.get("top_logprobs") or [{}] * len(values)
        tops = [
            sorted(((str(t), float(p)) for t, p in (o or {}).items()), key=lambda o: -o[1]) for o in places
        ]
        return [str(one) for one in logprobs["tokens"]], values, tops
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EndpointError(
            "The server gives no log-probabilities of its tokens, which are needed here.",
            hint="Use a server and model that return logprobs.",
        ) from error
