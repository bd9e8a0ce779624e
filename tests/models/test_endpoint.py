"""The endpoint back end against a local server that answers by rule and fails on request."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from coalign.core.errors import BudgetError, ConfigError, EndpointError
from coalign.models.backends import endpoint_client
from coalign.models.backends.endpoint import EndpointGenerator
from coalign.models.backends.endpoint_client import EndpointClient, retry_after
from coalign.models.backends.endpoint_format import Asked, answer_key, wire_seed
from coalign.models.backends.open import describe_generator, open_generator
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from tests.models.endpoint_server import failing, running

PROMPTS = [[{"role": "user", "content": f"prompt {number}"}] for number in range(12)]


@pytest.fixture
def server():
    with running() as one:
        yield one


@pytest.fixture
def options(server, tmp_path, monkeypatch):
    """Back-end options; every server has a port of its own, so budgets do not meet."""
    for name in ("COALIGN_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def make(**changes: Any) -> BackendOptions:
        values = {
            "endpoint": server.address,
            "endpoint_timeout": 5.0,
            "endpoint_cache": str(tmp_path / "c.sqlite"),
        }
        return BackendOptions(**{**values, **changes})

    return make


def opened(options: BackendOptions, first_wait: float = 0.01) -> EndpointGenerator:
    return EndpointGenerator(options, client=EndpointClient(options, first_wait=first_wait))


def expected(index: int, sampling: Sampling, occurrence: int = 0) -> list[str]:
    seed = wire_seed(sampling, occurrence, 0) if sampling.temperature else None
    count = sampling.n if sampling.temperature else 1
    return [f"prompt {index}|{seed}|{k}" for k in range(count)] * (sampling.n // count)


def texts(results):
    return [[one.text for one in samples] for samples in results]


def test_samples_of_messages_and_of_text(server, options):
    generator = opened(options())
    sampling = Sampling(9, n=3, top_p=0.8, top_k=5, stop=("END",), seed=4)
    results = generator.generate([*PROMPTS[:2], "plain"], sampling)
    assert texts(results)[:2] == [expected(0, sampling), expected(1, sampling)]
    assert results[2][2].text == f"plain|{wire_seed(sampling, 0, 0)}|2"
    chat = next(one for one in server.requests if "messages" in one)
    assert {**chat, "messages": 0, "seed": 0} == {
        "model": "echo", "messages": 0, "seed": 0, "max_tokens": 9, "temperature": 1.0, "top_p": 0.8, "top_k": 5,
        "n": 3, "stop": ["END"],
    }  # fmt: skip
    assert "prompt" in next(one for one in server.requests if "messages" not in one)
    stats = generator.last_stats
    assert (stats.prompts, stats.samples, stats.tokens) == (3, 9, 3 * 16)
    assert describe_generator(generator, "x") == f"echo at {server.address}"
    assert isinstance(open_generator(ModelOptions(), options()), EndpointGenerator)


def test_greedy_is_asked_for_once(server, options):
    sampling = Sampling(4, temperature=0.0, n=3)
    assert texts(opened(options()).generate(PROMPTS[:1], sampling)) == [expected(0, sampling)]
    assert len(server.requests) == 1
    assert "seed" not in server.requests[0]


def test_equal_prompts_get_samples_of_their_own(server, options):
    sampling = Sampling(4, n=2)
    results = opened(options()).generate([PROMPTS[0], PROMPTS[1], PROMPTS[0]], sampling)
    assert texts(results) == [expected(0, sampling), expected(1, sampling), expected(0, sampling, 1)]
    assert results[0] != results[2]


def test_kept_answers_are_not_asked_for_again(server, options):
    sampling = Sampling(4, n=2)
    first = opened(options()).generate(PROMPTS, sampling)
    assert len(server.requests) == 12
    again = opened(options())
    assert again.generate(list(reversed(PROMPTS)), sampling) == first[::-1]
    assert (len(server.requests), again.kept, again.last_stats.samples) == (12, 24, 0)
    more = again.generate(PROMPTS, Sampling(4, n=3))
    assert [samples[:2] for samples in more] == first
    assert len(server.requests) == 24
    assert all("n" not in one for one in server.requests[12:])
    opened(options(endpoint_cache="off")).generate(PROMPTS[:1], sampling)
    assert len(server.requests) == 25


def test_every_field_of_the_key_counts():
    asked, sampling = Asked("http://a/v1", "m", PROMPTS[0], 0, "off"), Sampling()
    begun = [*PROMPTS[0], {"role": "assistant", "content": "a"}]
    keys = [
        answer_key(asked, sampling, 0),
        answer_key(asked, sampling, 1),
        *(
            answer_key(Asked(*one), sampling, 0)
            for one in [
                ("http://b/v1", "m", PROMPTS[0], 0, "off"),
                ("http://a/v1", "n", PROMPTS[0], 0, "off"),
                ("http://a/v1", "m", PROMPTS[1], 0, "off"),
                ("http://a/v1", "m", "prompt 0", 0, "off"),
                ("http://a/v1", "m", PROMPTS[0], 1, "off"),
                ("http://a/v1", "m", begun, 0, "continue"),
                ("http://a/v1", "m", begun, 0, "vllm"),
            ]
        ),
        *(
            answer_key(asked, Sampling(**changes), 0)
            for changes in [
                {"max_new_tokens": 5}, {"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 5}, {"seed": 5},
                {"stop": ("a",)}, {"logprobs": True}, {"top_logprobs": 2},
            ]
        ),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert answer_key(asked, Sampling(n=9), 0) == keys[0]
    greedy = [answer_key(asked, Sampling(temperature=0.0, seed=seed), seed) for seed in range(3)]
    assert len(set(greedy)) == 1


def test_a_server_that_ignores_n_is_asked_one_by_one(server, options):
    server.choices = 1
    sampling = Sampling(4, n=3)
    results = opened(options(endpoint_concurrency=1)).generate(PROMPTS[:2], sampling)
    for index, samples in enumerate(results):
        assert [one.text for one in samples] == [
            f"prompt {index}|{wire_seed(sampling, 0, k)}|0" for k in range(3)
        ]
    assert [one.get("n", 1) for one in server.requests] == [3, 1, 1, 1, 1, 1]


def test_nothing_is_lost_doubled_or_mixed_up_when_a_third_of_the_requests_fail(server, options):
    server.fault = failing(0.3, hang=0.9)
    chosen = options(endpoint_timeout=0.4, endpoint_concurrency=6, endpoint_retries=12)
    prompts = [[{"role": "user", "content": f"prompt {number}"}] for number in range(60)]
    sampling = Sampling(4, n=2)
    rows: dict[int, Any] = {}
    times: Counter[int] = Counter()

    def keep(batch):
        times.update(batch.keys())
        rows.update(batch)

    generator = opened(chosen)
    results = generator.generate(prompts, sampling, done=[3, 4], on_batch=keep)
    wanted = [expected(index, sampling) for index in range(60)]
    assert [texts([one])[0] for index, one in enumerate(results) if index not in (3, 4)] == [
        one for index, one in enumerate(wanted) if index not in (3, 4)
    ]
    assert sorted(times) == [index for index in range(60) if index not in (3, 4)]
    assert set(times.values()) == {1}
    assert rows == {index: results[index] for index in times}
    assert generator._client.retries > 8
    assert server.most_at_once <= 6
    before = len(server.requests)
    opened(chosen).generate(prompts, sampling, done=[3, 4])
    assert len(server.requests) == before


def test_a_killed_run_pays_for_nothing_twice(server, options, tmp_path):
    """A process is killed while it works; the next one asks only for what is not there."""
    script = textwrap.dedent("""
        import sys
        from coalign.models.backends.options import BackendOptions
        from coalign.models.backends.endpoint import EndpointGenerator
        from coalign.models.types import Sampling
        options = BackendOptions(endpoint=sys.argv[1], endpoint_cache=sys.argv[2], endpoint_concurrency=2)
        prompts = [[{"role": "user", "content": f"prompt {number}"}] for number in range(12)]
        EndpointGenerator(options).generate(prompts, Sampling(4))
    """)
    reached = threading.Event()

    def slow(handler, body):
        time.sleep(0.02)
        if len(server.answered) >= 5:
            reached.set()
            time.sleep(1.0)  # killed meanwhile: these never come to be answered
            handler.close_connection = True
            return True
        return False

    server.fault = slow
    cache = str(tmp_path / "c.sqlite")
    child = subprocess.Popen([sys.executable, "-c", script, server.address, cache])
    try:
        assert reached.wait(60)
        time.sleep(0.3)
    finally:
        child.kill()
        child.wait()
    server.fault = None
    paid = Counter(server.answered)
    assert 5 <= sum(paid.values()) <= 7
    results = opened(options()).generate(PROMPTS, Sampling(4))
    assert texts(results) == [expected(index, Sampling(4)) for index in range(12)]
    assert Counter(server.answered) == Counter(dict.fromkeys(server.answered, 1))
    assert len(server.answered) == 12


def test_a_budget_of_requests_stops_the_run_and_keeps_what_is_there(server, options):
    sampling = Sampling(4)
    rows: dict[int, Any] = {}
    with pytest.raises(BudgetError, match="5 requests of --endpoint-max-requests 5") as caught:
        opened(options(endpoint_max_requests=5)).generate(PROMPTS, sampling, on_batch=rows.update)
    assert "run the same command again" in str(caught.value)
    assert len(server.requests) == len(rows) == 5
    with pytest.raises(BudgetError):  # the budget is the process's, not the generator's
        opened(options(endpoint_max_requests=5)).generate(PROMPTS, sampling)
    results = opened(options(endpoint_max_requests=7)).generate(PROMPTS, sampling)
    assert texts(results) == [expected(index, sampling) for index in range(12)]
    assert len(server.requests) == 12


def test_a_budget_of_tokens(server, options):
    chosen = options(endpoint_max_tokens=25, endpoint_concurrency=1)
    with pytest.raises(BudgetError, match="30 tokens of --endpoint-max-tokens 25"):
        opened(chosen).generate(PROMPTS, Sampling(4))
    assert len(server.requests) == 3
    server.change = lambda answer: {**answer, "usage": None}
    with pytest.raises(EndpointError, match="does not say how many tokens"):
        opened(options(endpoint_max_tokens=26)).generate(PROMPTS, Sampling(4))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda h, b: h.send(500, {"error": {"message": "out of luck"}}) or True, r"answered 500 \(out of luck\), 3 times"),
        (lambda h, b: h.send(503, b"<html>busy</html>") or True, r"answered 503 \(<html>busy</html>\)"),
        (lambda h, b: time.sleep(0.6) or True, r"timed out after 0\.2 s while waiting for the answer"),
        (lambda h, b: h.cut() or True, "the connection was cut"),
        (lambda h, b: h.send(200, b"{no") or True, r"the answer is not JSON \('\{no'\)"),
        (lambda h, b: h.send(200, b"[]") or True, "not a JSON object"),
        (lambda h, b: h.send(200, {"choices": []}) or True, "cannot be used: it has no choices, 3 times"),
        (lambda h, b: h.send(200, {"choices": [{}]}) or True, "neither message nor text"),
    ],
)  # fmt: skip
def test_a_failure_that_stays_is_named_with_its_prompt(server, options, fault, message):
    server.fault = fault
    generator = opened(options(endpoint_retries=2, endpoint_timeout=0.2))
    with pytest.raises(EndpointError, match="prompt 0: .*" + message):
        generator.generate(PROMPTS[:1], Sampling(4))
    assert len(server.requests) == 3


def test_a_slow_answer_is_not_waited_for_for_ever(server, options):
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
        opened(options(endpoint_retries=0, endpoint_timeout=0.25)).generate(PROMPTS[:1], Sampling(4))
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("status", "text", "hint"),
    [
        (400, "too long", "kept"),
        (401, "no key", "--endpoint-key-variable"),
        (404, "no model", "usually ends in /v1"),
    ],
)
def test_what_the_server_refuses_is_not_repeated(server, options, status, text, hint):
    server.fault = lambda handler, body: handler.send(status, {"error": {"message": text}}) or True
    with pytest.raises(EndpointError, match=f"answered {status} .{text}") as caught:
        opened(options(endpoint_concurrency=1)).generate(PROMPTS, Sampling(4))
    assert hint in str(caught.value)
    assert len(server.requests) == 1


def test_an_exhausted_quota_is_not_waited_for(server, options):
    body = {"error": {"message": "quota", "code": "insufficient_quota"}}
    server.fault = lambda handler, _: handler.send(429, body) or True
    with pytest.raises(EndpointError, match="quota"):
        opened(options()).generate(PROMPTS[:1], Sampling(4))
    assert len(server.requests) == 1


def test_the_others_are_kept_when_one_prompt_fails(server, options):
    def fault(handler, body):
        if body["messages"][-1]["content"] == "prompt 2":
            time.sleep(0.1)
            return handler.send(400, {"error": {"message": "no"}}) or True
        return False

    server.fault = fault
    rows: dict[int, Any] = {}
    with pytest.raises(EndpointError, match="prompt 2"):
        opened(options(endpoint_concurrency=4)).generate(PROMPTS, Sampling(4), on_batch=rows.update)
    assert {0, 1, 3} <= set(rows)
    assert len(rows) == len(server.requests) - 1


def test_waits_are_those_that_the_server_asks_for(server, options, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(EndpointClient, "_pause", lambda self, seconds: waits.append(seconds))
    for headers, least in (({"retry-after": "7"}, 7), ({"retry-after-ms": "2500"}, 2.5), ({}, 0)):
        once = iter([True])
        server.fault = lambda handler, body, once=once, headers=headers: (
            next(once, False) and (handler.send(429, {}, headers) or True)
        )
        waits.clear()
        opened(options(endpoint_cache="off"), first_wait=0.5).generate(PROMPTS[:1], Sampling(4))
        assert least <= waits[0] <= least + 0.5
    server.fault = lambda handler, body: handler.send(429, {}, {"retry-after": "86400"}) or True
    with pytest.raises(EndpointError, match="asks to wait 86400 s"):
        opened(options(endpoint_cache="off")).generate(PROMPTS[:1], Sampling(4))


def test_back_off_grows_and_has_an_end(server, options):
    client = EndpointClient(options(), first_wait=0.5)
    for attempt, most in ((1, 0.5), (2, 1.0), (5, 8.0), (40, endpoint_client.LONGEST_WAIT)):
        waits = [client._delay(attempt, None) for _ in range(200)]
        assert 0 <= min(waits) < most / 4
        assert 3 / 4 * most < max(waits) <= most


def test_retry_after_in_seconds_and_as_a_date():
    import email.utils

    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert 27 < retry_after({"retry-after": date}) <= 30
    assert retry_after({"retry-after": email.utils.formatdate(time.time() - 99, usegmt=True)}) == 0
    assert retry_after({"retry-after": "soon"}) is retry_after({}) is None


def test_the_key_is_sent_and_never_shown(server, options, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    chosen = options(endpoint_key_variable="MY_KEY", endpoint_retries=0)
    opened(chosen).generate(PROMPTS[:1], Sampling(4))
    assert server.headers[0]["authorization"] == "Bearer sk-secret-123"
    for status in (401, 500):
        server.fault = lambda handler, body, status=status: (
            handler.send(status, {"error": {"message": "bad key sk-secret-123"}}) or True
        )
        with pytest.raises(EndpointError, match=r"bad key \*\*\*") as caught:
            opened(chosen).generate(PROMPTS[1:2], Sampling(4))
        assert "secret" not in str(caught.value)
    assert b"secret" not in b"".join(one.read_bytes() for one in tmp_path.iterdir())
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        opened(chosen)


def test_a_key_goes_only_where_it_belongs(server, options, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    opened(options()).generate(PROMPTS[:1], Sampling(4))
    assert server.headers[-1]["authorization"] is None
    monkeypatch.setenv("COALIGN_API_KEY", "ours")
    opened(options()).generate(PROMPTS[1:2], Sampling(4))
    assert server.headers[-1]["authorization"] == "Bearer ours"


@pytest.mark.parametrize(
    "address", ["http://me:pass@host/v1", "http://host/v1?api_key=pass", "host:80", "ftp://h/v1"]
)
def test_addresses_that_hold_a_secret_or_are_none(address):
    with pytest.raises(ValueError, match="endpoint: ") as caught:
        BackendOptions(endpoint=address)
    assert "pass@" not in str(caught.value)
    assert "api_key=pass" not in str(caught.value)


def test_the_only_model_is_taken_and_among_several_one_must_be_named(server, options):
    assert opened(options()).model == "echo"
    server.models = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(EndpointError, match="lists 2 models: a, b"):
        opened(options())
    assert opened(options(endpoint_model="b")).model == "b"


def test_a_server_that_is_not_there(options):
    chosen = options(endpoint="http://127.0.0.1:9/v1", endpoint_retries=0)
    with pytest.raises(EndpointError, match="cannot connect"):
        opened(chosen)


BEGUN = [*PROMPTS[0], {"role": "assistant", "content": "well"}]


def test_a_begun_turn_only_where_the_server_continues_it(server, options):
    with pytest.raises(EndpointError, match="not known to continue"):
        opened(options()).generate([BEGUN], Sampling(4))
    assert server.requests == []
    opened(options(endpoint_prefill="continue")).generate([BEGUN], Sampling(4))
    assert "continue_final_message" not in server.requests[0]
    server.models = [{"id": "echo", "owned_by": "vllm"}]
    opened(options()).generate([BEGUN], Sampling(4))
    assert server.requests[1]["continue_final_message"] is True
    assert server.requests[1]["add_generation_prompt"] is False


def test_logprobs_in_both_forms(server, options):
    def change(answer):
        for one in answer["choices"]:
            if "message" in one:
                top = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]
                one["logprobs"] = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": top}]}
            else:
                one["logprobs"] = {
                    "tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.5, "a": -0.5}],
                }  # fmt: skip
        return answer

    server.change = change
    sampling = Sampling(4, top_logprobs=2)
    chat, text = (samples[0] for samples in opened(options()).generate([PROMPTS[0], "x"], sampling))
    for one in (chat, text):
        assert (one.tokens, one.logprobs, one.length) == (["a"], [-0.5], 1)
        assert one.top_logprobs == [[("a", -0.5), ("b", -1.5)]]
    assert {one.get("top_logprobs", one.get("logprobs")) for one in server.requests} == {2}
    server.change = lambda answer: answer
    with pytest.raises(EndpointError, match="no log-probabilities"):
        opened(options()).generate(PROMPTS[1:2], sampling)


def test_a_stop_text_that_the_server_left_is_cut(server, options):
    def change(answer):
        for one in answer["choices"]:
            one["message"]["content"], one["finish_reason"] = "one STOP two", "length"
        return answer

    server.change = change
    one = opened(options()).generate(PROMPTS[:1], Sampling(4, stop=("STOP",)))[0][0]
    assert (one.text, one.finish_reason, one.length) == ("one ", "stop", 3)


def test_a_server_with_another_name_for_the_limit(server, options):
    def fault(handler, body):
        if "max_tokens" in body:
            message = "Unsupported parameter: use 'max_completion_tokens' instead."
            return handler.send(400, {"error": {"message": message}}) or True
        return False

    server.fault = fault
    results = opened(options(endpoint_concurrency=1)).generate(PROMPTS[:2], Sampling(4))
    assert texts(results) == [expected(0, Sampling(4)), expected(1, Sampling(4))]
    assert [list(one)[1] for one in server.requests] == ["max_tokens", *["max_completion_tokens"] * 2]


def test_what_the_content_filter_cut_is_counted(server, options, caplog):
    def change(answer):
        answer["choices"][0] |= {"finish_reason": "content_filter", "message": {"content": None}}
        return answer

    server.change = change
    assert texts(opened(options()).generate(PROMPTS[:2], Sampling(4))) == [[""], [""]]
    assert "2 samples were cut short by the server's content filter" in caplog.text


def test_a_file_that_is_no_cache(options, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("not a database, " * 100)
    with pytest.raises(EndpointError, match=r"notes\.txt: the cache of answers cannot be used"):
        opened(options(endpoint_cache=str(other)))
    assert other.read_text().startswith("not a database")


def test_leaving_early_does_not_wait_for_the_rest(server, options):
    server.fault = lambda handler, body: time.sleep(0.05 if "prompt 0" in json.dumps(body) else 4) or False

    def interrupt(batch):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        opened(options(endpoint_concurrency=3)).generate(PROMPTS, Sampling(4), on_batch=interrupt)
    assert time.monotonic() - started < 3.5


def test_events_become_pieces(server, options):
    def fault(handler, body):
        assert body["stream"] is True
        said = [
            {"delta": {"content": "he"}},
            {"delta": {"content": "llo"}},
            {"delta": {}, "finish_reason": "length"},
        ]
        lines = [f"data: {json.dumps({'choices': [one]})}\n\n" for one in said]
        return handler.send(200, "".join([*lines, "data: [DONE]\n\n"]).encode()) or True

    server.fault = fault
    pieces = list(opened(options()).stream(PROMPTS[:1], Sampling(4)))
    assert [one.text for one in pieces] == ["he", "llo", ""]
    assert pieces[-1].generation.text == "hello"
    assert pieces[-1].generation.finish_reason == "length"
    server.fault = lambda handler, body: handler.send(200, b'data: {"choices": [{"delta": {}}]}\n\n') or True
    with pytest.raises(EndpointError, match="ended before"):
        list(opened(options()).stream(PROMPTS[:1], Sampling(4)))
    server.fault = lambda handler, body: handler.send(400, {"error": "no"}) or True
    with pytest.raises(EndpointError, match="answered 400"):
        list(opened(options()).stream(PROMPTS[:1], Sampling(4)))


def test_the_cache_folder_is_the_default(server, options, tmp_path, monkeypatch):
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    opened(options(endpoint_cache="auto")).generate(PROMPTS[:1], Sampling(4))
    assert Path(tmp_path / "cache" / "endpoint.sqlite").is_file()
