"""Figures of a server in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coalign.models.generation.prefix_cache.store import PrefixCache

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper ends of the buckets of seconds."""
CACHED = (
    ("prompt_cache_lookups_total", "counter", "Prompts that were looked up among earlier ones.", "lookups"),
    ("prompt_cache_hits_total", "counter", "Prompts of which a beginning was found.", "hits"),
    ("prompt_cache_tokens_total", "counter", "Tokens of prompts that were found.", "tokens"),
    ("prompt_cache_bytes", "gauge", "Bytes of the states that are kept.", "bytes"),
)
"""Name, kind and meaning of a figure of `PrefixCache`, and its attribute."""
TOKENS = {"prompt_tokens": "prompt", "completion_tokens": "generation"}


class Metrics:
    """What was asked of a server since it started. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request that was answered; `seconds`: until the last byte of its answer."""
        with self._lock:
            self._requests[path, status] += 1
            counts = self._buckets.setdefault(path, [0] * (len(BUCKETS) + 1))
            counts[sum(seconds > one for one in BUCKETS)] += 1
            self._seconds[path] += seconds  # type: ignore[assignment]

    def used(self, usage: Mapping[str, Any]) -> None:
        """The tokens of a request."""
        with self._lock:
            for name, kind in TOKENS.items():
                self._tokens[kind] += usage.get(name, 0)

    def text(self, waiting: int, prefixes: Sequence[PrefixCache] = ()) -> str:
        """All of it.

        Args:
            waiting: prompts under way or in line.
            prefixes: where the states of earlier prompts are kept.
        """
        with self._lock:
            lines = _head("requests_total", "counter", "Requests that were answered.")
            for (path, status), count in sorted(self._requests.items()):
                lines.append(f'coalign_requests_total{{path="{path}",status="{status}"}} {count}')
            lines += _head("request_seconds", "histogram", "Seconds until the last byte of an answer.")
            for path, counts in sorted(self._buckets.items()):
                ends = [*map(str, BUCKETS), "+Inf"]
                for place, end in enumerate(ends):
                    sofar = sum(counts[: place + 1])
                    lines.append(f'coalign_request_seconds_bucket{{path="{path}",le="{end}"}} {sofar}')
                lines.append(f'coalign_request_seconds_sum{{path="{path}"}} {self._seconds[path]:.6f}')
                lines.append(f'coalign_request_seconds_count{{path="{path}"}} {sum(counts)}')
            lines += _head("tokens_total", "counter", "Tokens of prompts and of what was generated.")
            lines += [
                f'coalign_tokens_total{{kind="{kind}"}} {self._tokens[kind]}' for kind in TOKENS.values()
            ]
        lines += _head("prompts_waiting", "gauge", "Prompts under way or in line.")
        lines.append(f"coalign_prompts_waiting {waiting}")
        for name, kind, told, attribute in CACHED if prefixes else ():
            lines += _head(name, kind, told)
            lines.append(f"coalign_{name} {sum(getattr(one, attribute) for one in prefixes)}")
        return "\n".join([*lines, ""])


class Measured:
    """An ASGI application whose requests are counted.

    Args:
        paths: those that are told apart; all others are `other`, since clients choose them.
    """

    def __init__(self, app: Any, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def told(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.request(path, status, time.monotonic() - started)


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP coalign_{name} {text}", f"# TYPE coalign_{name} {kind}"]
