"""A small OpenAI-compatible server on the loopback that answers by rule and can be made to fail."""

from __future__ import annotations

import contextlib
import email.utils
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from coalign.models.backends.endpoint_format import wire_seed
from coalign.models.types import Sampling

Fault = Callable[["Handler", dict[str, Any]], bool]
"""Called before a request is answered; True when it has dealt with it."""


class Server(ThreadingHTTPServer):
    """What was asked and answered.

    Attributes:
        requests: bodies, in the order in which they came.
        answered: (prompt, seed, n) of requests that got a whole answer.
        models: what `/models` lists.
        choices: most choices that one answer holds.
        fault: see `Fault`.
        change: alters an answer before it is sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.answered: list[tuple[str, Any, int]] = []
        self.models: list[dict[str, Any]] = [{"id": "echo", "owned_by": "tests"}]
        self.choices = 99
        self.fault: Fault | None = None
        self.change: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self.most_at_once = self.now = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self.send(200, {"object": "list", "data": self.server.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append(self.headers)
            self.server.now += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.now)
        try:
            if self.server.fault and self.server.fault(self, body):
                return
            answer = self.server.change(answer_to(body, self.server.choices))
            self.send(200, answer)
            with self.server.lock:
                self.server.answered.append((prompt_of(body), body.get("seed"), body.get("n", 1)))
        finally:
            with self.server.lock:
                self.server.now -= 1

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def cut(self) -> None:
        """Begin an answer and close the connection."""
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.wfile.flush()
        self.close_connection = True


def prompt_of(body: dict[str, Any]) -> str:
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


def answer_to(body: dict[str, Any], most: int = 99) -> dict[str, Any]:
    """Choice k of a prompt says `prompt|seed|k`."""
    count = min(body.get("n", 1), most)
    choices = []
    for index in range(count):
        text = f"{prompt_of(body)}|{body.get('seed')}|{index}"
        said = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        choices.append({"index": index, "finish_reason": "stop", **said})
    usage = {"prompt_tokens": 7, "completion_tokens": 3 * count, "total_tokens": 7 + 3 * count}
    return {"choices": choices[::-1], "usage": usage}


def failing(share: float, *, hang: float, seed: int = 0) -> Fault:
    """Fails a share of the requests: 500, 429 with Retry-After (seconds, date), hang, cut connection, bad JSON."""
    chance, lock = random.Random(seed), threading.Lock()

    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        with lock:
            kind = chance.randrange(6) if chance.random() < share else None
        match kind:
            case None:
                return False
            case 0 | 1 | 2:
                date = email.utils.formatdate(time.time(), usegmt=True)
                after = ({}, {"retry-after": "0.02"}, {"retry-after": date})[kind]
                handler.send(429 if after else 500, error("slow down"), after)
            case 3:
                time.sleep(hang)
                handler.close_connection = True
            case 4:
                handler.cut()
            case 5:
                handler.send(200, json.dumps(answer_to(body)).encode()[:-9])
        return True

    return fault


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def saying(status: int, body: Any, headers: dict[str, str] | None = None) -> Fault:
    """Answers every request with this."""

    def fault(handler: Handler, _: dict[str, Any]) -> bool:
        handler.send(status, body, headers)
        return True

    return fault


@contextlib.contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def prompts_of(count: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"prompt {number}"}] for number in range(count)]


PROMPTS = prompts_of(12)
FEW = Sampling(4)
BEGUN = [*PROMPTS[0], {"role": "assistant", "content": "well"}]


def expected(index: int, sampling=FEW, occurrence: int = 0) -> list[str]:
    seed = wire_seed(sampling, occurrence, 0) if sampling.temperature else None
    count = sampling.n if sampling.temperature else 1
    return [f"prompt {index}|{seed}|{k}" for k in range(count)] * (sampling.n // count)


def texts(results):
    return [[one.text for one in samples] for samples in results]
