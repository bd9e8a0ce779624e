"""Answers are kept for the model that gave them, not for its name."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from coalign.core.errors import EndpointError
from coalign.models.backends import endpoint_identity
from coalign.models.backends.endpoint_identity import Identity, on_this_machine
from coalign.models.types import Sampling
from tests.models.endpoint_server import FEW, PROMPTS, running, saying, texts

REMOTE = "https://models.example.org/v1"
OLD = 1_700_000_000


def saying_instead(text: str):
    def change(answer: dict[str, Any]) -> dict[str, Any]:
        for one in answer["choices"]:
            one["message"]["content"] = text
        return answer

    return change


def restarted(monkeypatch: pytest.MonkeyPatch, start: str | None) -> None:
    monkeypatch.setattr(endpoint_identity, "_start_of_listener", lambda parts: start)


def test_another_model_under_the_same_name_and_port_is_asked(server, ask, monkeypatch):
    restarted(monkeypatch, "100.0 7")
    server.change = saying_instead("the first model")
    assert texts(ask(2)) == texts(ask(2)) == [["the first model"]] * 2
    assert len(server.requests) == 2
    server.change = saying_instead("the second model")
    restarted(monkeypatch, "200.0 9")
    assert texts(ask(2)) == [["the second model"]] * 2


def test_a_generator_that_stays_open_sees_the_restart(server, opened, monkeypatch):
    restarted(monkeypatch, "100.0 7")
    generator = opened()
    generator.generate(PROMPTS[:1], FEW)
    restarted(monkeypatch, "200.0 9")
    generator.generate(PROMPTS[:1], FEW)
    assert len(server.requests) == 2


def test_the_start_of_this_very_server_is_seen(server, opened):
    started = json.loads(opened().identity)["started"]
    assert float(started.split()[0]) < time.time()
    assert opened().identity == opened().identity
    with running() as other:
        assert json.loads(opened(address=other.address).identity)["started"] == started  # the same process


def test_where_the_process_cannot_be_seen_answers_last_for_this_command(server, ask, monkeypatch):
    restarted(monkeypatch, None)
    ask(2)
    ask(2)
    assert len(server.requests) == 2
    monkeypatch.setattr(endpoint_identity, "_PROCESS", "another command")
    ask(2)
    assert len(server.requests) == 4
    ask(2, identity="mine")
    monkeypatch.setattr(endpoint_identity, "_PROCESS", "a third")
    ask(2, identity="mine")
    assert len(server.requests) == 6


def test_a_fingerprint_alone_counts(server, ask, monkeypatch):
    server.models = [{"id": "echo", "owned_by": "coalign", "created": 5, "fingerprint": "one"}]
    restarted(monkeypatch, "100.0 7")
    ask(2)
    restarted(monkeypatch, "200.0 9")  # the same weights are served again
    server.models[0]["created"] = 6
    ask(2)
    assert len(server.requests) == 2
    server.models[0]["fingerprint"] = "two"
    ask(2)
    assert len(server.requests) == 4


def test_a_model_that_changes_while_it_is_asked_is_an_error(server, ask):
    server.models = [{"id": "echo", "fingerprint": "one"}]
    server.change = lambda answer: {**answer, "system_fingerprint": "one"}
    ask(1)
    server.change = lambda answer: {**answer, "system_fingerprint": "two"}
    with pytest.raises(EndpointError, match="started again with another model while it was asked"):
        ask([PROMPTS[1]])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"permission": [{"id": "modelperm-1"}], "max_model_len": 9}, True),
        ({"owned_by": "others"}, False),
        ({"created": OLD + 1}, False),
        ({"root": "/weights/b"}, False),
        ({"digest": "sha256:2"}, False),
    ],
)
def test_what_other_servers_list_counts(change, same):
    first = {"id": "m", "owned_by": "vllm", "created": OLD, "root": "/weights/a", "permission": [{"id": "x"}]}
    one, other = (
        Identity(REMOTE, lambda listed=listed: listed).now() for listed in (first, {**first, **change})
    )
    assert (one == other) is same


def test_the_time_of_the_request_is_no_time_of_creation():
    pauses: list[float] = []

    def asked(step: int) -> str:
        clock = iter(range(int(time.time()), int(time.time()) + 100, step or 100))
        last = int(time.time())
        listed = lambda: {"id": "m", "created": next(clock) if step else last}  # noqa: E731
        return Identity(REMOTE, listed, pause=pauses.append).now()

    assert asked(1) == asked(2) == "{}"
    assert "created" in asked(0)
    assert pauses == [endpoint_identity.TICK] * 3


def test_a_server_without_a_list_is_known_by_its_name(server, ask, monkeypatch):
    restarted(monkeypatch, "100.0 7")
    server.models = {"no": "list"}  # type: ignore[assignment]
    ask(2, model="echo")
    ask(2, model="echo")
    assert len(server.requests) == 2
    with pytest.raises(EndpointError, match="lists 0 models"):
        ask(2)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.8.8.8/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost:1/v1", True),
        ("http://0.0.0.0:1/v1", True),
        ("http://192.168.1.7/v1", False),
        (REMOTE, False),
    ],
)
def test_which_addresses_are_this_machine(address, local):
    assert on_this_machine(address) is local


def test_the_line_says_what_came_from_the_cache(opened, capsys):
    opened().generate(PROMPTS[:2], FEW, label="Generating")
    assert "from the cache" not in capsys.readouterr().err
    opened().generate(PROMPTS[:3], FEW, label="Generating")
    assert f"2 from the cache of {time.strftime('%Y-%m-%d')}, 1 asked" in capsys.readouterr().err
    opened().generate(PROMPTS[:3], FEW, label="Generating")
    assert ", 0 asked" in capsys.readouterr().err


GOOD = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}


def reply(**choice: Any) -> dict[str, Any]:
    return {"choices": [{**GOOD, **choice}], "usage": {"total_tokens": 3, "completion_tokens": 1}}


BAD = {
    "content is a list": (
        reply(message={"content": [{"type": "text", "text": "yes"}]}),
        "message.content is",
    ),
    "content is a number": (reply(message={"content": 4}), "message.content is 4, expected text"),
    "content is an object": (reply(message={"content": {"a": 1}}), "message.content is"),
    "half a surrogate pair": (
        rb'{"choices": [{"message": {"content": "a\ud83d"}}]}',
        "half a surrogate pair",
    ),
    "text is true": ({"choices": [{"text": True}]}, "message.content is True"),
    "usage is text": ({**reply(), "usage": "many"}, "usage is 'many', expected an object"),
    "a count is text": ({**reply(), "usage": {"total_tokens": "3"}}, "usage.total_tokens is '3'"),
    "index is text": (reply(index="0"), "index is '0', expected a whole number"),
    "reason is a list": (reply(finish_reason=["stop"]), "finish_reason is"),
    "choices are an object": ({"choices": {"0": GOOD}}, "it has no choices"),
    "a choice is text": ({"choices": ["yes"]}, "neither message nor text"),
    "deep": (b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not JSON"),
    "digits": (b'{"choices": [], "n": ' + b"9" * 6000 + b"}", "is not JSON"),
    "not an object": (b'"yes"', "not a JSON object"),
}


@pytest.mark.parametrize("name", BAD)
def test_replies_of_the_wrong_type_are_kept_apart_and_asked_for_again(server, opened, tmp_path, name):
    bad, problem = BAD[name]
    server.fault = lambda *request: len(server.requests) < 3 and saying(200, bad)(*request)
    generator = opened()
    server.change = saying_instead("fine")
    assert texts(generator.generate(PROMPTS[:1], FEW)) == [["fine"]]
    assert (len(server.requests), generator.refused, generator._client.retries) == (3, 2, 2)
    rows = [json.loads(line) for line in (tmp_path / "c.refused.jsonl").read_text().splitlines()]
    assert [problem in one["problem"] for one in rows] == [True, True]
    assert rows[0]["request"]["messages"] == PROMPTS[0]
    again = opened()
    assert texts(again.generate(PROMPTS[:1], FEW)) == [["fine"]]  # the good one alone was kept
    assert len(server.requests) == 3


@pytest.mark.parametrize("name", BAD)
def test_replies_that_stay_wrong_are_an_error(server, ask, name):
    server.fault = saying(200, BAD[name][0])
    with pytest.raises(
        EndpointError, match=r"prompt 0: .*(cannot be used|not JSON|not a JSON object).*2 times"
    ):
        ask(1, retries=1)


@pytest.mark.parametrize(
    "logprobs",
    [[], {"content": [{"token": 5}]}, {"content": [{"token": "a", "logprob": "x"}]}, {"tokens": 3}],
)
def test_logprobs_of_the_wrong_type_are_not_kept(server, opened, logprobs):
    server.change = lambda answer: {**answer, "choices": [{**answer["choices"][0], "logprobs": logprobs}]}
    generator = opened(retries=1)
    with pytest.raises(EndpointError, match=r"logprobs is not usable"):
        generator.generate(PROMPTS[:1], Sampling(4, logprobs=True))
    assert generator.refused == 2


@pytest.mark.parametrize(
    "event", ["[1]", '{"choices": 5}', '{"choices": ["a"]}', '{"choices": [{"delta": {"content": ["a"]}}]}']
)
def test_events_of_the_wrong_type_are_an_error(server, opened, event):
    server.fault = saying(200, f"data: {event}\n\ndata: [DONE]\n\n".encode())
    with pytest.raises(EndpointError, match="an event cannot be used"):
        list(opened().stream(PROMPTS[:1], FEW))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_explained(server, ask, status):
    place = "https://me:word@elsewhere.example.org/v1/chat?key=word"
    server.fault = saying(status, {}, {"location": place})
    with pytest.raises(
        EndpointError, match=rf"answered {status} \(look at https://elsewhere.example.org/v1/chat\)"
    ) as caught:
        ask(1)
    assert "word" not in str(caught.value)
    assert "Redirects are not followed" in str(caught.value.hint)
    assert len(server.requests) == 1
