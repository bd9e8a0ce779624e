"""The same tests over every back end: what the protocol promises, each keeps."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from coalign.core.errors import ConfigError
from coalign.data.encoding import encode_continued
from coalign.models.backends.endpoint import EndpointGenerator
from coalign.models.backends.options import BackendOptions
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from tests.data.tokenizers import CHATML, byte_tokenizer
from tests.models.test_generation import PROMPTS, tiny
from tests.web.serving import serving

CHAT: list[Any] = [
    [{"role": "user", "content": "is the sea blue?"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "and the sky"}],
]
BEGUN: Any = [*CHAT[0], {"role": "assistant", "content": "the sea"}]
GREEDY = Sampling(14, temperature=0.0)


@pytest.fixture(scope="module")
def local() -> TransformersGenerator:
    return TransformersGenerator(tiny(dtype=torch.float32), byte_tokenizer(CHATML))


@pytest.fixture(scope="module", params=["transformers", "endpoint", "vllm"])
def backend(request, local, tmp_path_factory) -> Iterator[Any]:
    """The tiny model behind each back end."""
    if request.param == "transformers":
        yield local
    elif request.param == "endpoint":
        cache = tmp_path_factory.mktemp("endpoint") / "answers.sqlite"
        with serving(local) as address:
            generator = EndpointGenerator(BackendOptions(endpoint=address, endpoint_cache=str(cache)))
            yield generator
            generator.close()
    else:
        if importlib.util.find_spec("vllm") is None:
            pytest.skip("vLLM is not installed (it needs a GPU): pip install 'coalign[vllm]'")
        from coalign.models.backends.vllm_generation import VllmGenerator

        folder = tmp_path_factory.mktemp("model")
        local.model.save_pretrained(folder)  # type: ignore[operator]
        local.tokenizer.save_pretrained(folder)
        yield VllmGenerator(ModelOptions(model=str(folder), dtype="float32"))


def texts(results):
    return [[one.text for one in samples] for samples in results]


def test_greedy_text_is_that_of_transformers(backend, local):
    prompts = [*CHAT, BEGUN, *PROMPTS]
    expected = local.generate(prompts, GREEDY)
    results = backend.generate(prompts, GREEDY)
    assert texts(results) == texts(expected)
    for one, other in zip(results, expected, strict=True):
        assert (one[0].finish_reason, one[0].length) == (other[0].finish_reason, other[0].length)


def test_samples_repeat_with_their_seed_and_differ_from_each_other(backend):
    prompts = [CHAT[0], PROMPTS[2], CHAT[0]]
    sampling = Sampling(16, n=4, seed=3)
    first = texts(backend.generate(prompts, sampling))
    assert texts(backend.generate(prompts, sampling)) == first
    assert all(len(set(samples)) == 4 for samples in first)
    assert first[0] != first[2]
    assert texts(backend.generate(prompts, Sampling(16, n=4, seed=4))) != first
    pairs = backend.generate(prompts, Sampling(3, n=2, temperature=0.0))
    assert [len(samples) for samples in pairs] == [2] * 3


def test_temperature_top_k_and_top_p_count(backend, local):
    greedy = texts(local.generate(PROMPTS[:3], GREEDY))
    for changes in ({"top_k": 1}, {"top_p": 1e-6}):
        assert texts(backend.generate(PROMPTS[:3], Sampling(14, **changes))) == greedy
    assert texts(backend.generate(PROMPTS[:3], Sampling(14, temperature=5.0))) != greedy


def test_stop_strings_end_a_sample_and_are_no_part_of_it(backend, local):
    text = local.generate(PROMPTS[:1], Sampling(30, temperature=0.0))[0][0].text
    stop = text[5:8]
    one = backend.generate(PROMPTS[:1], Sampling(30, temperature=0.0, stop=("never there", stop)))[0][0]
    assert one.text == text[: text.index(stop)]
    assert one.finish_reason == "stop"


def test_a_begun_turn_goes_on_without_a_new_one(backend, local):
    text = local.tokenizer.decode(encode_continued(local.tokenizer, BEGUN))
    assert texts(backend.generate([BEGUN], GREEDY)) == texts(local.generate([text], GREEDY))


def test_logprobs_and_alternatives_are_those_of_transformers(backend, local):
    sampling = Sampling(10, temperature=0.0, top_logprobs=3)
    prompts = [CHAT[0], BEGUN, PROMPTS[0]]
    both = [one.generate(prompts, sampling) for one in (backend, local)]
    for (one, *_), (expected, *_) in zip(*both, strict=True):
        assert one.tokens == expected.tokens
        assert one.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
        assert len(one.top_logprobs) == len(one.tokens)
        for place, wanted in zip(one.top_logprobs, expected.top_logprobs, strict=True):
            assert place[0] == pytest.approx(wanted[0], abs=1e-3) or place[0][0] == wanted[0][0]
            assert [logp for _, logp in place] == sorted((logp for _, logp in place), reverse=True)
    plain = backend.generate(prompts, Sampling(4, temperature=0.0))[0][0]
    assert plain.logprobs is plain.tokens is plain.top_logprobs is None


def test_what_is_done_is_left_out_and_batches_arrive(backend):
    rows: dict[int, Any] = {}
    whole = backend.generate(PROMPTS, GREEDY)
    results = backend.generate(PROMPTS, GREEDY, done=[1, 4], on_batch=rows.update)
    assert sorted(rows) == [0, 2, 3, 5, 6]
    assert results[1] == results[4] == []
    assert all(texts([rows[index]]) == texts([whole[index]]) for index in rows)
    assert backend.generate([], GREEDY) == []


def test_bad_sampling_is_refused(backend):
    with pytest.raises(ConfigError, match="top_p"):
        backend.generate(PROMPTS[:1], Sampling(top_p=3.0))


def test_figures_of_the_last_call(backend):
    backend.generate(PROMPTS, Sampling(5, n=2, seed=77))
    stats = backend.last_stats
    assert (stats.prompts, stats.samples) == (7, 14)
    assert stats.tokens > 14
    assert stats.seconds > 0


def test_streams_add_up(backend, local):
    if not hasattr(backend, "stream"):
        pytest.skip("this back end has no streams")
    pieces = list(backend.stream([CHAT[0], BEGUN], GREEDY))
    for index, expected in enumerate(local.generate([CHAT[0], BEGUN], GREEDY)):
        own = [one for one in pieces if one.prompt == index]
        assert "".join(one.text for one in own) == expected[0].text
        assert own[-1].generation.text == expected[0].text
        assert own[-1].generation.finish_reason == expected[0].finish_reason
