"""The endpoint back end against a local server that answers by rule and fails on request."""

from __future__ import annotations

import email.utils
import json
import subprocess
import sys
import threading
import time
from collections import Counter
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
from tests.models.endpoint_server import error, failing, running, saying


def prompts_of(count: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"prompt {number}"}] for number in range(count)]


PROMPTS = prompts_of(12)
FEW = Sampling(4)
BEGUN = [*PROMPTS[0], {"role": "assistant", "content": "well"}]


@pytest.fixture
def server():
    with running() as one:
        yield one


@pytest.fixture
def options(server, tmp_path, monkeypatch):
    """Back-end options, named without `endpoint_`; every server has a port of its own, so budgets do not meet."""
    for name in ("COALIGN_API_KEY", "OPENAI_API_KEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def make(address: str = server.address, **changes: Any) -> BackendOptions:
        values = {"timeout": 5.0, "cache": str(tmp_path / "c.sqlite"), **changes}
        return BackendOptions(endpoint=address, **{f"endpoint_{name}": one for name, one in values.items()})

    return make


@pytest.fixture
def opened(options):
    def make(*, first_wait: float = 0.01, **changes: Any) -> EndpointGenerator:
        chosen = options(**changes)
        return EndpointGenerator(chosen, client=EndpointClient(chosen, first_wait=first_wait))

    return make


@pytest.fixture
def ask(opened):
    """What a new generator answers to prompts, or to the first so many of `PROMPTS`."""

    def call(prompts: int | list[Any] = 1, sampling=FEW, *, done=(), on_batch=None, **changes: Any) -> Any:
        prompts = PROMPTS[:prompts] if isinstance(prompts, int) else prompts
        return opened(**changes).generate(prompts, sampling, done=done, on_batch=on_batch)

    return call


def expected(index: int, sampling=FEW, occurrence: int = 0) -> list[str]:
    seed = wire_seed(sampling, occurrence, 0) if sampling.temperature else None
    count = sampling.n if sampling.temperature else 1
    return [f"prompt {index}|{seed}|{k}" for k in range(count)] * (sampling.n // count)


def texts(results):
    return [[one.text for one in samples] for samples in results]


def test_samples_of_messages_and_of_text(server, options, opened):
    generator = opened()
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


def test_greedy_is_asked_for_once(server, ask):
    sampling = Sampling(4, temperature=0.0, n=3)
    assert texts(ask(1, sampling)) == [expected(0, sampling)]
    assert ["seed" in one for one in server.requests] == [False]


def test_equal_prompts_get_samples_of_their_own(ask):
    sampling = Sampling(4, n=2)
    results = ask([PROMPTS[0], PROMPTS[1], PROMPTS[0]], sampling)
    assert texts(results) == [expected(0, sampling), expected(1, sampling), expected(0, sampling, 1)]
    assert results[0] != results[2]


def test_kept_answers_are_not_asked_for_again(server, opened, ask):
    sampling = Sampling(4, n=2)
    first = ask(12, sampling)
    assert len(server.requests) == 12
    again = opened()
    assert again.generate(PROMPTS[::-1], sampling) == first[::-1]
    assert (len(server.requests), again.kept, again.last_stats.samples) == (12, 24, 0)
    more = again.generate(PROMPTS, Sampling(4, n=3))
    assert [samples[:2] for samples in more] == first
    assert ["n" in one for one in server.requests[12:]] == [False] * 12
    ask(1, sampling, cache="off")
    assert len(server.requests) == 25


def test_every_field_of_the_key_counts():
    fields = {"address": "http://a/v1", "model": "m", "prompt": PROMPTS[0], "occurrence": 0, "prefill": "off"}
    others: list[dict[str, Any]] = [
        {}, {"address": "http://b/v1"}, {"model": "n"}, {"prompt": PROMPTS[1]}, {"prompt": "prompt 0"},
        {"occurrence": 1}, {"prompt": BEGUN, "prefill": "continue"}, {"prompt": BEGUN, "prefill": "vllm"},
    ]  # fmt: skip
    changes: list[dict[str, Any]] = [
        {"max_new_tokens": 5}, {"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 5}, {"seed": 5},
        {"stop": ("a",)}, {"logprobs": True}, {"top_logprobs": 2},
    ]  # fmt: skip
    asked = Asked(**fields)
    keys = [answer_key(Asked(**{**fields, **one}), Sampling(), 0) for one in others]
    keys += [answer_key(asked, Sampling(**one), 0) for one in changes]
    keys += [answer_key(asked, Sampling(), 1)]
    assert len(set(keys)) == len(keys) == 17
    assert answer_key(asked, Sampling(n=9), 0) == keys[0]
    assert len({answer_key(asked, Sampling(temperature=0.0, seed=seed), seed) for seed in range(3)}) == 1


def test_a_server_that_ignores_n_is_asked_one_by_one(server, ask):
    server.choices = 1
    sampling = Sampling(4, n=3)
    seeds = [wire_seed(sampling, 0, k) for k in range(3)]
    assert texts(ask(2, sampling, concurrency=1)) == [
        [f"prompt {index}|{seed}|0" for seed in seeds] for index in range(2)
    ]
    assert [one.get("n", 1) for one in server.requests] == [3, 1, 1, 1, 1, 1]


def test_nothing_is_lost_doubled_or_mixed_up_when_a_third_of_the_requests_fail(server, opened):
    server.fault = failing(0.3, hang=0.9)
    chosen = {"timeout": 0.4, "concurrency": 6, "retries": 12}
    prompts, sampling = prompts_of(60), Sampling(4, n=2)
    rows: dict[int, Any] = {}
    times: Counter[int] = Counter()

    def keep(batch):
        times.update(batch.keys())
        rows.update(batch)

    generator = opened(**chosen)
    results = generator.generate(prompts, sampling, done=[3, 4], on_batch=keep)
    rest = [index for index in range(60) if index not in (3, 4)]
    assert texts(results[index] for index in rest) == [expected(index, sampling) for index in rest]
    assert times == dict.fromkeys(rest, 1)
    assert rows == {index: results[index] for index in rest}
    assert generator._client.retries > 8
    assert server.most_at_once <= 6
    before = len(server.requests)
    opened(**chosen).generate(prompts, sampling, done=[3, 4])
    assert len(server.requests) == before


SCRIPT = """
import sys
from coalign.models.backends.options import BackendOptions
from coalign.models.backends.endpoint import EndpointGenerator
from coalign.models.types import Sampling
options = BackendOptions(endpoint=sys.argv[1], endpoint_cache=sys.argv[2], endpoint_concurrency=2)
prompts = [[{"role": "user", "content": f"prompt {number}"}] for number in range(12)]
EndpointGenerator(options).generate(prompts, Sampling(4))
"""


def test_a_killed_run_pays_for_nothing_twice(server, options, ask):
    """A process is killed while it works; the next one asks only for what is not there."""
    reached = threading.Event()

    def slow(handler, body):
        time.sleep(0.02)
        if len(server.answered) < 5:
            return False
        reached.set()
        time.sleep(1.0)  # killed meanwhile: these never come to be answered
        handler.close_connection = True
        return True

    server.fault = slow
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, server.address, options().endpoint_cache])
    try:
        assert reached.wait(60)
        time.sleep(0.3)
    finally:
        child.kill()
        child.wait()
    server.fault = None
    assert 5 <= len(server.answered) <= 7
    assert texts(ask(12)) == [expected(index) for index in range(12)]
    assert [*Counter(server.answered).values()] == [1] * 12


def test_a_budget_of_requests_stops_the_run_and_keeps_what_is_there(server, ask):
    rows: dict[int, Any] = {}
    with pytest.raises(
        BudgetError, match=r"(?s)5 requests of --endpoint-max-requests 5.*run the same command again"
    ):
        ask(12, max_requests=5, on_batch=rows.update)
    assert len(server.requests) == len(rows) == 5
    with pytest.raises(BudgetError):  # the budget is the process's, not the generator's
        ask(12, max_requests=5)
    assert texts(ask(12, max_requests=7)) == [expected(index) for index in range(12)]
    assert len(server.requests) == 12


def test_a_budget_of_tokens(server, ask):
    with pytest.raises(BudgetError, match="30 tokens of --endpoint-max-tokens 25"):
        ask(12, max_tokens=25, concurrency=1)
    assert len(server.requests) == 3
    server.change = lambda answer: {**answer, "usage": None}
    with pytest.raises(EndpointError, match="does not say how many tokens"):
        ask(12, max_tokens=26)


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


def test_the_only_model_is_taken_and_among_several_one_must_be_named(server, opened):
    assert opened().model == "echo"
    server.models = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(EndpointError, match="lists 2 models: a, b"):
        opened()
    assert opened(model="b").model == "b"
    with pytest.raises(EndpointError, match="cannot connect"):
        opened(address="http://127.0.0.1:9/v1", retries=0)


def test_a_begun_turn_only_where_the_server_continues_it(server, ask):
    with pytest.raises(EndpointError, match="not known to continue"):
        ask([BEGUN])
    assert server.requests == []
    ask([BEGUN], prefill="continue")
    assert "continue_final_message" not in server.requests[0]
    server.models = [{"id": "echo", "owned_by": "vllm"}]
    ask([BEGUN])
    assert (
        server.requests[1].items() >= {"continue_final_message": True, "add_generation_prompt": False}.items()
    )


def test_logprobs_in_both_forms(server, ask):
    top = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]
    forms = {
        "message": {"content": [{**top[0], "top_logprobs": top}]},
        "text": {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.5, "a": -0.5}]},
    }

    def change(answer):
        for one in answer["choices"]:
            one["logprobs"] = forms["message" if "message" in one else "text"]
        return answer

    server.change = change
    sampling = Sampling(4, top_logprobs=2)
    for (one,) in ask([PROMPTS[0], "x"], sampling):
        assert (one.tokens, one.logprobs, one.length) == (["a"], [-0.5], 1)
        assert one.top_logprobs == [[("a", -0.5), ("b", -1.5)]]
    assert {one.get("top_logprobs", one.get("logprobs")) for one in server.requests} == {2}
    server.change = lambda answer: answer
    with pytest.raises(EndpointError, match="no log-probabilities"):
        ask(2, sampling)


@pytest.mark.parametrize(
    ("content", "reason", "found", "said"),
    [
        ("one STOP two", "length", ("one ", "stop", 3), ""),  # a stop text that the server left
        (None, "content_filter", ("", "stop", 3), "2 samples were cut short by the server's content filter"),
    ],
)  # fmt: skip
def test_what_the_server_left_or_cut(server, ask, caplog, content, reason, found, said):
    def change(answer):
        answer["choices"][0] |= {"finish_reason": reason, "message": {"content": content}}
        return answer

    server.change = change
    for (one,) in ask(2, Sampling(4, stop=("STOP",))):
        assert (one.text, one.finish_reason, one.length) == found
    assert said in caplog.text


def test_a_server_with_another_name_for_the_limit(server, ask):
    unknown = saying(400, error("Unsupported parameter: use 'max_completion_tokens' instead."))
    server.fault = lambda handler, body: "max_tokens" in body and unknown(handler, body)
    assert texts(ask(2, concurrency=1)) == [expected(0), expected(1)]
    assert [list(one)[1] for one in server.requests] == ["max_tokens", *["max_completion_tokens"] * 2]


def test_a_file_that_is_no_cache(opened, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("not a database, " * 100)
    with pytest.raises(EndpointError, match=r"notes\.txt: the cache of answers cannot be used"):
        opened(cache=str(other))
    assert other.read_text().startswith("not a database")


def test_leaving_early_does_not_wait_for_the_rest(server, ask):
    server.fault = lambda handler, body: time.sleep(0.05 if "prompt 0" in json.dumps(body) else 4) or False

    def interrupt(batch):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask(12, concurrency=3, on_batch=interrupt)
    assert time.monotonic() - started < 3.5


def test_events_become_pieces(server, opened):
    said = [{"delta": {"content": one}} for one in ("he", "llo")]
    said.append({"delta": {}, "finish_reason": "length"})
    lines = [f"data: {json.dumps({'choices': [one]})}\n\n" for one in said]
    server.fault = saying(200, "".join([*lines, "data: [DONE]\n\n"]).encode())
    pieces = list(opened().stream(PROMPTS[:1], Sampling(4)))
    assert server.requests[0]["stream"] is True
    assert [one.text for one in pieces] == ["he", "llo", ""]
    whole = pieces[-1].generation
    assert (whole.text, whole.finish_reason) == ("hello", "length")
    torn = saying(200, b'data: {"choices": [{"delta": {}}]}\n\n')
    for fault, message in ((torn, "ended before"), (saying(400, {"error": "no"}), "answered 400")):
        server.fault = fault
        with pytest.raises(EndpointError, match=message):
            list(opened().stream(PROMPTS[:1], Sampling(4)))


def test_the_cache_folder_is_the_default(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    ask(cache="auto")
    assert (tmp_path / "cache" / "endpoint.sqlite").is_file()
