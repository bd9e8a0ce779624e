"""`coalign serve` through the official client, and by hand where that client cannot go wrong enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import torch

from coalign.core.errors import ModelError
from coalign.decoding.search.selective import Options as SelectiveOptions
from coalign.decoding.search.selective import wrap as wrap_selective
from coalign.models.generation.decode_loop import DecodeLoop
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Generation, Sampling
from coalign.web import serve as module
from tests.data.tokenizers import CHATML, GEMMA, byte_tokenizer
from tests.models.test_generation import PROMPTS, tiny
from tests.web.serving import asked, serving

ASKED: list[Any] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "is the sea blue?"},
]


def make(template=CHATML, **options):
    return TransformersGenerator(tiny(dtype=torch.float32), byte_tokenizer(template), **options)


@pytest.fixture(scope="module")
def generator():
    return make()


@pytest.fixture(scope="module")
def address(generator):
    with serving(generator) as one:
        yield one


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as one:
        yield one


def test_the_model_is_listed(client):
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "coalign"
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("huge")


def test_the_model_and_its_answers_say_what_it_is(client, generator):
    """Its weights where they are known, else this start: a client that keeps answers can tell models apart."""
    listed: Any = client.models.retrieve("tiny")
    assert listed.fingerprint == f"start-{listed.started}"
    answer = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=2)
    assert answer.system_fingerprint == listed.fingerprint
    served = [module._Server(module.Served("tiny", generator, None, mark)) for mark in ("hash", None, None)]
    try:
        assert served[0].listing()["fingerprint"] == "hash"
        assert len({one.listing()["fingerprint"] for one in served}) == 3
    finally:
        for one in served:
            one.worker.close()


def test_a_chat_is_what_the_back_end_says(client, generator):
    answer = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=12, temperature=0)
    expected = generator.generate([ASKED], Sampling(12, temperature=0.0))[0][0]
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.choices[0].logprobs is None
    usage = answer.usage
    assert usage.prompt_tokens == len(generator.encode(ASKED))
    assert usage.completion_tokens == len(expected.token_ids)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_samples_seeds_and_stops(client, generator):
    values = {"model": "tiny", "messages": ASKED, "max_completion_tokens": 15, "top_p": 0.9, "n": 3}
    one, same, other = (
        [choice.message.content for choice in client.chat.completions.create(seed=seed, **values).choices]
        for seed in (3, 3, 4)
    )
    assert one == same != other
    expected = generator.generate([ASKED], Sampling(15, top_p=0.9, n=3, seed=3))[0]
    assert one == [sample.text for sample in expected]
    assert client.chat.completions.create(**values) != client.chat.completions.create(**values)
    plain = {"model": "tiny", "prompt": PROMPTS[0], "max_tokens": 30, "temperature": 0}
    text = client.completions.create(**plain).choices[0].text
    cut = client.completions.create(**plain, stop=[text[4:6]]).choices[0]
    assert cut.text == text[: text.index(text[4:6])]
    assert cut.finish_reason == "stop"


def test_logprobs_of_a_chat(client, generator):
    values = {"model": "tiny", "messages": ASKED, "max_tokens": 8, "temperature": 0}
    answer = client.chat.completions.create(**values, logprobs=True, top_logprobs=3)
    expected = generator.generate([ASKED], Sampling(8, temperature=0.0, top_logprobs=3))[0][0]
    content = answer.choices[0].logprobs.content
    assert [one.token for one in content] == expected.tokens
    assert [one.logprob for one in content] == pytest.approx(expected.logprobs, abs=1e-4)
    assert [[(o.token) for o in one.top_logprobs] for one in content] == [
        [text for text, _ in place] for place in expected.top_logprobs
    ]
    assert bytes(content[0].bytes).decode() == content[0].token


def test_completions_take_several_texts_and_give_logprobs(client, generator):
    values = {"model": "tiny", "prompt": PROMPTS[:3], "max_tokens": 6, "temperature": 0, "n": 2}
    answer = client.completions.create(**values, logprobs=2)
    expected = generator.generate(PROMPTS[:3], Sampling(6, temperature=0.0, n=2, top_logprobs=2))
    assert [one.text for one in answer.choices] == [one.text for samples in expected for one in samples]
    assert [one.index for one in answer.choices] == list(range(6))
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == expected[0][0].tokens
    assert logprobs.token_logprobs == pytest.approx(expected[0][0].logprobs, abs=1e-4)
    assert max(logprobs.top_logprobs[0].values()) == pytest.approx(logprobs.token_logprobs[0], abs=1e-4)
    assert logprobs.text_offset[0] == 0


def test_content_may_come_in_parts(client):
    parts = [{"type": "text", "text": "is the "}, {"type": "text", "text": "sea blue?"}]
    asked = [ASKED[0], {"role": "user", "content": parts}]
    values = {"model": "tiny", "max_tokens": 9, "temperature": 0}
    answers = [client.chat.completions.create(messages=one, **values) for one in (asked, ASKED)]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def test_a_stream_adds_up_to_the_answer(client):
    values = {"model": "tiny", "messages": ASKED, "max_tokens": 25, "n": 2, "seed": 5, "logprobs": True}
    whole = client.chat.completions.create(**values)
    texts, ends, logprobs, usage, events = ["", ""], [None, None], [[], []], None, 0
    values |= {"stream": True, "stream_options": {"include_usage": True}}
    for event in client.chat.completions.create(**values):
        events += 1
        assert event.object == "chat.completion.chunk"
        usage = event.usage or usage
        for choice in event.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
            if choice.logprobs:
                logprobs[choice.index] += [one.token for one in choice.logprobs.content]
    assert texts == [one.message.content for one in whole.choices]
    assert ends == [one.finish_reason for one in whole.choices]
    assert logprobs == [[one.token for one in choice.logprobs.content] for choice in whole.choices]
    assert usage == whole.usage
    assert events > 8
    values = {"model": "tiny", "prompt": "the sea", "max_tokens": 20, "temperature": 0}
    plain, pieces = client.completions.create(**values), client.completions.create(**values, stream=True)
    assert "".join(one.choices[0].text for one in pieces) == plain.choices[0].text


def test_requests_that_arrive_together_share_steps(generator, monkeypatch):
    most, step = [0], DecodeLoop.step

    def counted(self):
        pieces = step(self)
        most[0] = max(most[0], self.rows)
        return pieces

    monkeypatch.setattr(DecodeLoop, "step", counted)
    generator.stop_ids, kept = [], generator.stop_ids
    try:
        with asked(generator) as (_, client):

            def ask(number: int) -> str:
                values = {"prompt": PROMPTS[number % 7], "temperature": number % 2, "seed": number}
                return client.completions.create(model="tiny", max_tokens=40, **values).choices[0].text

            with ThreadPoolExecutor(8) as pool:
                together = list(pool.map(ask, range(8)))
            assert most[0] > 2
            assert together == [ask(number) for number in range(8)]
    finally:
        generator.stop_ids = kept


JSON = {"content-type": "application/json"}
PICTURE = [{"type": "image_url", "image_url": {}}]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages", "role"),
        ({"messages": [{"role": "user", "content": PICTURE}]}, "messages", "content"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"response_format": {"type": "xml"}}, "response_format", "expected"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            "tools",
            "strict is not supported",
        ),
        ({"tools": [{"type": "function", "function": {"name": "no name"}}]}, "tools", "expected letters"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"max_tokens": 10_000}, "max_tokens", "has room for 256"),
        ({"n": 1000}, "n", "less than or equal to 128"),
        ({"extra_body": {"best": 1}}, "best", "not a field"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, change, param, message):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": ASKED, "max_tokens": 4, **change})
    assert caught.value.body["param"] == param
    assert caught.value.body["type"] == "invalid_request_error"


def test_harmless_fields_are_taken(client):
    client.chat.completions.create(
        model="tiny", messages=ASKED, max_tokens=2, frequency_penalty=0, presence_penalty=0, user="me", logit_bias={},
        response_format={"type": "text"}, tools=[], stop=None,
    )  # fmt: skip


def test_a_prompt_that_the_template_refuses():
    with asked(make(GEMMA)) as (_, client):
        for more in ({}, {"stream": True}):
            with pytest.raises(openai.BadRequestError, match="System role"):
                client.chat.completions.create(model="tiny", messages=ASKED, **more)


@pytest.mark.parametrize(
    ("request_of", "status", "message"),
    [
        (lambda at: httpx.post(f"{at}/chat/completions", content=b"{no", headers={"content-type": "application/json"}), 400, "not JSON"),
        (lambda at: httpx.post(f"{at}/chat/completions", json=[]), 400, "not a JSON object"),
        (lambda at: httpx.post(f"{at}/chat/completions", content=b"{}"), 415, "expected application/json"),
        (lambda at: httpx.post(f"{at}/completions", json={"prompt": "x" * (module.MOST_BYTES + 1)}), 413, "more than"),
        (lambda at: httpx.post(f"{at}/completions", json={"prompt": [1, 10**6]}), 400, "expected token ids from 0 to"),
        (lambda at: httpx.post(f"{at}/completions", json={"prompt": "x", "max_tokens": 0}), 400, "needs echo"),
        (lambda at: httpx.post(f"{at}/completions", json={"prompt": "x", "echo": True, "stream": True}), 400, "echo"),
        (lambda at: httpx.post(f"{at}/completions", json={"prompt": "x", "temperature": 1e-40}), 400, "temperature"),
        (lambda at: httpx.post(f"{at}/completions", content=b'{"prompt": "x", "stop": ["\\ud83d"]}', headers=JSON), 400, "stop: half a surrogate"),
        (lambda at: httpx.post(f"{at}/chat/completions", content=b'{"messages": [{"role": "user", "content": "\\ud83d hi"}]}', headers=JSON), 400, "half a surrogate"),
        (lambda at: httpx.post(f"{at}/chat/completions", content=b'{"messages":' + b"[" * 100_000, headers=JSON), 400, "not JSON"),
        (lambda at: httpx.post(f"{at}/chat/completions", content=b'{"messages":' + b"[" * 900 + b"]" * 900 + b"}", headers=JSON), 400, ""),
        (lambda at: httpx.post(f"{at}/completions", json={"prompt": []}), 400, "expected 1 to"),
        (lambda at: httpx.post(f"{at}/completions", json={"prompt": "x", "model": "huge"}), 404, "not served"),
        (lambda at: httpx.get(f"{at}/completions"), 405, "does not take GET"),
        (lambda at: httpx.post(f"{at}/audio/speech", json={}), 404, "There is no /v1/audio/speech"),
    ],
)  # fmt: skip
def test_errors_have_a_body(address, request_of, status, message):
    answer = request_of(address)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_other_pages_and_names_are_refused(address):
    body = {"prompt": "x", "max_tokens": 1}
    for headers, status in (({"origin": "http://evil.test"}, 403), ({"host": "evil.test"}, 400)):
        assert httpx.post(f"{address}/completions", json=body, headers=headers).status_code == status


def test_a_key_is_asked_for():
    with asked(make(), "wrong", key="right") as (address, stranger):
        for key in ("wrong", "r\u00efght"):
            answer = httpx.get(f"{address}/models", headers={"authorization": f"Bearer {key}".encode()})
            assert answer.status_code == 401
        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            stranger.chat.completions.create(model="tiny", messages=ASKED)
        with openai.OpenAI(base_url=address, api_key="right") as client:
            assert client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=1).choices


def test_a_failure_of_the_model_is_reported_and_the_server_goes_on(monkeypatch):
    generator, step, broken = make(), DecodeLoop.step, [True]

    def failing(self):
        if broken.pop() if broken else False:
            raise ModelError("The model's logits are not numbers.")
        return step(self)

    monkeypatch.setattr(DecodeLoop, "step", failing)
    with asked(generator) as (address, client):
        with pytest.raises(openai.InternalServerError, match="not numbers"):
            client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=3)
        assert client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=3).choices
        assert httpx.get(address.replace("/v1", "/health")).json() == {"status": "ok", "waiting": 0}


def test_whoever_leaves_frees_the_place(monkeypatch):
    long = tiny(dtype=torch.float32, max_position_embeddings=100_000)
    generator = TransformersGenerator(long, byte_tokenizer(CHATML))
    generator.stop_ids = []
    with asked(generator) as (address, client):
        health = address.replace("/v1", "/health")
        stream = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=50_000, stream=True)
        next(iter(stream))
        assert httpx.get(health).json()["waiting"] == 1
        stream.close()
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=50_000, timeout=0.3)
        until = time.monotonic() + 20
        while httpx.get(health).json()["waiting"] and time.monotonic() < until:
            time.sleep(0.1)
        assert httpx.get(health).json()["waiting"] == 0


def test_too_many_requests_are_told_to_come_back(generator, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    with serving(generator) as address:
        answer = httpx.post(f"{address}/completions", json={"prompt": ["a", "b", "c"], "max_tokens": 1})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"


class Method:
    """A generator that is not a Transformers model: says what it was called with."""

    def __init__(self):
        self.calls: list[Any] = []
        self.gate = threading.Event()

    def generate(self, prompts, sampling, **_):
        self.calls.append((len(prompts), sampling.seed))
        self.gate.wait(5)
        if any("bad" in str(one) for one in prompts):
            raise ModelError("a bad prompt")
        return [[Generation(f"{one}|{k}", n_tokens=2) for k in range(sampling.n)] for one in prompts]


def test_any_generator_can_be_served_and_alike_requests_share_a_call():
    method = Method()
    with asked(method) as (address, client):

        def ask(prompt: str, **more: Any) -> str:
            try:
                answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=5, n=2, **more)
                return answer.choices[1].text
            except openai.InternalServerError as error:
                return str(error.body["message"])  # type: ignore[index]

        with ThreadPoolExecutor(6) as pool:
            blocker = pool.submit(ask, "first")
            while not method.calls:
                time.sleep(0.01)
            later = [pool.submit(ask, one) for one in ("a", "b", "bad")]
            seeded = pool.submit(ask, "s", seed=7)
            health = address.replace("/v1", "/health")
            while httpx.get(health).json()["waiting"] < 5:
                time.sleep(0.01)
            method.gate.set()
            assert blocker.result() == "first|1"
            assert [one.result() for one in later] == ["a|1", "b|1", "a bad prompt"]
            assert seeded.result() == "s|1"
        assert (1, 7) in method.calls
        assert 3 in [count for count, _ in method.calls]
        pieces = client.completions.create(model="tiny", prompt="x", stream=True)
        assert "".join(one.choices[0].text for one in pieces) == "x|0"


def test_the_command_serves_until_it_is_interrupted(model, tmp_path):
    options = ["--port", "0", "--dtype", "float32", "--name", "m"]
    command = [sys.executable, "-m", "coalign", "serve", model, *options]
    environment = {**os.environ, "COALIGN_PROGRESS": "0"}
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stderr is not None
        lines = []
        while not lines or "/v1" not in lines[-1]:
            lines.append(child.stderr.readline())
            assert lines[-1], lines
        address = lines[-1].split(" at ")[1].split()[0]
        with openai.OpenAI(base_url=address, api_key="x", max_retries=20) as client:
            values = {"model": "m", "messages": ASKED[1:], "max_tokens": 3, "temperature": 0}
            answer = client.chat.completions.create(**values)
        assert answer.usage.completion_tokens
        child.send_signal(signal.SIGINT)
        assert child.wait(15) in (0, 130)
        assert "Traceback" not in child.stderr.read()
    finally:
        child.kill()
        child.wait()


def test_bad_usage(coalign, model):
    refused = coalign("serve", model, "--align", "nothing-like-it")
    assert refused.code == 2
    assert "not a decoding method" in refused.err
    assert "belong to a method" in coalign("serve", model, "--option", "a=1").err
    assert "is not usable" in coalign("serve", model, "--dtype", "int3").err


def test_answers_below_a_threshold_are_declined_also_as_a_stream(generator):
    options = SelectiveOptions(decline_below=0.5, decline_text="I pass.", reward=["must_include:zebra"])
    with asked(wrap_selective(options, generator)) as (_, client):
        terms: Any = {"model": "tiny", "messages": ASKED, "max_tokens": 4, "temperature": 0}
        found = client.chat.completions.create(**terms)
        assert found.choices[0].message.content == "I pass."
        assert found.choices[0].finish_reason == "stop"
        pieces = [
            one.choices[0].delta.content or "" for one in client.chat.completions.create(stream=True, **terms)
        ]
        assert "".join(pieces) == "I pass."
        scored = client.chat.completions.create(logprobs=True, **terms)
        assert scored.choices[0].message.content == "I pass."
