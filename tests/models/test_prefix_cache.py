"""Prompts that go on from the states of earlier ones get what they get without them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from coalign.models.generation import incremental
from coalign.models.generation.decode_loop import DecodeLoop, Decoding
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.prefix_cache.store import BLOCK, Mark, PrefixCache
from coalign.models.types import Generation, Sampling
from tests.models.test_generation import VOCABULARY, tiny

MARK = Mark("weights", "path")
NUMBERS = 2 * 2 * 3 + 2 * 1 * 5
"""Of a token of `made_up`."""


def made_up(ids: list[int], first: int, last: int) -> Any:
    """States that tell of which tokens they are: three layers, one of which uses another's, of two shapes."""
    told = torch.tensor([float(hash(tuple(ids[: place + 1])) % 9973) for place in range(first, last)])
    wide, narrow = told.expand(2, 3, -1).transpose(1, 2), told.expand(1, 5, -1).transpose(1, 2)
    return [(wide, wide + 1), None, (narrow + 2, narrow + 3)]


prompts = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=5).map(
        lambda bits: [bit for bit in bits for _ in range(BLOCK - 3)]
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(prompts, st.integers(0, 12))
def test_what_is_found_is_the_longest_beginning_that_is_kept_and_never_too_much(texts, blocks) -> None:
    room = blocks * BLOCK * NUMBERS * 4
    cache, unbounded, seen = PrefixCache(room), PrefixCache(2**40), []
    for ids in texts:
        for one in (cache, unbounded):
            length, states = one.find(MARK, ids)
            assert length < len(ids)
            expected = made_up(ids, 0, length)
            for layer, right in zip(states, expected if length else [], strict=True):
                if right is None:
                    assert layer is None
                else:
                    assert all(torch.equal(mine, other) for mine, other in zip(layer, right, strict=True))
            one.keep(MARK, ids, lambda first, last, ids=ids: made_up(ids, first, last))
            assert one.bytes <= one.most_bytes
        assert cache.find(MARK, [*ids, 7])[0] == min(len(ids) // BLOCK, blocks) * BLOCK, "the last is there"
        seen.append(ids)
        assert unbounded.find(MARK, [*ids, 7])[0] == len(ids) // BLOCK * BLOCK
    assert unbounded.bytes == NUMBERS * 4 * BLOCK * len(
        {tuple(ids[:end]) for ids in seen for end in range(BLOCK, len(ids) + 1, BLOCK)}
    ), "prompts with one beginning share its blocks"


def test_other_weights_drop_what_was_kept_and_other_adapters_have_their_own() -> None:
    cache, ids = PrefixCache(2**20), list(range(3 * BLOCK))
    cache.keep(MARK, ids, lambda first, last: made_up(ids, first, last))
    assert cache.find(Mark("weights", "another"), [*ids, 1])[0] == 0
    assert cache.find(MARK, [*ids, 1])[0] == 3 * BLOCK
    assert (cache.lookups, cache.hits, cache.tokens) == (2, 1, 3 * BLOCK)
    assert cache.find(Mark("other weights", "path"), [*ids, 1])[0] == 0
    assert cache.bytes == 0


def answered(generator: TransformersGenerator, asked: list[Decoding]) -> list[list[Generation]]:
    """The answers to requests that are decoded together."""
    loop, found = DecodeLoop(generator), {}
    loop.add(asked)
    while not loop.is_idle:
        for one, piece in loop.step():
            if piece.generation is not None:
                found.setdefault(id(one), {})[piece.sample] = piece.generation
    return [[found[id(one)][sample] for sample in range(one.sampling.n)] for one in asked]


def text(length: int, seed: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


SYSTEM = text(45, 1)
TURNS = [
    [SYSTEM + text(9, 2)],
    [SYSTEM + text(9, 2) + text(20, 3), SYSTEM + text(4, 4), SYSTEM[:30], text(50, 5), text(3, 6)],
    [SYSTEM + text(9, 2) + text(20, 3) + text(5, 7), text(50, 5) + text(9, 8), SYSTEM + text(90, 9)],
    [SYSTEM + text(9, 2) + text(20, 3) + text(5, 7)] * 2,
]
"""Prompts that are asked together: a conversation, the same system message, others, the same again."""
HOW = [
    Sampling(6, temperature=0.0, logprobs=True),
    Sampling(6, n=3, seed=5, top_logprobs=2),
    Sampling(6, seed=8, top_p=0.9, logprobs=True),
]


def assert_same(model: Any, tokenizer: Any, *, fused: bool) -> PrefixCache:
    """All turns with and without a cache."""
    plain, kept = (TransformersGenerator(model, tokenizer, fused=fused) for _ in range(2))
    cache = PrefixCache(2**26)
    assert kept.keep_prefixes(cache) is None
    assert kept.is_fused is fused
    for number, turn in enumerate(TURNS):
        asked = [
            [Decoding(ids, HOW[(number + place) % 3]) for place, ids in enumerate(turn)] for _ in range(2)
        ]
        for one, other in zip(answered(plain, asked[0]), answered(kept, asked[1]), strict=True):
            for right, mine in zip(one, other, strict=True):
                assert mine.token_ids == right.token_ids
                assert mine.logprobs == pytest.approx(right.logprobs, abs=1e-4)
        assert [one.found for one in asked[0]] == [0] * len(turn)
        whole = [BLOCK * ((len(ids) - 1) // BLOCK) for ids in turn]
        found = [one.found for one in asked[1]]
        if number == 1:
            assert found == [48, 32, 16, 0, 0]
        if number == 3:
            assert found == whole
    assert cache.bytes > 0
    return cache


@pytest.mark.parametrize("architecture", ["llama", "llama_tied", "qwen2", "qwen3"])
def test_fused_weights_give_the_answers_that_they_give_without_a_cache(architecture, tokenizer) -> None:
    assert_same(tiny(architecture, dtype=torch.float32), tokenizer, fused=True)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt2"])
def test_modules_give_the_answers_that_they_give_without_a_cache(architecture, tokenizer) -> None:
    assert_same(tiny(architecture, dtype=torch.float32), tokenizer, fused=False)


@pytest.mark.parametrize("fused", [True, False])
def test_calls_for_many_prompts_go_on_from_what_they_share_with_earlier_ones(fused, tokenizer) -> None:
    model = tiny(dtype=torch.float32)
    plain, kept = (TransformersGenerator(model, tokenizer, fused=fused) for _ in range(2))
    kept.keep_prefixes(PrefixCache(2**26))
    texts = [
        "the sea and the sky are blue, said the user",
        "the sea and the sky are blue, so is it green?",
        "no",
    ]
    for asked in (texts[:1], texts, texts[::-1]):
        for sampling in (Sampling(8, temperature=0.0), Sampling(8, n=2, seed=3)):
            right, mine = (one.generate(asked, sampling) for one in (plain, kept))
            assert [[a.token_ids for a in one] for one in mine] == [
                [a.token_ids for a in one] for one in right
            ]
    assert kept.prefixes is not None
    assert kept.prefixes.hits > 0


@pytest.mark.parametrize("fused", [True, False])
def test_the_next_turn_goes_on_from_the_answer_too(fused, tokenizer) -> None:
    generator = TransformersGenerator(tiny(dtype=torch.float32, eos_token_id=None), tokenizer, fused=fused)
    generator.stop_ids = []
    generator.keep_prefixes(PrefixCache(2**26))
    ((first,),) = answered(generator, [Decoding(SYSTEM, Sampling(40, temperature=0.0))])
    second = Decoding([*SYSTEM, *first.token_ids, *text(4, 3)], Sampling(3, temperature=0.0))
    answered(generator, [second])
    assert second.found == (45 + 39) // BLOCK * BLOCK
    many = Decoding([*SYSTEM, *text(30, 11)], Sampling(40, n=2, seed=1))
    samples = answered(generator, [many])[0]
    third = Decoding([*many.ids, *samples[0].token_ids], Sampling(3, temperature=0.0))
    answered(generator, [third])
    assert third.found == len(many.ids) // BLOCK * BLOCK, "of several samples nobody knows which goes on"


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_a_cache_ends_with_a_change_of_the_weights(fused, tokenizer) -> None:
    model: Any = tiny(dtype=torch.float32)
    generator = TransformersGenerator(model, tokenizer, fused=fused)
    cache = PrefixCache(2**26)
    generator.keep_prefixes(cache)
    asked = [Decoding(SYSTEM, Sampling(5, temperature=0.0)) for _ in range(3)]
    first = answered(generator, asked[:1])
    model.model.layers[0].self_attn.k_proj.weight.data.mul_(-1)  # a write that no version counts
    second = answered(generator, asked[1:2])
    right = answered(TransformersGenerator(model, tokenizer, fused=fused), asked[2:])
    assert [one.found for one in asked] == [0, 0, 0]
    assert second[0][0].token_ids == right[0][0].token_ids != first[0][0].token_ids


def test_adapters_over_one_model_keep_their_own_states(tokenizer) -> None:
    model: Any = get_peft_model(
        tiny(dtype=torch.float32), LoraConfig(target_modules=["k_proj", "v_proj"], init_lora_weights=False)
    )
    model.add_adapter("second", LoraConfig(target_modules=["k_proj"], init_lora_weights=False))
    generator, plain = TransformersGenerator(model, tokenizer), TransformersGenerator(model, tokenizer)
    generator.keep_prefixes(PrefixCache(2**26))
    found = []
    for name in ("default", "second", None, "default", "second", None):
        if name is None:
            model.base_model.disable_adapter_layers()
        else:
            model.base_model.enable_adapter_layers()
            model.set_adapter(name)
        asked = [Decoding(SYSTEM, Sampling(5, temperature=0.0)) for _ in range(2)]
        mine, right = answered(generator, asked[:1]), answered(plain, asked[1:])
        assert mine[0][0].token_ids == right[0][0].token_ids
        found.append(asked[0].found)
    assert found == [0, 0, 0, 32, 32, 32]


@pytest.mark.parametrize(
    ("architecture", "changes", "why"),
    [
        ("gemma2", {}, "DynamicSlidingWindowLayer"),
        ("mistral", {"sliding_window": 8}, "DynamicSlidingWindowLayer"),
        ("mamba", {}, "do not go on from a cache|LinearAttention|Mamba"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "turned by the length of the text .dynamic.",
        ),
    ],
)
def test_models_whose_states_are_of_no_use_are_left_out_by_name(
    architecture, changes, why, tokenizer
) -> None:
    generator = TransformersGenerator(tiny(architecture, dtype=torch.float32, **changes), tokenizer)
    cache = PrefixCache(2**26)
    said = generator.keep_prefixes(cache)
    assert said is not None
    assert re.search(why, said), said
    answered(generator, [Decoding(SYSTEM, Sampling(2, temperature=0.0))])
    assert generator.prefixes is None
    assert cache.bytes == 0


def test_kernels_that_read_no_padding_between_tokens_are_left_out_by_name(monkeypatch) -> None:
    model: Any = tiny(dtype=torch.float32)
    monkeypatch.setitem(incremental._can_continue.known, model, True)
    model.config._attn_implementation_internal = "flash_attention_2"
    assert "flash_attention_2" in str(incremental.lacks_prefixes(model))
