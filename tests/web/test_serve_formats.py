"""`response_format` through the official client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import torch

from coalign.models.generation.generator import TransformersGenerator
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.grammars.test_decoding import SCHEMA, assert_place
from tests.models.tiny import make_model
from tests.web.serving import serving

ASKED: Any = [{"role": "user", "content": "who?"}]
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "who", "schema": SCHEMA, "strict": True}}
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def client() -> Any:
    tokenizer = byte_tokenizer(CHATML)
    model = make_model(
        "llama", dtype=torch.float32, vocab_size=len(tokenizer), eos_token_id=1, max_position_embeddings=4096
    )
    with (
        serving(TransformersGenerator(model, tokenizer)) as address,
        openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as one,
    ):
        yield one


def ask(client: Any, **how: Any) -> Any:
    given: dict[str, Any] = {"max_tokens": 80, "seed": 3, "response_format": FORMAT, **how}
    return client.chat.completions.create(model="tiny", messages=given.pop("messages", ASKED), **given)


def test_whole_and_streamed_answers_fit_the_schema(client: Any) -> None:
    answer = ask(client, n=3)
    for one in answer.choices:
        assert_place(one.message.content)
        assert one.finish_reason == "stop"
    texts = ["", "", ""]
    for event in ask(client, n=3, stream=True):
        for one in event.choices:
            texts[one.index] += one.delta.content or ""
    assert texts == [one.message.content for one in answer.choices]


def test_an_answer_that_is_cut_off_says_so(client: Any) -> None:
    (one,) = ask(client, max_tokens=3).choices
    assert one.finish_reason == "length"


def test_any_object_and_the_client_s_own_models(client: Any) -> None:
    from pydantic import BaseModel

    class Who(BaseModel):
        old: bool
        size: int | None

    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "additionalProperties": False}
    text = ask(client, response_format={"type": "json_object"}, max_tokens=400).choices[0]
    assert text.finish_reason == "length" or isinstance(json.loads(text.message.content), dict)
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert json.loads(ask(client, response_format=form).choices[0].message.content) in (
        {},
        {"a": 1},
        {"a": 2},
    )
    parsed = client.chat.completions.parse(
        model="tiny", messages=ASKED, response_format=Who, max_tokens=80, seed=4
    )
    assert isinstance(parsed.choices[0].message.parsed, Who)


def test_completions_too(client: Any) -> None:
    answer = client.completions.create(
        model="tiny", prompt=["a", "b"], max_tokens=80, seed=1, extra_body={"response_format": FORMAT}
    )
    for one in answer.choices:
        assert_place(one.text)


def test_with_tools_an_answer_is_a_call_or_fits(client: Any) -> None:
    for seed in range(4):
        (one,) = ask(client, tools=[TOOL], seed=seed, max_tokens=120).choices
        text = one.message.content
        if one.finish_reason == "stop" and text and not text.startswith("<tool_call>"):
            assert_place(text)
    (one,) = ask(client, tools=[TOOL], tool_choice="none").choices
    assert_place(one.message.content)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format.json_schema.schema/not: is not supported",
        ),
        ({"response_format": {"type": "json_schema"}}, "expected"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "expected name and schema"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "{"}]}, "a begun answer is not continued"),
        ({"tools": [TOOL], "tool_choice": "required"}, "asks for a call"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_name(client: Any, how: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        ask(client, **how)
    assert caught.value.param == "response_format"
