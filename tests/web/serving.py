"""A server of ours on the loopback, in a thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import uvicorn

from coalign.web.local import address_of, listen
from coalign.web.serve import Served, make_app


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of an application."""
    socket = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until, "the server does not start"
        time.sleep(0.01)
    try:
        yield address_of(socket)
    finally:
        server.should_exit = True
        thread.join(10)
        socket.close()


@contextlib.contextmanager
def serving(generator: Any, *, name: str = "tiny", key: str | None = None) -> Iterator[str]:
    """The base address of a served generator."""
    with running(make_app(Served(name, generator, key))) as address:
        yield f"{address}/v1"


@contextlib.contextmanager
def asked(generator: Any, given: str = "x", **served: Any) -> Iterator[tuple[str, openai.OpenAI]]:
    """The base address of a served generator and a client of it that asks once."""
    with (
        serving(generator, **served) as address,
        openai.OpenAI(base_url=address, api_key=given, max_retries=0) as client,
    ):
        yield address, client
