"""Requests to an OpenAI-compatible server: time-outs, retries, a budget, and no secret in any message."""

from __future__ import annotations

import contextlib
import email.utils
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from coalign.core.errors import BudgetError, ConfigError, EndpointError, in_one_line
from coalign.core.extras import require
from coalign.core.files import parse_json
from coalign.core.secrets import HIDDEN, hold, redacted
from coalign.models.backends.options import BackendOptions

logger = logging.getLogger(__name__)

REDIRECTS = (301, 302, 303, 307, 308)
"""Status codes that point to another address."""
PASSING = (408, 409, 425, 429)
"""Status codes of the client's that may pass, and so may those of the server's (500 and above) but `LASTING`."""
LASTING = (501, 505)
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds of back-off: a random part of 0.5, 1, 2, ... up to the second figure."""
LONGEST_RETRY_AFTER = 900.0
"""Seconds that a server may ask us to wait; beyond it the request fails."""
CONNECT = 15.0
"""Seconds for a connection to come about."""
SHOWN = 300
MOST_KEPT = 65_536
"""Bytes that are kept of a reply that is no JSON."""


class PassingError(Exception):
    """A failure that may pass; `retry_after` seconds when the server says when."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(Exception):
    """The server refuses a request for good."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Budget:
    """Requests and tokens that may still be used. Shared by every generator of an endpoint in this process."""

    max_requests: int | None = None
    max_tokens: int | None = None
    requests: int = 0
    tokens: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def take_request(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            BudgetError: it would go beyond a limit.
        """
        with self.lock:
            for name, used, limit in (
                ("requests", self.requests, self.max_requests),
                ("tokens", self.tokens, self.max_tokens),
            ):
                if limit is not None and used >= limit:
                    flag = f"--endpoint-max-{name}"
                    raise BudgetError(
                        f"The budget is used up: {used} {name} of {flag} {limit}.",
                        hint=f"Every answer so far is kept: raise {flag} and run the same command again.",
                    )
            self.requests += 1

    def take_tokens(self, usage: Any) -> None:
        """Count the tokens of an answer (its `usage`).

        Raises:
            EndpointError: there is a limit on tokens and the server does not count them.
        """
        total = usage.get("total_tokens") if isinstance(usage, dict) else None
        total = total if isinstance(total, int) else None
        with self.lock:
            self.tokens += total or 0
        if total is None and self.max_tokens is not None:
            raise EndpointError(
                "The server does not say how many tokens it used, so --endpoint-max-tokens cannot be kept.",
                hint="Use --endpoint-max-requests.",
            )


_budgets: dict[tuple[str, int | None, int | None], Budget] = {}


def budget_of(options: BackendOptions) -> Budget:
    """The budget of this endpoint: one for the whole process, however many stages open a generator."""
    limits = (str(options.endpoint), options.endpoint_max_requests, options.endpoint_max_tokens)
    return _budgets.setdefault(limits, Budget(*limits[1:]))


class EndpointClient:
    """Sends requests. Threads may share one.

    Args:
        options: back-end options with an endpoint.
        first_wait: seconds of the first back-off.

    Attributes:
        budget: what was used.
        retries: requests that were repeated.
        on_refused: called with path, request, reply and what is wrong with it, for replies that are no JSON object.

    Raises:
        ConfigError: the environment variable of the key is not set, or holds what cannot be a key.
        MissingExtraError: httpx or tenacity is not installed.
    """

    def __init__(self, options: BackendOptions, *, first_wait: float = FIRST_WAIT) -> None:
        self._httpx: Any = require("httpx", "endpoint")
        self._tenacity: Any = require("tenacity", "endpoint")
        self.address = str(options.endpoint).rstrip("/")
        self.budget = budget_of(options)
        self.retries = 0
        self.on_refused: Callable[[str, Any, Any, str], None] = lambda path, body, reply, problem: None
        self._options = options
        self._first_wait = first_wait
        self._key = _key(options)
        self._closing = threading.Event()
        self._resume_at = 0.0  # a server that asks one request to wait means all of them
        timeout = options.endpoint_timeout
        self._http = self._httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=self._httpx.Timeout(timeout, connect=min(CONNECT, timeout)),
            limits=self._httpx.Limits(max_connections=options.endpoint_concurrency + 1),
            follow_redirects=False,
        )

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at `path`. Not counted against the budget."""
        return self._with_retries("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`.

        Raises:
            RefusedError: the server refuses it for good.
            EndpointError: it failed more often than allowed, or was told to wait too long.
            BudgetError: the budget is used up.
        """
        return self._with_retries("POST", path, body)

    def post_streaming(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer (server-sent events). Retried until the first event, not after."""
        failures = 0
        while True:
            started = False
            try:
                for event in self._events(path, body):
                    started = True
                    yield event
                return
            except PassingError as error:
                failures += 1
                if started or failures > self._options.endpoint_retries:
                    raise EndpointError(f"{self.address}/{path}: {error}, while streaming.") from error
                self._pause(self._delay(failures, error.retry_after))

    def close(self) -> None:
        """Give up whatever is under way."""
        self._closing.set()
        self._http.close()

    def masked(self, text: str) -> str:
        """`text` without the key and other secrets."""
        return redacted(text.replace(self._key, HIDDEN) if self._key else text)

    def _with_retries(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        tenacity = self._tenacity
        tries = self._options.endpoint_retries + 1

        def wait(state: Any) -> float:
            error = state.outcome.exception()
            self.retries += 1
            logger.info("%s: trying again (%d of %d)", error, state.attempt_number, tries - 1)
            return self._delay(state.attempt_number, error.retry_after)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(tries),
            wait=wait,
            sleep=self._pause,
            retry=tenacity.retry_if_exception_type(PassingError),
            reraise=True,
        )
        try:
            return retrying(self._once, method, path, body)
        except PassingError as error:
            raise EndpointError(
                f"{self.address}/{path}: {error}, {tries} times in a row."
                if tries > 1
                else f"{self.address}/{path}: {error}.",
                hint="Is the server up? Every answer so far is kept: run the same command again.",
            ) from error

    def _delay(self, attempt: int, retry_after: float | None) -> float:
        """Full jitter: a random part of a wait that doubles; at least what the server asks for."""
        longest = min(LONGEST_WAIT, self._first_wait * 2 ** (attempt - 1))
        jitter = random.uniform(0, longest)
        if retry_after is None:
            return jitter
        self._resume_at = max(self._resume_at, time.monotonic() + retry_after)
        return retry_after + min(jitter, self._first_wait)

    def _pause(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            raise EndpointError("The request was given up.")

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        with self._exchange(method, path, body) as (response, in_time):
            data = b"".join(in_time(response.iter_bytes()))
        if self._key:  # a server that repeats it would bring it into files
            data = data.replace(self._key.encode(), HIDDEN.encode())
        try:
            answer = parse_json(data, any_text=body is not None)  # texts of an answer are looked through
        except ValueError:
            answer, problem = None, "the answer is not JSON"
        else:
            problem = "the answer is not a JSON object"
        if not isinstance(answer, dict):
            self.on_refused(path, body, data[:MOST_KEPT].decode(errors="replace"), problem)
            raise PassingError(f"{problem} ({self._start_of(data)})")
        return answer

    def _events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._exchange("POST", path, {**body, "stream": True}, each=True) as (response, in_time):
            for line in in_time(response.iter_lines()):
                text = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                text = text.replace(self._key, HIDDEN) if self._key else text
                if text == "[DONE]":
                    return
                if text:
                    try:
                        event = parse_json(text, any_text=True)
                    except ValueError as error:
                        raise PassingError(f"an event is not JSON ({self.masked(text[:SHOWN])!r})") from error
                    if isinstance(event, dict) and "error" in event:
                        raise PassingError(f"the server reports {message_of(text)!r}")
                    yield event
            raise PassingError("the stream ended before [DONE]")

    @contextlib.contextmanager
    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None, *, each: bool = False
    ) -> Iterator[tuple[Any, Callable[[Any], Iterator[Any]]]]:
        """A response, and what hands on parts of it until a deadline, which with `each` counts from the last part.

        Raises:
            As `post`, and PassingError: it failed for a reason that may pass.
        """
        early = self._resume_at - time.monotonic()
        if early > 0:
            self._pause(early)
        if method == "POST":
            self.budget.take_request()
        timeout = self._options.endpoint_timeout
        deadline = time.monotonic() + timeout

        def in_time(parts: Any) -> Iterator[Any]:
            nonlocal deadline
            for part in parts:
                if time.monotonic() > deadline:
                    raise PassingError(f"timed out after {timeout:g} s while the answer was coming in")
                if each:
                    deadline = time.monotonic() + timeout
                yield part

        with (
            self._translated(),
            self._http.stream(method, f"{self.address}/{path}", json=body) as response,
        ):
            if response.status_code != 200:
                text = b"".join(in_time(response.iter_bytes())).decode(errors="replace")
                raise self._refusal(response, text)
            yield response, in_time

    def _refusal(self, response: Any, text: str) -> Exception:
        """What an answer without success means."""
        status, message = response.status_code, self.masked(message_of(text))
        if status in REDIRECTS:
            message = f"look at {self.masked(_without_secrets(response.headers.get('location', 'nowhere')))}"
        said = f"the server answered {status} ({message})" if message else f"the server answered {status}"
        if not _may_pass(status) or "insufficient_quota" in text:
            return RefusedError(status, said)
        wait = retry_after(response.headers)
        if wait is not None and wait > LONGEST_RETRY_AFTER:
            return EndpointError(
                f"{self.address}: {said} and asks to wait {wait:.0f} s.",
                hint="Every answer so far is kept: run the same command again later.",
            )
        return PassingError(said, wait)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Failures of the connection as `PassingError`, naming the step that was waited for."""
        httpx, timeout = self._httpx, self._options.endpoint_timeout
        try:
            yield
        except (httpx.RequestError, RuntimeError) as error:
            if self._closing.is_set():
                raise EndpointError("The request was given up.") from error
            if not isinstance(error, httpx.RequestError):
                raise
            steps = {
                httpx.ConnectTimeout: f"timed out after {min(CONNECT, timeout):g} s while connecting",
                httpx.WriteTimeout: f"timed out after {timeout:g} s while the request was sent",
                httpx.ReadTimeout: f"timed out after {timeout:g} s while waiting for the answer",
                httpx.PoolTimeout: f"timed out after {timeout:g} s while waiting for a free connection",
                httpx.ConnectError: f"cannot connect ({error})",
                httpx.RemoteProtocolError: f"the connection was cut ({error})",
            }
            other = f"the connection broke ({in_one_line(error)})"
            said = next((text for one, text in steps.items() if isinstance(error, one)), other)
            raise PassingError(self.masked(said)) from error

    def _start_of(self, data: bytes) -> str:
        return repr(self.masked(data[:SHOWN].decode(errors="replace")))


def retry_after(headers: Any) -> float | None:
    """Seconds to wait, of `Retry-After` (seconds or an HTTP date) or `retry-after-ms`; None when not said."""
    try:
        if headers.get("retry-after-ms"):
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        value = headers.get("retry-after", "").strip()
        if not value:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _may_pass(status: int) -> bool:
    return status in PASSING or (status >= 500 and status not in LASTING)


def message_of(text: str) -> str:
    """What an error body says, in one line."""
    try:
        body = parse_json(text)
        error = body.get("error", body.get("detail", body.get("message", text)))
        text = error.get("message", text) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        pass
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."


def _without_secrets(address: str) -> str:
    """An address without user, password and what follows ? or #."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _key(options: BackendOptions) -> str | None:
    name = options.endpoint_key_variable
    if name == "auto":
        host = urlsplit(str(options.endpoint)).hostname
        # A key must not go to a server that it was not made for.
        name = "COALIGN_API_KEY"
        if not os.environ.get(name) and host == "api.openai.com":
            name = "OPENAI_API_KEY"
    elif not os.environ.get(name):
        raise ConfigError(f"--endpoint-key-variable: {name} is not set.", hint=f"export {name}=...")
    hold(os.environ.get(name))
    key = os.environ.get(name, "").strip()
    if any(not "!" <= one <= "~" for one in key):
        raise ConfigError(
            f"{name}: its value cannot be sent as a key: it holds a space, a line break or a character that is not ASCII.",
            hint=f"export {name}=... with the key alone.",
        )
    return key or None
