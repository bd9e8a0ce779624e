"""Embeddings, scores and figures of `coalign serve`."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from coalign.models.embedding import CausalEncoder, load_encoder
from coalign.models.reward_model import load_reward_model
from coalign.web.serve import Served, make_app
from tests.models.test_embedding import folder as encoder_folder
from tests.models.test_reward_model import causal
from tests.web.serving import running
from tests.web.test_serve import ASKED, make

__all__ = ["causal", "encoder_folder"]
TEXTS = ["the cat sat", "dog"]


@pytest.fixture(scope="module")
def models(encoder_folder: Any, causal: Any) -> Any:
    return load_encoder(str(encoder_folder), device="cpu"), load_reward_model(causal, device="cpu")


@pytest.fixture(scope="module")
def address(models: Any) -> Any:
    encoder, rewards = models
    served = Served("tiny", make(), "secret", encoder=("small", encoder), rewards=("taste", rewards))
    with running(make_app(served)) as one:
        yield one


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as one:
        yield one


def post(address: str, path: str, body: Any, key: str = "secret") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return httpx.post(f"{address}{path}", content=json.dumps(body), headers=headers, trust_env=False)


def test_embeddings_are_the_encoder_s_in_both_forms(client: Any, models: Any) -> None:
    expected = models[0].encode(TEXTS).numpy()
    coded = client.embeddings.create(model="small", input=TEXTS)  # the client asks for base64
    plain = client.embeddings.create(model="small", input=TEXTS, encoding_format="float", dimensions=16)
    for answer in (coded, plain):
        np.testing.assert_allclose([one.embedding for one in answer.data], expected, rtol=1e-6)
    assert coded.usage.prompt_tokens == 8  # five and three, with the marks around them
    single = client.embeddings.create(model="small", input=TEXTS[1])
    np.testing.assert_allclose(single.data[0].embedding, expected[1], rtol=1e-5)


def test_scores_are_the_reward_model_s(address: str, models: Any) -> None:
    prompts, responses = ["is it blue?", "why?"], ["yes", "no"]
    pairs = post(address, "/v1/score", {"model": "taste", "text_1": prompts, "text_2": responses}).json()
    assert [one["score"] for one in pairs["data"]] == pytest.approx(
        models[1].score(prompts, responses), abs=1e-5
    )
    one = post(address, "/score", {"text_1": prompts[0], "text_2": responses}).json()
    expected = models[1].score([prompts[0]] * 2, responses)
    assert [each["score"] for each in one["data"]] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/embeddings", {"input": [[1, 2]]}, 400, "input"),
        ("/v1/embeddings", {"input": ""}, 400, "not empty"),
        ("/v1/embeddings", {"input": []}, 400, "not empty"),
        ("/v1/embeddings", {"input": "the " * 9}, 400, "of 11 tokens, expected at most 6"),
        ("/v1/embeddings", {"input": "cat", "dimensions": 4}, 400, "dimensions: 4, and this encoder has 16"),
        ("/v1/embeddings", {"input": "cat", "model": "tiny"}, 404, "'small' does"),
        ("/v1/embeddings", {"input": "\ud800"}, 400, "surrogate"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c"]}, 400, "expected one, or as many"),
        ("/v1/score", {"text_1": "a"}, 400, "text_2"),
        ("/v1/score", [1], 400, "The body"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    address: str, path: str, body: Any, status: int, message: str
) -> None:
    answer = post(address, path, body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


class Elsewhere:
    """A generator that is no local model."""

    def generate(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("nobody asks it")


def test_without_the_models_it_says_how_to_start_with_them() -> None:
    with running(make_app(Served("tiny", Elsewhere()))) as address:
        for path, body, option in (
            ("/v1/embeddings", {"input": "a"}, "--embedding-model"),
            ("/v1/score", {"text_1": "a", "text_2": "b"}, "--reward-model"),
        ):
            answer = post(address, path, body)
            assert answer.status_code == 404
            assert option in answer.json()["error"]["message"]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_without_an_encoder_the_served_model_embeds_texts_while_it_answers(pooling: Any) -> None:
    generator = make()
    app = make_app(Served("tiny", generator, pooling=pooling))
    with (
        running(app) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client,
    ):
        ask: Any = {"model": "tiny", "messages": ASKED, "max_tokens": 20, "temperature": 0}
        stream = client.chat.completions.create(**ask, stream=True)
        found = client.embeddings.create(model="tiny", input=[*TEXTS, "a" * 90])
        said = "".join(one.choices[0].delta.content or "" for one in stream)
        expected = CausalEncoder(generator, pooling).encode([*TEXTS, "a" * 90]).numpy()
        np.testing.assert_allclose([one.embedding for one in found.data], expected, atol=1e-6)
        assert found.usage.prompt_tokens == sum(len(generator.encode(one)) for one in [*TEXTS, "a" * 90])
        assert said == client.chat.completions.create(**ask).choices[0].message.content
        for body, status in (({"input": "a" * 900}, 400), ({"input": "a", "model": "other"}, 404)):
            assert post(address, "/v1/embeddings", body).status_code == status


def test_figures_count_requests_tokens_and_seconds(models: Any) -> None:
    with running(make_app(Served("tiny", make(), encoder=("small", models[0])))) as address:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
            ask: Any = {"model": "tiny", "messages": ASKED, "max_tokens": 4, "temperature": 0}
            usage = client.chat.completions.create(**ask).usage
            list(client.chat.completions.create(**ask, stream=True))
        post(address, "/nowhere/at/all", {})
        text = httpx.get(f"{address}/metrics", trust_env=False).text
    found = dict(re.findall(r"^(coalign_\S+) (\S+)$", text, re.M))
    assert found['coalign_requests_total{path="/v1/chat/completions",status="200"}'] == "2"
    assert found['coalign_requests_total{path="other",status="404"}'] == "1"
    assert found['coalign_request_seconds_bucket{path="/v1/chat/completions",le="+Inf"}'] == "2"
    assert found['coalign_request_seconds_count{path="/v1/chat/completions"}'] == "2"
    assert found['coalign_tokens_total{kind="prompt"}'] == str(2 * usage.prompt_tokens)
    assert found['coalign_tokens_total{kind="generation"}'] == str(2 * usage.completion_tokens)
    assert found["coalign_prompts_waiting"] == "0"
    parser = pytest.importorskip("prometheus_client.parser")
    assert {one.name for one in parser.text_string_to_metric_families(text)} == {
        "coalign_requests", "coalign_request_seconds", "coalign_tokens", "coalign_prompts_waiting",
    }  # fmt: skip


def test_figures_want_the_key(address: str) -> None:
    assert httpx.get(f"{address}/metrics", trust_env=False).status_code == 401
