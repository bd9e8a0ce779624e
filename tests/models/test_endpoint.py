"""The endpoint back end against a local server that answers by rule and fails on request."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest

from coalign.core.errors import BudgetError, EndpointError
from coalign.models.backends.endpoint import EndpointGenerator
from coalign.models.backends.endpoint_format import Asked, answer_key, wire_seed
from coalign.models.backends.open import describe_generator, open_generator
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from tests.models.endpoint_server import (
    BEGUN,
    PROMPTS,
    error,
    expected,
    failing,
    prompts_of,
    saying,
    texts,
)


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
