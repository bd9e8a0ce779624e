"""The endpoint back end when a server refuses, fails, is slow or may not be told a key."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import pytest

from coalign.core.errors import ConfigError, EndpointError
from coalign.models.backends import endpoint_client
from coalign.models.backends.endpoint_client import EndpointClient, retry_after
from coalign.models.backends.options import BackendOptions
from tests.models.endpoint_server import (
    error,
    saying,
)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (saying(500, error("out of luck")), r"answered 500 \(out of luck\), 3 times"),
        (saying(503, b"<html>busy</html>"), r"answered 503 \(<html>busy</html>\)"),
        (lambda h, b: time.sleep(0.6) or True, r"timed out after 0\.2 s while waiting for the answer"),
        (lambda h, b: h.cut() or True, "the connection was cut"),
        (saying(200, b"{no"), r"the answer is not JSON \('\{no'\)"),
        (saying(200, b"[]"), "not a JSON object"),
        (saying(200, {"choices": []}), "cannot be used: it has no choices, 3 times"),
        (saying(200, {"choices": [{}]}), "neither message nor text"),
    ],
)  # fmt: skip
def test_a_failure_that_stays_is_named_with_its_prompt(server, ask, fault, message):
    server.fault = fault
    with pytest.raises(EndpointError, match="prompt 0: .*" + message):
        ask(retries=2, timeout=0.2)
    assert len(server.requests) == 3


def test_a_slow_answer_is_not_waited_for_for_ever(server, ask):
    def drip(handler, body):
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
        return True

    server.fault = drip
    started = time.monotonic()
    with pytest.raises(EndpointError, match="while the answer was coming in"):
        ask(retries=0, timeout=0.25)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (400, error("too long"), "answered 400 .too long.*kept"),
        (401, error("no key"), "answered 401 .no key.*--endpoint-key-variable"),
        (404, error("no model"), "answered 404 .no model.*usually ends in /v1"),
        (429, error("quota", code="insufficient_quota"), "quota"),  # exhausted, so not waited for
    ],
)
def test_what_the_server_refuses_is_not_repeated(server, ask, status, said, hint):
    server.fault = saying(status, said)
    with pytest.raises(EndpointError, match="(?s)" + hint):
        ask(12, concurrency=1)
    assert len(server.requests) == 1


def test_the_others_are_kept_when_one_prompt_fails(server, ask):
    def fault(handler, body):
        if body["messages"][-1]["content"] == "prompt 2":
            time.sleep(0.1)
            return saying(400, error("no"))(handler, body)
        return False

    server.fault = fault
    rows: dict[int, Any] = {}
    with pytest.raises(EndpointError, match="prompt 2"):
        ask(12, concurrency=4, on_batch=rows.update)
    assert {0, 1, 3} <= set(rows)
    assert len(rows) == len(server.requests) - 1


@pytest.mark.parametrize(
    ("headers", "least"), [({"retry-after": "7"}, 7), ({"retry-after-ms": "2500"}, 2.5), ({}, 0)]
)
def test_waits_are_those_that_the_server_asks_for(server, ask, monkeypatch, headers, least):
    waits: list[float] = []
    monkeypatch.setattr(EndpointClient, "_pause", lambda self, seconds: waits.append(seconds))
    server.fault = lambda *request: not waits and saying(429, {}, headers)(*request)
    ask(first_wait=0.5)
    assert least <= waits[0] <= least + 0.5
    server.fault = saying(429, {}, {"retry-after": "86400"})
    with pytest.raises(EndpointError, match="asks to wait 86400 s"):
        ask(cache="off")


def test_back_off_grows_and_has_an_end(options):
    client = EndpointClient(options(), first_wait=0.5)
    for attempt, most in ((1, 0.5), (2, 1.0), (5, 8.0), (40, endpoint_client.LONGEST_WAIT)):
        waits = [client._delay(attempt, None) for _ in range(200)]
        assert 0 <= min(waits) < most / 4
        assert 3 / 4 * most < max(waits) <= most


def test_retry_after_in_seconds_and_as_a_date():
    soon, past = (email.utils.formatdate(time.time() + shift, usegmt=True) for shift in (30, -99))
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert 27 < retry_after({"retry-after": soon}) <= 30
    assert retry_after({"retry-after": past}) == 0
    assert retry_after({"retry-after": "soon"}) is retry_after({}) is None


def test_the_key_is_sent_and_never_shown(server, ask, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    chosen = {"key_variable": "MY_KEY", "retries": 0}
    ask(**chosen)
    assert server.headers[0]["authorization"] == "Bearer sk-secret-123"
    for status in (401, 500):
        server.fault = saying(status, error("bad key sk-secret-123"))
        with pytest.raises(EndpointError, match=r"bad key \*\*\*") as caught:
            ask(2, **chosen)
        assert "secret" not in str(caught.value)
    assert b"secret" not in b"".join(one.read_bytes() for one in tmp_path.iterdir())
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        ask(**chosen)


def test_a_key_goes_only_where_it_belongs(server, ask, monkeypatch):
    for name, key, sent in (("OPENAI_API_KEY", "sk-other", None), ("COALIGN_API_KEY", "ours", "Bearer ours")):
        monkeypatch.setenv(name, key)
        ask(cache="off")
        assert server.headers[-1]["authorization"] == sent


@pytest.mark.parametrize(
    "address", ["http://me:pass@host/v1", "http://host/v1?api_key=pass", "host:80", "ftp://h/v1"]
)
def test_addresses_that_hold_a_secret_or_are_none(address):
    with pytest.raises(ValueError, match="endpoint: ") as caught:
        BackendOptions(endpoint=address)
    assert "pass@" not in str(caught.value)
    assert "api_key=pass" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "sk-proj-1234567890abcdef",
        "hf_AbCdEfGhIjKlMnOp",
        "deadbeef0123456789",
        "abc def",
        "QWERTYUIOPASDFGHJ",
        "x" * 40,
    ],
)
def test_a_key_in_the_place_of_its_variable_is_refused_and_not_shown(name):
    with pytest.raises(ValueError, match="expected the name of an environment variable") as caught:
        BackendOptions(endpoint="http://h/v1", endpoint_key_variable=name)
    assert name not in str(caught.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "MY_KEY_2", "team_key", "KEY"])
def test_names_of_variables_are_taken(name):
    assert BackendOptions(endpoint="http://h/v1", endpoint_key_variable=name).endpoint_key_variable == name


@pytest.mark.parametrize("key", ["geheim\nwort", "pass wort", "schlüssel-wort", "a\x00b-wort", "wort\u2028x"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(ask, monkeypatch, key):
    if "\x00" in key:
        monkeypatch.setattr(endpoint_client.os, "environ", {"MY_KEY": key})
    else:
        monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ConfigError, match="MY_KEY: its value cannot be sent as a key") as caught:
        ask(key_variable="MY_KEY")
    assert "wort" not in str(caught.value)


def test_the_line_break_at_the_end_of_a_key_does_not_matter(server, ask, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-123\r\n")
    ask(key_variable="MY_KEY")
    assert server.headers[0]["authorization"] == "Bearer secret-123"
