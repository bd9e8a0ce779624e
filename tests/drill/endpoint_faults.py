"""Faults of a server, each of its own kind, that pass when the client asks again: nothing is lost, mixed up or paid twice."""

from __future__ import annotations

import email.utils
import gzip
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coalign.models.backends.endpoint import EndpointGenerator
from coalign.models.backends.endpoint_client import EndpointClient
from coalign.models.backends.options import BackendOptions
from coalign.models.types import Sampling
from tests.models.endpoint_server import (
    Fault,
    Handler,
    answer_to,
    error,
    expected,
    prompts_of,
    running,
    texts,
)

TIMEOUT = 0.4
Body = dict[str, Any]


def _status(
    number: int, said: Any = None, headers: dict[str, str] | Callable[[], dict[str, str]] | None = None
) -> Fault:
    def fault(handler: Handler, _: Body) -> bool:
        handler.send(
            number, error("busy") if said is None else said, headers() if callable(headers) else headers
        )
        return True

    return fault


def _date() -> dict[str, str]:
    return {"retry-after": email.utils.formatdate(time.time(), usegmt=True)}


def _raw(data: bytes, *, then: Callable[[Handler], None] | None = None) -> Fault:
    """Bytes in place of an answer; the connection is closed after them."""

    def fault(handler: Handler, _: Body) -> bool:
        handler.wfile.write(data)
        handler.wfile.flush()
        if then is not None:
            then(handler)
        handler.close_connection = True
        return True

    return fault


def _reset(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def _sent(change: Callable[[bytes], bytes], headers: dict[str, str] | None = None) -> Fault:
    """The whole answer, of which the bytes are changed."""

    def fault(handler: Handler, body: Body) -> bool:
        handler.send(200, change(json.dumps(answer_to(body)).encode()), headers)
        return True

    return fault


def _changed(change: Callable[[Body], Any]) -> Fault:
    """An answer, of which a part is changed."""

    def fault(handler: Handler, body: Body) -> bool:
        handler.send(200, change(answer_to(body)))
        return True

    return fault


def _choice(**fields: Any) -> Fault:
    """An answer of which the first choice, or its message, has other fields."""

    def change(answer: Body) -> Body:
        first = answer["choices"][0]
        message = {
            **first["message"],
            **{key: one for key, one in fields.items() if key in ("content", "role")},
        }
        rest = {key: one for key, one in fields.items() if key not in ("content", "role")}
        return {**answer, "choices": [{**first, "message": message, **rest}, *answer["choices"][1:]]}

    return _changed(change)


def _dripping(handler: Handler, body: Body) -> bool:
    data = json.dumps(answer_to(body)).encode()
    handler.send_response(200)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    for start in range(0, len(data), 8):
        handler.wfile.write(data[start : start + 8])
        handler.wfile.flush()
        time.sleep(TIMEOUT / 4)
    return True


def _sleeping(handler: Handler, _: Body) -> bool:
    time.sleep(TIMEOUT * 1.5)
    handler.close_connection = True
    return True


WAITING = (_dripping, _sleeping)
"""Faults that a time limit ends; under others an answer that a busy machine gives late would be asked for, and paid, twice."""
OK = b"HTTP/1.1 200 OK\r\n"
FAULTS: dict[str, Fault] = {
    **{f"status {number}": _status(number) for number in (408, 409, 425, 429, 500, 502, 503, 504, 520, 524, 529, 530)},
    "retry after a moment": _status(429, headers={"retry-after": "0.02"}),
    "retry after milliseconds": _status(429, headers={"retry-after-ms": "20"}),
    "retry after a date": _status(503, headers=_date),
    "retry after nonsense": _status(429, headers={"retry-after": "soon"}),
    "a page of a proxy": _status(502, b"<html><h1>Bad gateway</h1></html>", {"content-type": "text/html"}),
    "an empty error": _status(500, b""),
    "an error that is no text": _status(500, b"\xff\xfe\x00"),
    "an error nested without end": _status(503, b"[" * 50_000),
    "closed without a word": _raw(b""),
    "reset": _raw(b"", then=_reset),
    "cut in the status": _raw(b"HTTP/1.1 2"),
    "cut in the headers": _raw(OK + b"content-type: app"),
    "cut in the body": _raw(OK + b'content-length: 1000\r\n\r\n{"choices": ['),
    "reset in the body": _raw(OK + b'content-length: 1000\r\n\r\n{"choices": [', then=_reset),
    "cut between chunks": _raw(OK + b'transfer-encoding: chunked\r\n\r\n5\r\n{"cho\r\n'),
    "a chunk of no size": _raw(OK + b"transfer-encoding: chunked\r\n\r\nzz\r\nx\r\n"),
    "no HTTP": _raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "hanging": _sleeping,
    "dripping": _dripping,
    "shorter than said": _raw(OK + b"content-length: 2\r\n\r\n{} and more that nobody reads"),
    "no body": _sent(lambda _: b""),
    "cut JSON": _sent(lambda data: data[:-9]),
    "a page in place of JSON": _sent(lambda _: b"<html>hello</html>"),
    "text that is no UTF-8": _sent(lambda data: data.replace(b"prompt", b"\xc3\x28")),
    "compressed otherwise than said": _sent(lambda data: data, {"content-encoding": "gzip"}),
    "compressed and cut": _sent(lambda data: gzip.compress(data)[:-12], {"content-encoding": "gzip"}),
    "JSON nested without end": _sent(lambda data: b'{"choices": ' + b"[" * 100_000),
    "a number of thousands of digits": _sent(lambda data: data.replace(b'"prompt_tokens": 7', b'"prompt_tokens": ' + b"7" * 5000)),
    "a list": _changed(lambda answer: [answer]),
    "null": _changed(lambda _: None),
    "an error with status 200": _changed(lambda _: error("overloaded")),
    "no choices": _changed(lambda answer: {**answer, "choices": []}),
    "choices that are null": _changed(lambda answer: {**answer, "choices": None}),
    "choices that are no objects": _changed(lambda answer: {**answer, "choices": ["a", "b"]}),
    "usage that is a list": _changed(lambda answer: {**answer, "usage": [1]}),
    "usage as text": _changed(lambda answer: {**answer, "usage": {"completion_tokens": "3"}}),
    "content that is a list": _choice(content=["a"]),
    "content that is a number": _choice(content=5),
    "half a surrogate pair": _choice(content="a \ud800"),
    "a choice without a message": _choice(message=None),
    "an index as text": _choice(index="first"),
    "a reason that is a number": _choice(finish_reason=5),
}  # fmt: skip
"""Kind of fault to what does it in place of an answer."""


def failing_at_first(fault: Fault, seed: str) -> Fault:
    """A fault of about two requests in three, of some a second time: then they are answered."""
    lock, seen, planned, draw = threading.Lock(), Counter[str](), dict[str, int](), random.Random(seed)

    def first(handler: Handler, body: Body) -> bool:
        key = json.dumps(body, sort_keys=True)
        with lock:
            left = planned.setdefault(key, draw.choice((0, 1, 1, 2))) - seen[key]
            seen[key] += 1
        return left > 0 and fault(handler, body)

    return first


def drill(
    kind: str, folder: Path, *, prompts: int = 8, samples: int = 2, seed: int = 0, limit: float | None = None
) -> None:
    """Ask under a kind of fault, twice: the second time everything must be there.

    Raises:
        AssertionError: a sample is lost or another's, or one was paid for twice.
    """
    sampling = Sampling(4, n=samples)
    limit = limit or (TIMEOUT if FAULTS[kind] in WAITING else 60)
    with running() as server:
        server.fault = failing_at_first(FAULTS[kind], f"{seed} {kind}")
        options = BackendOptions(
            endpoint=server.address, endpoint_timeout=limit, endpoint_retries=4, endpoint_concurrency=4,
            endpoint_cache=str(folder / "answers.sqlite"),
        )  # fmt: skip
        client = EndpointClient(options, first_wait=0.001)
        generator = EndpointGenerator(options, client=client)
        try:
            found = texts(generator.generate(prompts_of(prompts), sampling))
            assert found == [expected(number, sampling) for number in range(prompts)], (
                f"{kind}: lost or mixed up"
            )
            assert len(server.requests) > prompts, f"{kind}: nothing failed"
            paid = Counter(server.answered)
            assert max(paid.values()) == 1, f"{kind}: paid twice: {paid.most_common(1)}"
            assert len(paid) == prompts, f"{kind}: {len(paid)} answers of {prompts}"
            before = len(server.requests)
            assert texts(generator.generate(prompts_of(prompts), sampling)) == found
            assert len(server.requests) == before, f"{kind}: asked again for what was there"
        finally:
            generator.close()
