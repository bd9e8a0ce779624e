"""A server of ours on the loopback, in a thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from coalign.web.local import address_of, listen
from coalign.web.serve import Served, make_app


@contextlib.contextmanager
def serving(generator: Any, *, name: str = "tiny", key: str | None = None) -> Iterator[str]:
    """Its base address."""
    socket = listen("127.0.0.1", 0)
    app = make_app(Served(name, generator, key))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until, "the server does not start"
        time.sleep(0.01)
    try:
        yield f"{address_of(socket)}/v1"
    finally:
        server.should_exit = True
        thread.join(10)
        socket.close()
