"""Fused weights against the model's own modules: logits of rows that come, multiply, leave and join."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from coalign.models.generation import incremental
from coalign.models.generation.fused_cache import RESERVE
from coalign.models.generation.fused_decoder import FusedDecoder, is_llama_like
from coalign.models.generation.fused_model import FusedModel
from coalign.models.generation.fused_rows import FusedRows
from coalign.models.generation.incremental import CachedRows, PlainRows, Rows
from coalign.models.generation.packed_linear import PackedLinear, can_pack
from tests.models.tiny import VOCABULARY, make_model

pytestmark = pytest.mark.usefixtures("exact_norms")
LLAMA_LIKE = ("llama", "llama_tied", "qwen2", "qwen3")


def prompts(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded tokens and their mask."""
    draw = torch.Generator().manual_seed(seed)
    width = max(lengths)
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    return torch.randint(3, VOCABULARY, (len(lengths), width), generator=draw) * mask, mask


def tokens(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))


def fused(model: nn.Module) -> Any:
    rows = FusedModel(model).open()
    assert rows is not None
    return rows


def history(rows: Rows, others: Rows | None = None) -> torch.Tensor:
    """Logits of all that can happen to rows: several samples of prompts of two lengths, some of which leave (all of one
    prompt among them), others that join, rows that are repeated and reordered.
    """
    found = [rows.start(*prompts(7, 4, 4))]
    rows.select(torch.tensor([0, 0, 0, 1, 1, 2, 2]))
    found.append(rows.step(tokens(7)))
    rows.select(torch.tensor([0, 2, 5, 6]))
    found.append(rows.step(tokens(4)))
    if others is not None:
        found.append(others.start(*prompts(11, 2, seed=3)))
        found.append(others.step(tokens(2)))
        rows.join(others)
        found.append(rows.step(tokens(6)))
        rows.select(torch.tensor([5, 4, 4, 0]))
        found.append(rows.step(tokens(4)))
        rows.select(torch.tensor([2, 1]))
    found += [rows.step(tokens(len(found[-1]) if others is None else 2, seed)) for seed in range(RESERVE + 3)]
    return torch.cat(found)


@pytest.mark.parametrize("architecture", LLAMA_LIKE)
@torch.inference_mode()
def test_logits_are_the_models_whatever_happens_to_rows(architecture: str) -> None:
    model = make_model(architecture, dtype=torch.float64)
    expected = history(CachedRows(model), CachedRows(model))
    actual = history(fused(model), fused(model))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(history(fused(model)), history(CachedRows(model)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", LLAMA_LIKE)
@torch.inference_mode()
def test_rows_that_were_grouped_join_too(architecture: str) -> None:
    model = make_model(architecture, dtype=torch.float64)

    def joined(first: Rows, second: Rows) -> torch.Tensor:
        first.start(*prompts(3, 5))
        second.start(*prompts(9, 6, seed=5))
        for rows in (first, second):
            rows.select(torch.tensor([0, 0, 1, 1, 1]))
        second.step(tokens(5))
        first.join(second)
        return torch.cat([first.step(tokens(10)), first.step(tokens(10, 2))])

    torch.testing.assert_close(
        joined(fused(model), fused(model)), joined(PlainRows(model), PlainRows(model)), rtol=1e-9, atol=1e-9
    )


@torch.inference_mode()
def test_float32_weights_are_packed_and_agree() -> None:
    model = make_model("llama")
    torch.testing.assert_close(history(fused(model)), history(PlainRows(model)), rtol=1e-4, atol=1e-4)


def biased(architecture: str) -> nn.Module:
    model = make_model(architecture, dtype=torch.float64, attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.rand_like(parameter))
    return model


@torch.inference_mode()
def test_biases_and_gains_count() -> None:
    model = biased("llama")
    torch.testing.assert_close(history(fused(model)), history(CachedRows(model)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    ],
)  # fmt: skip
@torch.inference_mode()
def test_scaled_rotary_embeddings(scaling: dict[str, object]) -> None:
    model = make_model("llama", dtype=torch.float64, rope_parameters={"rope_theta": 1e4, **scaling})
    torch.testing.assert_close(history(fused(model)), history(CachedRows(model)), rtol=1e-6, atol=1e-6)


def test_what_it_does_not_know_takes_the_models_own_path() -> None:
    assert not any(is_llama_like(make_model(one)) for one in ("gemma", "gemma2", "gpt2", "mamba"))
    assert not is_llama_like(make_model("mistral", sliding_window=8))
    assert is_llama_like(make_model("mistral", sliding_window=None))
    hooked: Any = make_model("llama")
    hooked.model.layers[1].mlp.register_forward_hook(lambda _, __, out: 2 * out)
    assert not is_llama_like(hooked)
    assert not is_llama_like(
        make_model("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    )


class Doubled(nn.Module):
    """A rotary embedding that is not what its name says."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = position_ids.shape[-1]
        return self.inner(x, position_ids if length < 20 else position_ids * 2)


def test_a_model_whose_logits_differ_takes_its_own_path_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model("llama")
    model.get_submodule("model").rotary_emb = Doubled(model.get_submodule("model.rotary_emb"))
    with caplog.at_level(logging.WARNING):
        assert FusedModel(model).open() is None
        assert FusedModel(model).open() is None
    (said,) = (one.message for one in caplog.records)
    assert said.startswith("LlamaForCausalLM cannot decode with fused weights (its logits differ with them)")


@pytest.mark.parametrize("way", ["optimizer", "data", "replaced"])
def test_weights_follow_the_model(way: str) -> None:
    model = make_model("llama", dtype=torch.float64)
    opened: Any = FusedModel(model)
    weight: Any = model.get_submodule("model.layers.0.mlp.up_proj").weight

    def logits(rows: Rows | None) -> torch.Tensor:
        assert rows is not None
        with torch.inference_mode():
            return rows.start(*prompts(5, 3))

    before = logits(opened.open())
    first = opened._decoder
    logits(opened.open())
    assert opened._decoder is first
    if way == "optimizer":
        weight.grad = torch.ones_like(weight)
        torch.optim.SGD([weight], lr=0.1).step()
    elif way == "data":
        weight.data.mul_(1.5)
    else:
        weight.data = weight.data * 1.5
    after = logits(opened.open())
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, logits(CachedRows(model)), rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_samples_of_a_prompt_share_its_keys_and_values() -> None:
    model = make_model("llama", dtype=torch.float64)
    rows = fused(model)
    rows.start(*prompts(7, 4))
    rows.select(torch.tensor([0] * 5 + [1] * 5))
    assert (rows._prompts.rows, rows._own.rows, rows._own.length) == (2, 10, 0)
    rows.step(tokens(10))
    rows.select(torch.arange(5, 10))
    assert (rows._prompts.rows, rows._own.rows, rows._own.length) == (1, 5, 1)


@pytest.mark.parametrize("prefill", [1, 256])
@torch.inference_mode()
def test_a_beginning_that_all_prompts_share_is_computed_once(
    prefill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("qwen3", dtype=torch.float64)
    monkeypatch.setitem(incremental.PREFILL_TOKENS, "cpu", prefill)
    beginning, ends = prompts(40)[0][0], prompts(30, 3, 17, seed=2)
    ids = torch.zeros(3, 70, dtype=torch.long)
    for row, length in enumerate((30, 3, 17)):
        ids[row, 30 - length :] = torch.cat([beginning, ends[0][row, 30 - length :]])
    mask = (ids > 0).long()
    counted: list[int] = []
    run = FusedDecoder.run
    monkeypatch.setattr(
        FusedDecoder, "run", lambda self, ids, *more: (counted.append(len(ids)), run(self, ids, *more))[1]
    )
    opened = FusedModel(model)
    rows = opened.open()
    assert rows is not None
    counted.clear()
    expected = PlainRows(model)
    torch.testing.assert_close(rows.start(ids, mask), expected.start(ids, mask), rtol=1e-9, atol=1e-9)
    assert counted == ([40, 30, 3, 17] if prefill == 1 else [40, 90])
    for both in (rows, expected):
        both.select(torch.tensor([2, 1, 0, 0]))
    torch.testing.assert_close(rows.step(tokens(4)), expected.step(tokens(4)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_products(dtype: torch.dtype, bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x, other = (torch.randn(*shape, generator=draw).to(dtype) for shape in ((6, 5), (3, 5), (3, 6)))
    added = torch.randn(6, generator=draw).to(dtype) if bias else None
    packed = PackedLinear(weight, added, dtype)
    plain = (x.double() @ weight.double().T) + (0 if added is None else added.double())
    near: Any = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    for actual, expected in (
        (packed(x), plain),
        (packed.swish(x), nn.functional.silu(plain)),
        (packed.times(x, other), plain * other.double()),
        (packed.added_to(other, x), plain + other.double()),
        (packed.added_to(other.double(), x), plain + other.double()),
    ):
        torch.testing.assert_close(actual.double(), expected, **near)
    assert not can_pack(torch.float64)


def test_a_decoder_is_a_copy() -> None:
    model: Any = make_model("llama")
    decoder = FusedDecoder(model, torch.float32)
    rows = FusedRows(decoder)
    with torch.inference_mode():
        before = rows.start(*prompts(4))
        model.model.layers[0].mlp.up_proj.weight.zero_()
        torch.testing.assert_close(FusedRows(decoder).start(*prompts(4)), before)
