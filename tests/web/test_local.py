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


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "localhost:1"])
def test_this_machine_is_answered(client: TestClient, host: str) -> None:
    assert client.get("/page", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
def test_another_name_for_this_machine_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/page", headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
    ],
)
def test_another_sites_page_cannot_change_anything(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/change", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers", [{}, {"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1:8000"}]
)
def test_its_own_page_and_programs_can(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/change", headers=headers).status_code == 200


def test_other_hosts_can_be_named() -> None:
    app = local_app("test", hosts=["gpu.example"])
    app.get("/page")(lambda: {})
    assert TestClient(app, base_url="http://gpu.example:80").get("/page").status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("x", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


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
