"""The scoring engine's two paths agree with each other and with Transformers' own numbers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from coalign.models.scoring import shared_prefix
from coalign.models.scoring.engine import resolve_path, score_responses
from coalign.models.scoring.token_head import token_logps_from_hidden
from coalign.models.types import Responses
from tests.models.tiny import ARCHITECTURES, VOCABULARY, float64_norms, make_model

tokens = st.integers(3, VOCABULARY - 1)


@st.composite
def ragged(draw: st.DrawFn, max_prompts: int = 3, max_responses: int = 8) -> Responses:
    prompts = draw(st.lists(st.lists(tokens, min_size=1, max_size=12), min_size=1, max_size=max_prompts))
    responses, index = [], []
    for prompt in range(len(prompts)):
        for _ in range(draw(st.integers(1, max_responses))):
            responses.append(draw(st.lists(tokens, min_size=1, max_size=9)))
            index.append(prompt)
    return Responses(prompts, responses, index)


FIXED = Responses(
    prompt_ids=[[5, 6, 7, 8], [9], [10, 11, 12]],
    response_ids=[[20, 21, 22], [23], [24, 25], [26, 27, 28, 29, 30], [31], [32, 33]],
    prompt_index=[0, 0, 1, 1, 2, 2],
)


RANKINGS = Responses(
    prompt_ids=[[3 + size, 40, 41 + size][: 1 + size % 3] for size in range(2, 9)],
    response_ids=[
        [50 + (size * 7 + rank * 3 + place) % 40 for place in range(1 + (rank * size) % 6)]
        for size in range(2, 9)
        for rank in range(size)
    ],
    prompt_index=[size - 2 for size in range(2, 9) for _ in range(size)],
)
"""Rankings of 2 to 8 responses, the first of each of one token."""


def reference_logps(model: nn.Module, responses: Responses) -> torch.Tensor:
    """One response at a time, straight from the model's logits."""
    pieces = []
    for prompt, ids in zip(responses.prompt_index, responses.response_ids, strict=True):
        before = responses.prompt_ids[prompt]
        logits = model(input_ids=torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]
        pieces.append(logits.log_softmax(-1)[range(len(ids)), ids])
    return torch.cat(pieces)


Gradients = dict[str, torch.Tensor]


def gradients(model: nn.Module, responses: Responses, path: str) -> tuple[torch.Tensor, Gradients]:
    """Loss and gradients of a loss that weighs every token differently."""
    model.zero_grad()
    logps = score_responses(model, responses, path=path)
    weights = torch.linspace(-1, 2, len(logps.token_logps), dtype=logps.token_logps.dtype)
    loss = (weights * logps.token_logps).sum() + (logps.means() ** 2).sum()
    loss.backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return loss.detach(), found


def assert_same_gradients(model: nn.Module, responses: Responses, dtype: torch.dtype) -> None:
    tolerance, floor = (1e-10, 1e-4) if dtype == torch.float64 else (1e-5, 0.02)
    loss, packed = gradients(model, responses, "packed")
    expected, padded = gradients(model, responses, "padded")
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    assert_close_gradients(packed, padded, tolerance, floor)


def assert_close_gradients(packed: Gradients, padded: Gradients, tolerance: float, floor: float) -> None:
    assert packed.keys() == padded.keys()
    largest = max(one.abs().max() for one in padded.values())
    for name, gradient in padded.items():
        # A gradient that is small beside the others (zero up to rounding where one token attends to itself alone)
        # carries their rounding: it is measured by `floor` times the largest one.
        scale = gradient.abs().max().clamp(min=floor * largest)
        assert ((packed[name] - gradient).abs().max() / scale) < tolerance, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", ["packed", "padded"])
def test_values_are_those_of_the_model(architecture: str, path: str) -> None:
    model = make_model(architecture, dtype=torch.float64)
    with torch.no_grad():
        actual = score_responses(model, FIXED, path=path)
        torch.testing.assert_close(actual.token_logps, reference_logps(model, FIXED), rtol=1e-9, atol=1e-9)
    assert actual.lengths.tolist() == [3, 1, 2, 5, 1, 2]
    assert actual.prompt_index.tolist() == [0, 0, 1, 1, 2, 2]


@contextlib.contextmanager
def precise(architecture: str, dtype: torch.dtype) -> Iterator[Any]:
    """A model whose norms are computed in `dtype` too, with weights that it can bear."""
    double = dtype == torch.float64
    with float64_norms() if double else contextlib.nullcontext():
        yield make_model(architecture, dtype=dtype, scale=4.0 if double else 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_packed_gradients(architecture: str, dtype: torch.dtype, data: st.DataObject) -> None:
    responses = data.draw(ragged(max_responses=8 if dtype == torch.float64 else 3))
    with precise(architecture, dtype) as model:
        assert_same_gradients(model, responses, dtype)


def with_adapter(model: Any) -> Any:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def with_checkpointing(model: Any) -> Any:
    model.train()
    if hasattr(model, "peft_config"):
        model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "adapter"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "llama_tied"])
def test_packed_gradients_of_rankings(architecture: str, adapter: bool, checkpointing: bool) -> None:
    """Loss and every gradient in both precisions, over rankings of 2 to 8 with one-token responses."""
    for dtype in (torch.float64, torch.float32):
        with precise(architecture, dtype) as model:
            model = with_adapter(model) if adapter else model
            model = with_checkpointing(model) if checkpointing else model
            assert_same_gradients(model, RANKINGS, dtype)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(responses=ragged())
def test_values_under_flex_attention(architecture: str, responses: Responses) -> None:
    model: Any = make_model(architecture, dtype=torch.float64)
    with torch.no_grad(), float64_norms():
        expected = score_responses(model, responses, path="padded").token_logps
        model.set_attn_implementation(shared_prefix.FLEX_NAME)
        actual = score_responses(model, responses, path="packed").token_logps
    assert model.config._attn_implementation == shared_prefix.FLEX_NAME
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_flex_attention_without_a_backward_pass_is_not_taken() -> None:
    model: Any = make_model("llama", dtype=torch.float64).train()
    model.set_attn_implementation("flex_attention")
    score_responses(model, FIXED, path="packed").token_logps.sum().backward()
    assert model.training
    assert model.config._attn_implementation == shared_prefix.NAME


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has a backward pass on CUDA alone")
def test_gradients_under_flex_attention() -> None:
    shape = {"hidden_size": 64, "head_dim": 16}
    model: Any = make_model("llama", scale=2.0, **shape).cuda()
    expected, padded = gradients(model, RANKINGS, "padded")
    model.set_attn_implementation("flex_attention")
    loss, packed = gradients(model, RANKINGS, "packed")
    assert model.config._attn_implementation == shared_prefix.FLEX_NAME
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert_close_gradients(packed, padded, 1e-3, 0.02)


def test_disabled_adapter_is_the_base() -> None:
    model = make_model("llama", dtype=torch.float64)
    with torch.no_grad():
        base = score_responses(model, FIXED).token_logps
        adapted = with_adapter(model)
        changed = score_responses(adapted, FIXED).token_logps
        with adapted.disable_adapter():
            again = score_responses(adapted, FIXED).token_logps
    assert (changed - base).abs().max() > 1e-3
    torch.testing.assert_close(again, base)


@settings(max_examples=10)
@given(responses=ragged(max_prompts=5, max_responses=3), budget=st.integers(1, 300))
def test_batches_do_not_change_values(responses: Responses, budget: int) -> None:
    model = make_model("llama", dtype=torch.float64)
    seen: list[int] = []
    with torch.no_grad(), float64_norms():
        whole = score_responses(model, responses)
        cut = score_responses(model, responses, batch_tokens=budget, on_batch=seen.append)
    torch.testing.assert_close(cut.token_logps, whole.token_logps)
    assert sum(seen) == len(responses.response_ids)


def test_sums_means_and_trained_mask() -> None:
    model = make_model("gpt2", dtype=torch.float64)
    mask = [[True, False, True], [True], [False, False], [True] * 5, [True], [True, True]]
    masked = Responses(FIXED.prompt_ids, FIXED.response_ids, FIXED.prompt_index, mask)
    with torch.no_grad():
        every = score_responses(model, FIXED).split()
        some = score_responses(model, masked)
    assert some.lengths.tolist() == [2, 1, 0, 5, 1, 2]
    assert some.sums()[0] == pytest.approx(float(every[0][0] + every[0][2]))
    assert float(some.means()[2]) == 0.0
    assert some.means()[3] == pytest.approx(float(every[3].mean()))


@pytest.mark.parametrize("architecture", ["mamba", "gemma2"])
def test_models_that_cannot_share_fall_back_once(architecture: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(architecture)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        first = score_responses(model, FIXED)
        score_responses(model, FIXED)
    assert resolve_path(model, "auto") == "padded"
    assert sum("cannot share prompts" in record.message for record in caplog.records) == 1
    torch.testing.assert_close(first.token_logps, reference_logps(model, FIXED), rtol=1e-4, atol=1e-4)


def test_sliding_window_shorter_than_the_text_is_padded() -> None:
    model = make_model("mistral", sliding_window=16, dtype=torch.float64)
    long = Responses([[5] * 20], [[6, 7, 8], [9]], [0, 0])
    assert resolve_path(model, "auto", long) == "padded"
    assert resolve_path(model, "auto", FIXED) == "packed"
    with torch.no_grad():
        actual = score_responses(model, long).token_logps
        torch.testing.assert_close(actual, reference_logps(model, long), rtol=1e-9, atol=1e-9)


def test_gradients_repeat_to_the_last_bit() -> None:
    """Many responses share a prompt's last position; with several threads their sum must keep its order."""
    many = Responses([[5, 6, 7]], [[10 + n % 80, 11, 12] for n in range(48)], [0] * 48)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        model = make_model("llama", hidden_size=256, intermediate_size=256)
        first = gradients(model, many, "packed")[1]
        for _ in range(5):
            again = gradients(model, many, "packed")[1]
            assert all(torch.equal(first[name], again[name]) for name in first)
    finally:
        torch.set_num_threads(threads)


def test_prompt_is_computed_once() -> None:
    row = shared_prefix.pack(FIXED)
    assert row.input_ids.numel() == (4 + 2 + 0) + (1 + 1 + 4) + (3 + 0 + 1)
    assert row.targets.numel() == row.rows.numel() == 14
    assert row.predictors.numel() == 14 - 3, "three prompts of two responses each share their last position"


@pytest.mark.parametrize(
    ("prompts", "responses", "index", "message"),
    [
        ([[1]], [[]], [0], "no tokens"),
        ([[1], [2]], [[3], [4]], [1, 0], "non-decreasing"),
        ([[1]], [[3]], [0, 0], "prompt indices"),
        ([[]], [[3, 4]], [0], "prompt 0 is empty"),
    ],
)
def test_bad_responses(prompts: list, responses: list, index: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_responses(make_model("llama"), Responses(prompts, responses, index), path="packed")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_token_head(bias: bool, frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coalign.models.scoring.token_head.CHUNK_ELEMENTS", 3 * 11)
    torch.manual_seed(0)
    hidden = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=not frozen)
    offset = torch.randn(11, dtype=torch.float64, requires_grad=not frozen) if bias else None
    targets = torch.randint(0, 11, (12,))
    rows = torch.tensor([0, 1, 1, 1, 2, 3, 4, 0, 5, 6, 7, 7])
    inputs = [one for one in (hidden, weight, offset) if one is not None and one.requires_grad]

    def fused(*_: torch.Tensor) -> torch.Tensor:
        return token_logps_from_hidden(hidden, weight, offset, targets, rows)

    plain = nn.functional.linear(hidden, weight, offset).log_softmax(-1)[rows, targets]
    torch.testing.assert_close(fused(), plain)
    assert torch.autograd.gradcheck(fused, inputs)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_a_temperature_divides_the_logits_on_both_paths(architecture: str):
    model = make_model(architecture)
    with torch.no_grad():
        rows = [
            model(torch.tensor([FIXED.prompt_ids[prompt] + ids]))
            .logits[0]
            .div(0.6)
            .log_softmax(-1)[-len(ids) - 1 : -1]
            for prompt, ids in zip(FIXED.prompt_index, FIXED.response_ids, strict=True)
        ]
        expected = torch.cat(
            [
                row.gather(1, torch.tensor(ids)[:, None]).squeeze(1)
                for row, ids in zip(rows, FIXED.response_ids, strict=True)
            ]
        )
        for path in ("auto", "padded"):
            actual = score_responses(model, FIXED, path=path, temperature=0.6).token_logps
            torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)
