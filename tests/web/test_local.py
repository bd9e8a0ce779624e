"""What local pages and servers share: who may ask, and what every answer carries."""

from __future__ import annotations

import socket

import pytest

from coalign.core.errors import ConfigError
from coalign.web.local import HEADERS, address_of, is_loopback, listen, local_app

pytest.importorskip("fastapi")
from fastapi import Response
from starlette.testclient import TestClient


@pytest.fixture
def client() -> TestClient:
    app = local_app("test")
    app.get("/page")(lambda: {"ok": True})
    app.get("/own")(lambda: Response("x", headers={"content-security-policy": "default-src 'self'"}))
    app.post("/change")(lambda: {"ok": True})
    return TestClient(app, base_url="http://127.0.0.1:8000")


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    answer = client.get("/page")
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert client.get("/missing").headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert client.get("/own").headers["content-security-policy"] == "default-src 'self'"


def test_this_machine_is_answered_and_another_name_for_it_refused(client: TestClient) -> None:
    own, others = ("127.0.0.1:8000", "localhost", "localhost:1"), ("evil.example", "evil.example:8000")
    for host in (*own, *others, "127.0.0.1.evil.example"):
        answer = client.get("/page", headers={"host": host})
        assert answer.status_code == (200 if host in own else 400), host


OWN = [{}, {"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1:8000"}]
FOREIGN = [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}]
FOREIGN += [{"origin": one} for one in ("http://evil.example", "http://127.0.0.1:9999", "null")]


@pytest.mark.parametrize("headers", [*OWN, *FOREIGN])
def test_only_its_own_page_and_programs_can_change_anything(
    client: TestClient, headers: dict[str, str]
) -> None:
    assert client.post("/change", headers=headers).status_code == (200 if headers in OWN else 403)


def test_other_hosts_can_be_named() -> None:
    app = local_app("test", hosts=["gpu.example"])
    app.get("/page")(lambda: {})
    assert TestClient(app, base_url="http://gpu.example:80").get("/page").status_code == 200


def test_is_loopback() -> None:
    hosts = ("127.0.0.1", "127.3.2.1", "localhost", "::1", "0.0.0.0", "x")
    assert [is_loopback(host) for host in hosts] == [True] * 4 + [False] * 2


def test_a_used_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be listened on"):
            listen("127.0.0.1", port)


def test_port_0_takes_a_free_one() -> None:
    with listen("127.0.0.1", 0) as server:
        assert address_of(server) == f"http://127.0.0.1:{server.getsockname()[1]}"
