"""Commands that fail show no key and no password, and leave none in files."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from coalign.core import secrets
from tests.models.endpoint_server import error, running, saying
from tests.preference.tiny_runs import pairs, write

KEY = "planted-Secret-4711-value"
COMMANDS = {
    "generate": ["generate", "--prompts", "prompts.jsonl", "--out", "out.jsonl"],
    "judge": ["judge", "--data", "pairs.jsonl", "--out", "judged"],
    "run": ["run", "adaptive-mt", "--data", "lines.txt", "--memory", "memory.tsv", "--retrieval", "edit",
            "--target-language", "Spanish", "--out", "run"],
    "urial": ["run", "urial", "--prompts", "prompts.jsonl", "--out", "urial"],
    "chat": ["chat"],
}  # fmt: skip


@pytest.fixture
def planted(coalign, tmp_path, monkeypatch):
    """Runs a command and says where the key came up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(secrets, "_held", set())
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    for name in ("COALIGN_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    write(Path("prompts.jsonl"), [{"prompt": "say sea"}])
    write(Path("pairs.jsonl"), pairs(2))
    Path("lines.txt").write_text("Wash your hands.\n")
    Path("memory.tsv").write_text("Wash your face.\tLávese la cara.\n")

    def call(*argv: str, secret: str = KEY):
        result = coalign(*argv)
        shown = [name for name in ("out", "err") if secret in getattr(result, name)]
        files = [
            str(one.relative_to(tmp_path))
            for one in tmp_path.rglob("*")
            if one.is_file() and one.suffix != ".yaml" and secret.encode() in one.read_bytes()
        ]
        assert (shown, files) == ([], []), result.err
        return result

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_a_key_in_the_place_of_its_variables_name(planted, command):
    result = planted(
        *COMMANDS[command], "--endpoint", "http://127.0.0.1:9/v1", "--endpoint-key-variable", KEY
    )
    assert result.code != 0
    assert "name of an environment variable" in result.err or "No such option" in result.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("value", [f"{KEY}\nX: 1", f"{KEY} and more", f"{KEY}é"])
def test_a_key_that_cannot_be_sent(planted, command, value, monkeypatch):
    monkeypatch.setenv("COALIGN_API_KEY", value)
    result = planted(*COMMANDS[command], "--endpoint", "http://127.0.0.1:9/v1", "--endpoint-retries", "0")
    assert result.code != 0


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "address", [f"http://me:{KEY}@host/v1", f"http://host/v1?key={KEY}", f"http://me:{KEY}/v1"]
)
def test_an_address_with_a_password(planted, command, address):
    assert planted(*COMMANDS[command], "--endpoint", address).code != 0


@pytest.mark.parametrize(
    "text",
    [
        f"prompts: [a.jsonl, 'https://me:{KEY}@host/b.jsonl']\nout: urial\n",
        f"prompts: prompts.jsonl\nendpoint: ['http://me:{KEY}@host/v1']\n",
        f"prompts: prompts.jsonl\nendpoint: http://host/v1\nendpoint_key_variable: [{KEY}]\n",
        f"prompts: prompts.jsonl\nendpoint_key_variable: {KEY}\nendpoint: http://host/v1\n",
    ],
)
def test_a_secret_in_a_yaml_file(planted, text):
    Path("c.yaml").write_text(text)
    result = planted("run", "urial", "--config", "c.yaml", "--out", "urial")
    assert result.code != 0
    assert result.err.startswith("Error")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("status", [200, 307, 401, 500])
def test_a_server_that_repeats_the_key(planted, command, status, monkeypatch):
    monkeypatch.setenv("COALIGN_API_KEY", KEY)
    answer = {"choices": [{"message": {"content": f"Bearer {KEY}"}, "finish_reason": "stop"}], "usage": {}}
    said = answer if status == 200 else error(f"bad key {KEY}")
    with running() as server:
        server.fault = saying(status, said, {"location": f"http://host/{KEY}"})
        result = planted(*COMMANDS[command], "--endpoint", server.address, "--endpoint-retries", "0")
        assert any(KEY in str(one["authorization"]) for one in server.headers), result.err
    if status != 200:
        assert result.code != 0


def test_a_key_among_the_arguments(planted):
    result = planted("generate", "--api-key", KEY, f"--token={KEY}", KEY)
    assert result.code == 2


def test_what_is_kept_of_replies_holds_no_key(planted, monkeypatch):
    monkeypatch.setenv("COALIGN_API_KEY", KEY)
    with running() as server:
        server.fault = saying(200, {"choices": [{"message": {"content": [KEY]}}]})
        planted(*COMMANDS["generate"], "--endpoint", server.address, "--endpoint-retries", "1")
    (kept,) = Path("cache").glob("*.refused.jsonl")
    assert "***" in json.loads(kept.read_text().splitlines()[0])["problem"]
