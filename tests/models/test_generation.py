"""The Transformers back end against `model.generate`, against teacher forcing, and against itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

from coalign.core.errors import ConfigError, DataError, ModelError
from coalign.models.adapters import disabled_adapter
from coalign.models.generation import generator as module
from coalign.models.generation import incremental
from coalign.models.generation.batching import plan_batches
from coalign.models.generation.endings import Endings, stop_token_ids
from coalign.models.generation.fused_model import FusedModel
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.growing_cache import ReservedLayer
from coalign.models.generation.prefix_cache.beginnings import prefill_passes
from coalign.models.scoring.engine import score_responses
from coalign.models.types import Responses, Sampling
from tests.data.tokenizers import GEMMA, byte_tokenizer, metaspace_tokenizer
from tests.models.tiny import make_model

VOCABULARY = len(byte_tokenizer())
PROMPTS = [
    "the sky is blue",
    "a",
    "the user and the assistant said: the sea is green and the sky is blue",
    "green?",
    "said the sea",
    "the assistant",
    "is it blue or is it green, the sea",
]


def tiny(architecture="llama", dtype=torch.float64, **changes):
    sizes = {"vocab_size": VOCABULARY, "eos_token_id": 1, "bos_token_id": 0, **changes}
    return make_model(architecture, dtype=dtype, **sizes)


pytestmark = pytest.mark.usefixtures("exact_norms")


def make(model, tokenizer, **options):
    return TransformersGenerator(model, tokenizer, **options)


def ids_of(results):
    return [[one.token_ids for one in samples] for samples in results]


@torch.inference_mode()
def assert_greedy(generator, prompts, count):
    """The tokens are those of Transformers, one prompt at a time."""
    model, tokenizer = generator.model, generator.tokenizer
    ends = {"eos_token_id": stop_token_ids(model, tokenizer), "pad_token_id": 0}
    results = generator.generate(prompts, Sampling(max_new_tokens=count, temperature=0.0))
    for prompt, samples in zip(prompts, results, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": count, "do_sample": False}
        out = model.generate(ids, **settings, **ends)
        assert samples[0].token_ids == out[0, ids.shape[1] :].tolist()


def assert_equal(results, others):
    """Equal tokens, and log-probabilities up to rounding."""
    assert ids_of(results) == ids_of(others)
    for one, other in zip(results, others, strict=True):
        torch.testing.assert_close(torch.tensor(one[0].logprobs), torch.tensor(other[0].logprobs))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "mistral", "gpt2"])
def test_greedy_is_that_of_transformers(architecture, tokenizer):
    changes = {"sliding_window": 8} if architecture in ("gemma2", "mistral") else {}
    model = tiny(architecture, torch.float32, **changes)
    assert_greedy(make(model, tokenizer, batch_size=3), PROMPTS, 24)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_prompts_of_other_lengths_are_computed_apart(architecture, tokenizer, monkeypatch):
    model = tiny(architecture)
    sampling = Sampling(80, n=2, seed=3, logprobs=True)
    together = make(model, tokenizer).generate(PROMPTS, sampling)
    monkeypatch.setitem(incremental.PREFILL_TOKENS, "cpu", 1)
    apart = make(model, tokenizer).generate(PROMPTS, sampling)
    assert_equal(apart, together)


LONG = "the user and the assistant said: the sea is green and the sky is blue, and so it is. "
SHARING = [LONG + one for one in ("why?", "a", "the sky, the sea and the assistant, all of them", "or?")]


@pytest.mark.parametrize("prefill", [1, 256])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gemma"])
def test_a_beginning_that_all_prompts_share_is_computed_once(architecture, prefill, tokenizer, monkeypatch):
    model = tiny(architecture)
    monkeypatch.setattr(FusedModel, "open", lambda *_: None)
    monkeypatch.setitem(incremental.PREFILL_TOKENS, "cpu", prefill)
    sampling = Sampling(80, n=2, seed=3, logprobs=True)
    monkeypatch.setattr(incremental, "SHARED_TOKENS", 10**6)
    apart = make(model, tokenizer).generate(SHARING, sampling)
    monkeypatch.setattr(incremental, "SHARED_TOKENS", 64)
    seen = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, ids: seen.append(ids[0].shape))
    together = make(model, tokenizer).generate(SHARING, sampling)
    assert_equal(together, apart)
    assert seen[0][0] == 1
    longest = len(tokenizer(SHARING[2])["input_ids"])
    assert max(width for rows, width in seen if rows > 1) <= longest - 20


@pytest.mark.parametrize(
    "prompts",
    [
        [LONG, LONG + " why?"],  # one prompt is the beginning of the other
        [LONG, LONG],
        ["x" + LONG, "y" + LONG],  # nothing in common
        [LONG],
    ],
)
def test_beginnings_at_their_limits(prompts, tokenizer):
    assert_greedy(make(tiny("llama", torch.float32), tokenizer), prompts, 9)


def test_prefill_passes():
    assert prefill_passes([100, 90, 81, 79, 40, 39, 4], 1) == [(0, 3), (3, 4), (4, 6), (6, 7)]
    assert prefill_passes([100, 90, 81, 79, 40, 39, 4], 350) == [(0, 4), (4, 7)]
    assert prefill_passes([5], 0) == [(0, 1)]
    assert prefill_passes([7, 7, 7], 0) == [(0, 3)]


def test_more_steps_than_the_cache_reserves_at_once(tokenizer):
    model = tiny("llama", torch.float32, eos_token_id=None)
    assert_greedy(make(model, tokenizer), PROMPTS[:3], 2 * ReservedLayer.RESERVE + 5)


def test_a_model_without_a_usable_cache_takes_the_plain_path(tokenizer, caplog):
    generator = make(tiny("mamba", torch.float32), tokenizer)
    with caplog.at_level(logging.WARNING):
        for count in (6, 2):
            assert_greedy(generator, PROMPTS[:3], count)
    assert sum("computes whole rows" in one.message for one in caplog.records) == 1


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "mistral"])
def test_all_paths_sample_the_same(architecture, tokenizer, monkeypatch):
    model = tiny(architecture)
    sampling = Sampling(max_new_tokens=12, n=3, top_p=0.9, seed=4)
    fused = make(model, tokenizer)
    assert fused.is_fused == (architecture in ("llama", "qwen3"))
    fastest = ids_of(fused.generate(PROMPTS, sampling))
    monkeypatch.setattr(FusedModel, "open", lambda *_: None)
    cached = ids_of(make(model, tokenizer).generate(PROMPTS, sampling))
    assert fastest == cached
    monkeypatch.setitem(incremental._can_continue.known, model, False)
    assert ids_of(make(model, tokenizer).generate(PROMPTS, sampling)) == cached


@pytest.mark.parametrize(
    "sampling", [Sampling(24, n=3, seed=1), Sampling(24, n=2, temperature=0.8, top_p=0.9, top_k=50)]
)
def test_samples_do_not_depend_on_the_batch(sampling, tokenizer):
    model = tiny()
    one_by_one = make(model, tokenizer, batch_size=1).generate(PROMPTS, sampling)
    for options in ({"batch_size": 2}, {"batch_size": 5}, {"batch_tokens": 300}, {}):
        assert ids_of(make(model, tokenizer, **options).generate(PROMPTS, sampling)) == ids_of(one_by_one)


def test_seeds_and_samples(tokenizer):
    model = tiny()
    generator = make(model, tokenizer)
    first = generator.generate(PROMPTS[:2], Sampling(16, n=4, seed=1))
    assert ids_of(generator.generate(PROMPTS[:2], Sampling(16, n=4, seed=1))) == ids_of(first)
    assert ids_of(generator.generate(PROMPTS[:2], Sampling(16, n=4, seed=2))) != ids_of(first)
    assert len({tuple(one.token_ids) for one in first[0]}) == 4
    more = generator.generate(PROMPTS[:2], Sampling(16, n=5, seed=1))
    assert [samples[:4] for samples in ids_of(more)] == ids_of(first)
    twice = generator.generate([PROMPTS[0], PROMPTS[0]], Sampling(16, seed=1))
    assert twice[0] != twice[1]
    greedy = generator.generate(PROMPTS[:1], Sampling(8, n=3, temperature=0.0))[0]
    assert len(greedy) == 3
    assert greedy[0] == greedy[2]


def test_a_resumed_run_gives_identical_rows(tokenizer):
    model = tiny(dtype=torch.float32)
    sampling = Sampling(12, n=2, logprobs=True)
    rows: dict[int, Any] = {}
    whole = make(model, tokenizer, batch_size=6).generate(PROMPTS, sampling, on_batch=rows.update)
    assert rows == dict(enumerate(whole))
    rest: dict[int, Any] = {}
    results = make(model, tokenizer, batch_size=6).generate(
        PROMPTS, sampling, done=[0, 2, 3], on_batch=rest.update
    )
    assert rest == {index: samples for index, samples in enumerate(results) if samples}
    assert rest == {index: whole[index] for index in (1, 4, 5, 6)}
    generator = make(model, tokenizer)
    assert generator.generate(PROMPTS, sampling, done=range(7)) == [[]] * 7
    assert generator.last_stats.tokens == 0


def test_on_batch_sees_every_finished_batch_before_a_failure(tokenizer, monkeypatch):
    generator = make(tiny(), tokenizer, batch_size=2)
    seen: dict[int, Any] = {}

    def stop_later(batch):
        seen.update(batch)
        if len(seen) >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.generate(PROMPTS, Sampling(4), on_batch=stop_later)
    whole = make(tiny(), tokenizer, batch_size=2).generate(PROMPTS, Sampling(4), done=seen)
    assert [index for index, samples in enumerate(whole) if not samples] == sorted(seen)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_logprobs_are_those_of_teacher_forcing(architecture, temperature, tokenizer):
    model = tiny(architecture)
    sampling = Sampling(15, temperature=temperature, top_p=0.8, n=2, logprobs=True)
    for prompt, samples in zip(PROMPTS, make(model, tokenizer).generate(PROMPTS, sampling), strict=True):
        start = len(tokenizer(prompt)["input_ids"])
        for one in samples:
            ids = torch.tensor([tokenizer(prompt)["input_ids"] + one.token_ids])
            with torch.inference_mode():
                logps = torch.log_softmax(model(ids).logits[0, start - 1 : -1], -1)
            expected = logps.gather(1, ids[0, start:, None]).squeeze(1)
            torch.testing.assert_close(torch.tensor(one.logprobs, dtype=torch.float64), expected)
    assert make(model, tokenizer).generate(PROMPTS[:1], Sampling(2))[0][0].logprobs is None


class Scripted(torch.nn.Module):
    """A model that says given tokens, whatever it is asked: the script of the prompt's last token."""

    def __init__(self, scripts):
        super().__init__()
        self.inner = tiny(dtype=torch.float32)
        self.config = self.inner.config
        self.scripts = scripts

    def forward(self, input_ids, attention_mask=None, use_cache=False, past_key_values=None):
        out = self.inner(input_ids, attention_mask=attention_mask, use_cache=False)
        for row, ids in enumerate(input_ids.tolist()):
            seen = [token for token, real in zip(ids, attention_mask[row], strict=True) if real]
            start = next(place for place, token in enumerate(seen) if token in self.scripts)
            script, said = self.scripts[seen[start]], len(seen) - start - 1
            out.logits[row, -1] = 0.0
            out.logits[row, -1, script[min(said, len(script) - 1)]] = 50.0
        return out


def scripted(tokenizer, *texts):
    """A generator whose answer to prompt k (`chr(65 + k)`) is texts[k], and those prompts."""
    prompts = [chr(65 + k) for k in range(len(texts))]
    scripts = {
        tokenizer(p)["input_ids"][0]: tokenizer(t)["input_ids"] for p, t in zip(prompts, texts, strict=True)
    }
    model = Scripted(scripts)
    incremental._can_continue.known[model] = False
    return make(model, tokenizer), prompts


def test_text_is_cut_before_a_stop_text_that_spans_tokens(tokenizer):
    long = "so green that it never ends"
    said = ["the sea\n\nUser: hi and more", "the sky</s>never", "blue é\n\nUser", long]
    generator, prompts = scripted(tokenizer, *said)
    results = generator.generate(prompts, Sampling(16, temperature=0.0, stop=("\n\nUser:", "\n\nUser")))
    first, second, third, last = (one for (one,) in results)
    assert [one.text for one in (first, second, third)] == ["the sea", "the sky", "blue é"]
    assert [one.finish_reason for (one,) in results] == ["stop", "stop", "stop", "length"]
    assert tokenizer.decode(first.token_ids) in ("the sea\n\nUser", "the sea\n\nUser:")
    assert second.token_ids[-1] == tokenizer.eos_token_id
    assert long.startswith(last.text)
    assert len(last.token_ids) == 16


def test_a_late_stop_text_is_found_through_the_window(tokenizer):
    long = "the sky is blue and the sea is green " * 3
    generator, prompts = scripted(tokenizer, long + "STOP it", long + "é here")
    for stop, row in (("STOP", 0), ("é", 1)):
        one = generator.generate([prompts[row]], Sampling(200, temperature=0.0, stop=(stop,)))[0][0]
        assert one.text == long
        assert one.finish_reason == "stop"
        assert len(one.token_ids) < 100


def test_ending_with_the_last_token_is_a_stop(tokenizer):
    text = "the sky"
    generator, prompts = scripted(tokenizer, text + "</s>")
    count = len(tokenizer(text)["input_ids"])
    assert generator.generate(prompts, Sampling(count + 1, temperature=0.0))[0][0].finish_reason == "stop"
    assert generator.generate(prompts, Sampling(count, temperature=0.0))[0][0].finish_reason == "length"


def test_stop_tokens_come_from_model_tokenizer_and_template(tokenizer):
    model: Any = tiny()
    model.generation_config.eos_token_id = [5, 6]
    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop_token_ids(model, tokenizer) == sorted({5, 6, 1, im_end})
    assert im_end not in stop_token_ids(model, byte_tokenizer())


def test_the_space_before_a_continuation_is_kept():
    tokenizer = metaspace_tokenizer()
    before, more = tokenizer("the sky")["input_ids"][-1], tokenizer("is blue")["input_ids"]
    endings = Endings(tokenizer, ())
    assert endings.text(more) == ("is blue", False)
    assert endings.text(more, before=before) == (" is blue", False)
    assert endings.text([tokenizer.eos_token_id, *more], before=before)[0] == " is blue"
    assert endings.text([], before=before) == ("", False)


def test_messages_go_through_the_template_and_text_does_not(tokenizer, monkeypatch):
    seen = []
    generator = make(tiny(), tokenizer)
    monkeypatch.setattr(module, "plan_batches", lambda *args: seen.append(args[0]) or [])
    generator.generate([[{"role": "user", "content": "hi"}], "hi"], Sampling(4))
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert seen == [[len(tokenizer(rendered)["input_ids"]), len(tokenizer("hi")["input_ids"])]]
    with_bos = make(tiny(), byte_tokenizer(adds_bos=True))
    assert with_bos.encode("hi") == with_bos.encode("<s>hi")
    assert with_bos.encode("") == [with_bos.tokenizer.bos_token_id]


def test_a_prompt_that_the_template_refuses_is_named():
    generator = make(tiny(), byte_tokenizer(GEMMA))
    good, bad = [{"role": "user", "content": "hi"}], [{"role": "system", "content": "hi"}]
    with pytest.raises(DataError, match=r"prompt 1: .*System role"):
        generator.generate([good, bad], Sampling(4))


def test_a_prompt_without_room_is_named(tokenizer):
    generator = make(tiny(max_position_embeddings=32), tokenizer)
    generator.generate(["a"], Sampling(31))
    with pytest.raises(
        DataError, match=r"prompt 1: prompt: 40 tokens, expected at most 24: .* 32 less max_new_tokens 8"
    ):
        generator.generate(["a", "?" * 40], Sampling(8))


def test_modes_of_modules_are_restored(tokenizer):
    model: Any = tiny().train()
    model.lm_head.eval()
    generator = make(model, tokenizer)
    generator.generate(["a"], Sampling(2))
    assert [one.training for one in (model, model.model, model.lm_head)] == [True, True, False]
    assert not torch.is_inference_mode_enabled()
    assert generator.generate([], Sampling()) == []
    with pytest.raises(ConfigError, match="top_p"):
        generator.generate(["a"], Sampling(top_p=2.0))


def test_adapters_count_and_can_be_disabled(tokenizer):
    base = ids_of(make(tiny(), tokenizer).generate(PROMPTS, Sampling(8, n=2)))
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    policy: Any = get_peft_model(tiny(), config).double()
    generator = make(policy, tokenizer)
    assert ids_of(generator.generate(PROMPTS, Sampling(8, n=2))) != base
    with disabled_adapter(policy):
        assert ids_of(generator.generate(PROMPTS, Sampling(8, n=2))) == base


def test_it_works_after_the_scoring_engine(tokenizer):
    model = tiny()
    before = ids_of(make(model, tokenizer).generate(PROMPTS, Sampling(8, n=2)))
    score_responses(model, Responses([[5, 6], [7]], [[8], [9, 4], [3]], [0, 0, 1]))
    assert ids_of(make(model, tokenizer).generate(PROMPTS, Sampling(8, n=2))) == before


def test_out_of_memory_halves_the_batch(tokenizer, monkeypatch, caplog):
    model = tiny()
    expected = ids_of(make(model, tokenizer).generate(PROMPTS, Sampling(6, n=2)))
    generator = make(model, tokenizer)
    decode = TransformersGenerator._decode

    most = 4

    def small_memory(self, rows, job, meter):
        if len(rows) > most:
            meter.count(0, 99)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, rows, job, meter)

    monkeypatch.setattr(TransformersGenerator, "_decode", small_memory)
    with caplog.at_level(logging.WARNING):
        assert ids_of(generator.generate(PROMPTS, Sampling(6, n=2))) == expected
    assert [one.message for one in caplog.records] == [
        "Out of GPU memory with 14 samples in a batch: going on with 7.",
        "Out of GPU memory with 7 samples in a batch: going on with 3.",
    ]
    assert generator.last_stats.tokens == sum(len(ids) for samples in expected for ids in samples)

    most = 0
    with pytest.raises(ModelError, match="One sample does not fit"):
        generator.generate(PROMPTS, Sampling(6, n=2))


def test_statistics(tokenizer):
    generator = make(tiny(), tokenizer)
    results = generator.generate(PROMPTS, Sampling(9, n=3), done=[2])
    stats = generator.last_stats
    whole = ids_of(make(tiny(), tokenizer).generate(PROMPTS, Sampling(9, n=3)))
    assert stats.tokens == sum(len(ids) for samples in whole for ids in samples)
    assert (stats.prompts, stats.samples) == (7, 21)
    assert stats.prompt_tokens == sum(len(tokenizer(one)["input_ids"]) for one in PROMPTS)
    assert stats.tokens_per_second > 0
    assert results[2] == []


def test_samples_of_one_prompt_keep_to_the_budget_too(tokenizer, monkeypatch):
    sizes, decode = [], TransformersGenerator._decode

    def noted(self, part, *rest):
        sizes.append(len(part))
        return decode(self, part, *rest)

    monkeypatch.setattr(TransformersGenerator, "_decode", noted)
    whole, parts = (
        ids_of(make(tiny(), tokenizer, batch_tokens=most).generate(PROMPTS[1:2], Sampling(9, n=8)))
        for most in (None, 35)
    )
    assert parts == whole
    assert sizes == [8, 3, 3, 2]


def test_batches_hold_whole_prompts_longest_first_within_both_budgets():
    lengths = [3, 50, 7, 7, 20, 1]
    plan = plan_batches(lengths, Sampling(10, n=2), batch_tokens=120, batch_size=6)
    assert plan == [[1], [4, 2], [3, 0, 5]]
    assert plan_batches(lengths, Sampling(10, n=9, temperature=0.0), 10**6, 64) == [[1, 4, 2, 3, 0, 5]]
    assert plan_batches(lengths, Sampling(10, n=9), 10, 1) == [[1], [4], [2], [3], [0], [5]]


def test_encoder_decoders_are_refused(tokenizer):
    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=20)
    with pytest.raises(ModelError, match="encoder-decoder"):
        make(T5ForConditionalGeneration(config), tokenizer)
