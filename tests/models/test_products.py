"""Products through oneDNN: which layers go that way, and that numbers and gradients are those of the plain path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.utils.checkpoint import checkpoint

from coalign.models.devices import products_of
from coalign.models.scoring import products
from coalign.models.scoring.engine import score_responses
from coalign.models.types import Responses
from coalign.training.objective import NoConstants
from coalign.training.trainer import AlignmentTrainer
from tests.models.tiny import make_model
from tests.training.helpers import PAIRS, PAIRS_FREE, arguments, make_examples

needs_onednn = pytest.mark.skipif(
    not products._right(), reason="this PyTorch has no oneDNN product for dense float32"
)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """oneDNN whatever the processor is; the shapes of the inputs that went through it."""
    shapes: list[tuple[int, ...]] = []
    plain = products._onednn

    def counted(inputs: Any, weight: Any, bias: Any = None) -> Any:
        shapes.append(tuple(inputs.shape))
        return plain(inputs, weight, bias)

    monkeypatch.setattr(products, "available", lambda: True)
    monkeypatch.setattr(products, "LEAST_OPERATIONS", 1)
    monkeypatch.setattr(products, "_onednn", counted)
    return shapes


def gradients(layer: torch.nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    inputs = inputs.detach().requires_grad_()
    output = layer(inputs)
    trained = [one for one in layer.parameters() if one.requires_grad]
    return [
        output,
        *torch.autograd.grad(output.square().sum(), [inputs, *trained]),
    ]


@needs_onednn
@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=2),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    bias=st.booleans(),
    trained=st.booleans(),
    transposed=st.booleans(),
)
def test_outputs_and_gradients_are_those_in_float64(
    shape: list[int], sizes: tuple[int, int], bias: bool, trained: bool, transposed: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "available", lambda: True)
        patch.setattr(products, "LEAST_OPERATIONS", 1)
        torch.manual_seed(0)
        layer = torch.nn.Linear(*sizes, bias=bias).requires_grad_(trained)
        inputs = torch.randn(*shape, 16, sizes[0])
        if transposed:
            inputs = torch.randn(*shape, sizes[0], 16).transpose(-1, -2)
        expected = gradients(layer.double(), inputs.double())
        with products.fast_products():
            actual = gradients(layer.float(), inputs)
    for one, other in zip(actual, expected, strict=True):
        scale = float(other.detach().abs().max()) + 1e-6
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * scale)


@needs_onednn
def test_only_plain_float32_of_some_size_goes_that_way(used: list[tuple[int, ...]]) -> None:
    layer, rows = torch.nn.Linear(32, 8), torch.randn(products.LEAST_ROWS, 32)
    layer(rows)
    assert not used  # outside of the block
    with products.fast_products():
        layer(rows[1:])  # too few rows
        layer.double()(rows.double())
        layer.bfloat16()(rows.bfloat16())
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(rows).dtype == torch.bfloat16
        F.linear(rows[:, 0], rows.T)  # a vector
        F.linear(
            rows, torch.randn(8, 64)[:, :32]
        )  # a slice, which oneDNN is slow at (VeRA's shared matrices)
        assert not used
        with products.fast_products():  # a block within a block is the same block
            layer(rows)
        layer(rows)
    assert used == [(16, 32)] * 2
    layer(rows)
    assert len(used) == 2


@needs_onednn
def test_small_products_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "available", lambda: True)
    assert not products._suits(torch.ones(64, 64), torch.ones(64, 64))
    assert products._suits(torch.ones(64, 128), torch.ones(128, 128))


@needs_onednn
def test_checkpointed_layers_are_recomputed_in_the_same_way(used: list[tuple[int, ...]]) -> None:
    layer, rows = torch.nn.Linear(32, 32), torch.randn(64, 32)
    with products.fast_products():
        output: Any = checkpoint(lambda one: layer(one).tanh(), rows, use_reentrant=False)
        assert len(used) == 1
        output.sum().backward(retain_graph=True)
        assert len(used) == 3  # again forward, and the weight's gradient: rows need none
        first = layer.weight.grad.clone()  # type: ignore[union-attr]
        output.backward(gradient=torch.ones_like(output), inputs=[layer.weight])
    torch.testing.assert_close(layer.weight.grad, 2 * first)


@needs_onednn
def test_arguments_may_be_named(used: list[tuple[int, ...]]) -> None:
    """peft's Householder and bone layers call it so."""
    rows, weight = torch.randn(32, 256), torch.randn(256, 256)
    with products.fast_products():
        found = F.linear(input=rows, weight=weight, bias=None)
    assert used
    torch.testing.assert_close(found, rows @ weight.T, atol=1e-3, rtol=1e-4)


def test_a_frozen_layer_keeps_no_input(used: list[tuple[int, ...]]) -> None:
    layer = torch.nn.Linear(32, 32).requires_grad_(False)
    kept: list[torch.Tensor] = []
    with products.fast_products(), torch.autograd.graph.saved_tensors_hooks(kept.append, lambda one: one):
        layer(torch.randn(64, 32).requires_grad_())
    assert [one is layer.weight or one.data_ptr() == layer.weight.data_ptr() for one in kept] == [True]


def test_the_rule_is_amd_with_avx512_unless_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = products.available.__wrapped__
    monkeypatch.delenv(products.SWITCH, raising=False)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(products, "_right", lambda: True)
    monkeypatch.setattr(products, "_vendor", lambda: "AuthenticAMD")
    assert rule()
    monkeypatch.setattr(products, "_vendor", lambda: "GenuineIntel")
    assert not rule()
    monkeypatch.setattr(products, "_vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not rule()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setenv(products.SWITCH, "0")
    assert not rule()


def test_the_plan_says_who_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(products, "available", lambda: True)
    assert products_of(model) == ", products by oneDNN"
    assert products_of(model.double()) == ""
    monkeypatch.setattr(products, "available", lambda: False)
    assert products_of(model.float()) == ""


@needs_onednn
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "adapter"])
def test_a_training_learns_the_same(
    used: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    adapter: bool,
    checkpointing: bool,
) -> None:
    """Losses and weights after some steps, with the live reference of an adapter; forward and backward go through oneDNN."""

    def trained(name: str) -> tuple[list[float], dict[str, torch.Tensor]]:
        model: Any = make_model("llama", scale=1.0)
        if adapter:
            config = LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False)
            torch.manual_seed(0)
            model = get_peft_model(model, config)
        if checkpointing:
            model.enable_input_require_grads()
        chosen = arguments(
            tmp_path / name,
            max_steps=3,
            learning_rate=1e-4,
            gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
        trainer = AlignmentTrainer(
            model, PAIRS if adapter else PAIRS_FREE, NoConstants(), make_examples(8), chosen
        )
        rows = trainer.complete(None)
        return [row["loss"] for row in rows if "loss" in row], model.state_dict()

    losses, weights = trained("fast")
    assert len(used) > 3 * 14 * 2  # more than the forward passes of three steps
    assert F.linear is products._PLAIN
    count = len(used)
    monkeypatch.setattr(products, "available", lambda: False)
    plain, expected = trained("plain")
    assert len(used) == count
    assert losses == pytest.approx(plain, abs=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=2e-4)


@needs_onednn
def test_scoring_goes_that_way_and_gives_the_same(used: list[tuple[int, ...]]) -> None:
    model = make_model("llama")
    draw = torch.Generator().manual_seed(0)
    prompt, *answers = (torch.randint(3, 97, (20,), generator=draw).tolist() for _ in range(3))
    responses = Responses([prompt], answers, [0, 0])
    with torch.no_grad():
        actual = score_responses(model, responses, path="packed").token_logps
        assert used
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "available", lambda: False)
            plain = score_responses(model, responses, path="packed").token_logps
    torch.testing.assert_close(actual, plain, rtol=1e-4, atol=1e-4)
