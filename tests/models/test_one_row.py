"""Kernels for the next token of one text against PyTorch's operations: products, layers, and when they are used."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coalign.models.files.file_pages import gather_pages
from coalign.models.generation.fused_cache import RESERVE
from coalign.models.generation.fused_decoder import FusedDecoder
from coalign.models.generation.fused_rows import FusedRows
from coalign.models.generation.one_row import available, step
from coalign.models.generation.one_row.lanes import blocks_in_lanes, blocks_of_lanes
from coalign.models.generation.packed_linear import BLOCK, BlockLinear, PackedLinear, can_pack, can_quantize
from tests.models.tiny import make_model

pytest.importorskip("numba")
kernels: Any = pytest.importorskip("coalign.models.generation.one_row.kernels")

FORMATS = [
    "float32",
    pytest.param("bfloat16", marks=pytest.mark.skipif(not can_pack(torch.bfloat16), reason="no bfloat16")),
]
IN_LANES = PackedLinear(torch.ones(3, 5), None, torch.float32).lanes() is not None
in_lanes = pytest.mark.skipif(not IN_LANES, reason="oneDNN lays weights out otherwise on this processor")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@in_lanes
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 32), (100, 36), (3, 130), (130, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_of_packed_weights(name: str, outputs: int, inputs: int, bias: bool) -> None:
    dtype = getattr(torch, name)
    weight, added = normal(outputs, inputs).to(dtype), normal(outputs if bias else 0, seed=1)
    packed = PackedLinear(weight, None, dtype)
    x = normal(inputs, seed=2)
    found = kernels._linear((packed.lanes(), added.numpy(), outputs), x.numpy())
    plain = weight.double() @ x.double() + (added.double() if bias else 0)
    np.testing.assert_allclose(found, plain.numpy(), rtol=1e-5, atol=1e-5)


@in_lanes
def test_odd_inputs_of_half_precision_are_left_to_others() -> None:
    if can_pack(torch.bfloat16):
        assert PackedLinear(normal(8, 5), None, torch.bfloat16).lanes() is None


@pytest.mark.skipif(not can_quantize(), reason="no fast products with 4-bit weights here")
@pytest.mark.parametrize("outputs", [16, 64, 144])
def test_products_of_blocks_are_exact(outputs: int) -> None:
    """Scales and offsets that bfloat16 would round."""
    numbers = torch.randint(0, 16, (outputs, 3, BLOCK), generator=torch.Generator().manual_seed(0)).float()
    numbers[..., 0], numbers[..., 1] = 0, 15
    scale, low = normal(outputs, 3, 1).abs() + 0.1, normal(outputs, 3, 1, seed=1)
    weight, x = (numbers * scale + low).flatten(1), normal(96, seed=2)
    found = kernels._linear((BlockLinear(weight, None).lanes(), np.empty(0, np.float32), outputs), x.numpy())
    np.testing.assert_allclose(found, (weight.double() @ x.double()).numpy(), rtol=1e-4, atol=1e-4)


def test_blocks_come_back_from_lanes() -> None:
    numbers = torch.randint(0, 16, (80, 3, BLOCK), generator=torch.Generator().manual_seed(0)).float()
    scale, low = normal(80, 3), normal(80, 3, seed=1)
    for one, again in zip(
        (numbers.byte(), scale, low), blocks_of_lanes(blocks_in_lanes(numbers, scale, low), 80), strict=True
    ):
        assert torch.equal(one, again)


def model_of(architecture: str) -> nn.Module:
    more: dict[str, Any] = {"attention_bias": True, "mlp_bias": True} if architecture == "llama" else {}
    model = make_model(architecture, hidden_size=64, intermediate_size=96, **more)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(
                    torch.rand(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                )
    return model


def history(rows: FusedRows, *, alone: bool) -> torch.Tensor:
    """A short text that stays when the longer one beside it leaves, so that it is padded, and grows past what was reserved."""
    if not alone:
        rows.is_alone = lambda: False
    ids = torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    rows.start(ids * mask, mask)
    rows.step(torch.tensor([5, 6]))
    rows.select(torch.tensor([1]))
    found = [rows.step(torch.tensor([3 + number % 30])) for number in range(RESERVE + 3)]
    return torch.cat(found)


@in_lanes
@pytest.mark.parametrize("architecture", ["llama", "llama_tied", "qwen2", "qwen3"])
@torch.inference_mode()
def test_logits_are_those_of_the_operations(architecture: str) -> None:
    decoder = FusedDecoder(model_of(architecture), torch.float32)
    assert step.one_row(decoder) is not None
    found = history(FusedRows(decoder), alone=True)
    torch.testing.assert_close(found, history(FusedRows(decoder), alone=False), rtol=1e-4, atol=1e-4)


@in_lanes
@pytest.mark.parametrize(
    "blocks", [False, pytest.param(True, marks=pytest.mark.skipif(not can_quantize(), reason="no 4 bits"))]
)
@torch.inference_mode()
def test_cheaper_formats_are_nearer_to_their_weights(blocks: bool) -> None:
    """What is multiplied stays float32, so that only weights are rounded."""
    if not can_pack(torch.bfloat16):
        pytest.skip("no bfloat16")
    model = model_of("llama")
    wanted = history(FusedRows(FusedDecoder(model, torch.float32)), alone=False)
    decoder = FusedDecoder(model, torch.bfloat16, blocks=blocks)
    assert step.one_row(decoder) is not None
    decoder.centre(30.0)
    near, far = ((history(FusedRows(decoder), alone=one) - wanted).abs().mean() for one in (True, False))
    assert near < (1.1 * far if blocks else far)
    assert near < 0.1 * wanted.std()


@torch.inference_mode()
def test_one_text_on_few_threads_alone_goes_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = FusedDecoder(model_of("llama"), torch.float32)
    rows = FusedRows(decoder)
    rows.start(torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long))
    assert not rows.is_alone()
    rows.select(torch.tensor([0, 0]))
    rows.select(torch.tensor([0]))
    assert not rows.is_alone(), "its beginning was shared"
    rows.start(torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long))
    assert rows.is_alone()
    torch.set_num_threads(available.MOST_THREADS + 1)
    assert not rows.is_alone()
    assert (step.one_row(decoder) is not None) == IN_LANES
    held = weakref.ref(decoder)
    del decoder, rows
    gc.collect()
    assert held() is None, "what is remembered of weights goes with them"
    monkeypatch.setattr(available, "is_installed", lambda _: False)
    assert step.one_row(FusedDecoder(model_of("llama"), torch.float32)) is None
    assert step.one_row(FusedDecoder(model_of("llama").double(), torch.float64)) is None


def test_gathered_pages_keep_what_they_hold() -> None:
    one = torch.arange(3 << 20)
    gather_pages([(one.data_ptr(), one.data_ptr() + one.nbytes), (one.data_ptr(), one.data_ptr() + 1)])
    assert torch.equal(one, torch.arange(3 << 20))


def test_waiting_for_the_compiler_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernel = SimpleNamespace(
        stats=SimpleNamespace(cache_path=str(tmp_path)), py_func=kernels.advance.py_func, __name__="advance"
    )
    step._tell_of_compiling(kernel)
    assert f"kept in {tmp_path}" in caplog.text
    caplog.clear()
    kernels._float_product(
        np.zeros((1, 1, 1, kernels.LANES), np.float32),
        np.zeros(1, np.float32),
        np.zeros(kernels.LANES, np.float32),
    )
    step._tell_of_compiling(kernels._float_product)  # by the name that numba gives its file
    assert not caplog.text
