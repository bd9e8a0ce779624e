"""What every local page and server shares: loopback by default, no foreign page may use it, nothing from the network.

Needs the extra `serve` (fastapi, uvicorn).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from annotated_types import Ge, Le

from coalign.core.errors import CoalignError, ConfigError, RunError
from coalign.core.extras import require
from coalign.core.files import parse_json
from coalign.core.options import OptionGroup, option

if TYPE_CHECKING:
    from fastapi import FastAPI

ASSETS = Path(__file__).parent / "assets"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a browser on this machine reaches a loopback server."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "frame-src 'self'",
        "frame-ancestors 'self'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
Port = Annotated[int, Ge(0), Le(65535)]
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(kw_only=True)
class PageOptions(OptionGroup):
    """Where pages for this machine are served."""

    __group__ = "General"

    host: str = option("127.0.0.1", "address to listen on; loopback only")
    port: Port = option(8600, "0: a free one")
    open: bool = option(True, "open the browser")


def local_app(title: str, *, hosts: Iterable[str] = (), **options: Any) -> FastAPI:
    """An application whose pages run only their own scripts and answer only requests made to this machine by name.

    A request for another host name is refused (DNS rebinding), and so is one that changes something and comes from
    another site's page. The content security policy can be replaced by a route that sets the header itself.

    Args:
        hosts: further host names to answer to, for a server that is bound elsewhere; `*` answers to any.
        options: of `FastAPI`.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    fastapi = require("fastapi", "serve")
    trusted = require("starlette.middleware.trustedhost", "serve").TrustedHostMiddleware
    app = fastapi.FastAPI(
        title=title, **{"docs_url": None, "redoc_url": None, "openapi_url": None, **options}
    )
    app.add_middleware(SamePage)
    app.add_middleware(trusted, allowed_hosts=[*LOOPBACK, *hosts], www_redirect=False)
    return app


async def json_object(request: Any) -> dict[str, Any]:
    """The JSON object in the body of a request, which says that it is JSON: what a form or plain text of another page
    could send is refused by its type.

    Raises:
        ConfigError: it is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ConfigError(f"request: its content type is {kind or 'missing'}, expected application/json")
    try:
        value = parse_json(await request.body())
    except ValueError as error:
        raise ConfigError(f"request: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError("request: expected a JSON object")
    return value


def add_static(app: FastAPI, files: Mapping[str, tuple[Path, str]]) -> None:
    """Give each of the files, by name (file, media type), under `/static/`; other names are not found."""
    responses = require("fastapi.responses", "serve")

    @app.get("/static/{name}")
    def static(name: str) -> Any:
        if name not in files:
            raise RunError(f"{name}: no such file.")
        file, media_type = files[name]
        return responses.FileResponse(file, media_type=media_type, headers={"cache-control": "no-cache"})


def status_of(error: CoalignError) -> int:
    """The HTTP status of an error: not found, or a bad request."""
    return 404 if isinstance(error, RunError) else 400


class SamePage:
    """Refuses changes asked for by other sites' pages, and adds `HEADERS` to every answer that has none of its own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] not in SAFE_METHODS and _is_foreign(asked):
            await _refuse(send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                extra = {name.encode(): value.encode() for name, value in HEADERS.items()}
                added = [(name, value) for name, value in extra.items() if name not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, with_headers)


def _is_foreign(headers: dict[str, str]) -> bool:
    """Whether a browser says that another site's page asks. Programs send neither header."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


async def _refuse(send: Any) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": b"Asked for by another site's page."})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be used.
    """
    bare = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind, protocol)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}).",
            hint="Another program may use the port: give another with --port, or 0 for any free one.",
        ) from error
    return server


def listen_here(options: PageOptions, what: str) -> socket.socket:
    """A bound socket of pages that are for this machine alone.

    Args:
        what: the pages, for messages.

    Raises:
        ConfigError: other machines would reach it, or the address cannot be used.
    """
    if not is_loopback(options.host):
        raise ConfigError(
            f"--host: {options.host} can be reached from other machines; the {what} has no accounts.",
            hint=f"Leave --host out and use a tunnel: ssh -L {options.port}:localhost:{options.port} HOST.",
        )
    return listen(options.host, options.port)


def address_of(server: socket.socket) -> str:
    """`http://127.0.0.1:8000`."""
    host, port = server.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_app(app: Any, server: socket.socket, *, log_level: str = "warning") -> None:
    """Serve until interrupted."""
    uvicorn = require("uvicorn", "serve")
    config = uvicorn.Config(app, log_level=log_level, lifespan="on", timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[server])
