"""Texts that are sampled under a grammar: a random model, so that only the grammar decides."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from coalign.core.errors import ConfigError
from coalign.decoding.in_context.complement import CompletedPrompts
from coalign.decoding.in_context.complement import Options as ComplementOptions
from coalign.decoding.search.selective import Options as SelectiveOptions
from coalign.decoding.search.selective import wrap as wrap_selective
from coalign.models.generation.decode_loop import DecodeLoop, Decoding
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.types import Sampling
from tests.data.tokenizers import byte_tokenizer, metaspace_tokenizer
from tests.models.tiny import make_model

pytest.importorskip("llguidance")

from coalign.models.grammars.matching import Grammars
from coalign.models.grammars.schemas import json_schema_grammar

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
PROMPTS = ["the sky is blue", "a", "the user and the assistant said"]


@pytest.fixture(scope="module")
def generator() -> Any:
    tokenizer = byte_tokenizer()
    model = make_model(
        "llama",
        dtype=torch.float64,
        vocab_size=len(tokenizer) + 3,
        eos_token_id=1,
        max_position_embeddings=1024,
    )
    return TransformersGenerator(model, tokenizer)


def assert_place(text: str) -> None:
    found = json.loads(text)
    assert found.keys() == {"name", "old"}
    assert isinstance(found["old"], bool)
    assert len(found["name"]) <= 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_all_samples_fit_and_say_what_they_say_alone(generator: Any, temperature: float) -> None:
    sampling = Sampling(60, temperature, n=3, seed=1, grammar=json_schema_grammar(SCHEMA))
    found = generator.generate(PROMPTS, sampling)
    for samples in found:
        for one in samples:
            assert_place(one.text)
            assert one.finish_reason == "stop"
    assert generator.generate(PROMPTS[1:2], sampling)[0][0].text == found[1][0].text or temperature


def test_rows_with_and_without_a_grammar_share_a_batch(generator: Any) -> None:
    grammars = [json_schema_grammar(SCHEMA), None, json_schema_grammar({"type": "integer", "maximum": 99})]
    samplings = [Sampling(40, seed=number, n=2, grammar=one) for number, one in enumerate(grammars)]
    loop = DecodeLoop(generator)
    asked = [
        Decoding(generator.encode(prompt), one, goes_on=True)
        for prompt, one in zip(PROMPTS, samplings, strict=True)
    ]
    loop.add(asked)
    found: dict[Any, list[Any]] = {one: [] for one in asked}
    while not loop.is_idle:
        for one, piece in loop.step():
            if piece.generation is not None:
                found[one].append(piece.generation)
    for one, prompt, sampling in zip(asked, PROMPTS, samplings, strict=True):
        alone = generator.generate([prompt], sampling)[0]
        assert sorted(each.text for each in found[one]) == sorted(each.text for each in alone)
    for each in found[asked[0]]:
        assert_place(each.text)
    for each in found[asked[2]]:
        assert int(each.text) <= 99


def test_a_text_that_is_cut_off_says_so(generator: Any) -> None:
    (one,) = generator.generate(["a"], Sampling(3, grammar=json_schema_grammar(SCHEMA)))[0]
    assert one.finish_reason == "length"
    assert len(one.token_ids) == 3


def test_logprobs_are_those_of_the_model_before_the_grammar(generator: Any) -> None:
    sampling = Sampling(40, temperature=0.0, top_logprobs=1, grammar=json_schema_grammar({"const": "zq"}))
    (one,) = generator.generate(["a"], sampling)[0]
    assert one.text == '"zq"'
    assert any(top[0][1] > logp for top, logp in zip(one.top_logprobs, one.logprobs, strict=True))


def test_methods_follow_a_grammar_or_refuse_it(generator: Any) -> None:
    sampling = Sampling(60, seed=2, grammar=json_schema_grammar(SCHEMA))
    completed = CompletedPrompts(generator, ComplementOptions())
    assert_place(completed.generate(["the sky"], sampling)[0][0].text)
    declining = wrap_selective(SelectiveOptions(reward=["max_words:3"], decline_below=0.0), generator)
    with pytest.raises(ConfigError, match="does not follow one"):
        declining.generate(["the sky"], sampling)


def test_a_tokenizer_that_the_library_cannot_read_is_said() -> None:
    tokenizer = metaspace_tokenizer()
    with pytest.raises(ConfigError, match="cannot be followed with this tokenizer"):
        Grammars(tokenizer, [tokenizer.eos_token_id])
