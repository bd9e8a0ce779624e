"""Which model is behind a server: what its answers are kept under, beside its name.

Rules, the first that applies:

- The server gives a `fingerprint` of the model in its list (`coalign serve`: a hash of the weights). It alone counts, so
  answers stay valid when the same model is served again.
- A server on this machine: what it lists of the model, and the start of the process that listens on the port. Its
  answers are not used again once it was restarted. Where the process cannot be seen (another user's, a container's)
  they are not used again by any later command; `--endpoint-identity` says what the model is.
- Any other server: what it lists of the model (`owned_by`, `created`, `root`, `digest`).

`created` counts only where it stands still: some servers put the time of the request there.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

LISTED = ("owned_by", "created", "root", "parent", "digest", "meta")
"""Fields of a listed model that say what it is."""
SETTLED = 86_400.0
"""Seconds after which a time of creation is taken as it is; a younger one may be that of the request."""
TICK = 1.1
"""Seconds between two looks at such a time: they are whole seconds."""

_PROCESS = uuid.uuid4().hex


class Identity:
    """What the answers of a model are kept under.

    Args:
        address: of the server.
        listed: asks the server what it lists of the model; empty where it lists nothing.
        pause: waits so many seconds.
    """

    def __init__(
        self,
        address: str,
        listed: Callable[[], dict[str, Any]],
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address = address
        self._listed = listed
        self._pause = pause
        self._local = on_this_machine(address)
        self._stands: bool | None = None  # whether the time of creation stands still, once it is known
        self._found: str | None = None

    def now(self) -> str:
        """The identity. A server on this machine is asked every time: it may have been started anew."""
        if self._found is None or self._local:
            self._found = self._asked()
        return self._found

    def _asked(self) -> str:
        found = self._listed()
        if isinstance(found.get("fingerprint"), str) and found["fingerprint"]:
            return f"fingerprint {found['fingerprint']}"
        said = {name: found[name] for name in LISTED if found.get(name) is not None}
        if not self._stands_still(said.get("created")):
            said.pop("created", None)
        if self._local:
            said["started"] = _start_of_listener(urlsplit(self._address)) or _PROCESS
        return json.dumps(said, sort_keys=True)

    def _stands_still(self, created: Any) -> bool:
        if not isinstance(created, int | float) or created < time.time() - SETTLED:
            return True
        if self._stands is None:
            self._pause(TICK)
            self._stands = self._listed().get("created") == created
        return bool(self._stands)


def on_this_machine(address: str) -> bool:
    """Whether an address is the loopback's."""
    host = urlsplit(address).hostname or ""
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return number.is_loopback or number.is_unspecified


def _start_of_listener(parts: Any) -> str | None:
    """Number and start of the oldest process that listens on the port; None where it cannot be seen."""
    import psutil

    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = []
    with contextlib.suppress(psutil.Error, OSError):
        for pid, one in _connections(psutil):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
                with contextlib.suppress(psutil.Error):
                    found.append((psutil.Process(pid).create_time(), pid))
    return " ".join(map(str, min(found))) if found else None


def _connections(psutil: Any) -> Iterator[tuple[int, Any]]:
    """(process, connection), of this user's processes where the system tells no others."""
    try:
        yield from ((one.pid, one) for one in psutil.net_connections("tcp") if one.pid)
    except psutil.AccessDenied:  # macOS
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                yield from ((process.pid, one) for one in process.net_connections("tcp"))
