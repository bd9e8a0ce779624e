"""Decoding in a cheaper number format: products, what is measured, and which path a model takes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from coalign.core.errors import ConfigError
from coalign.core.options import build
from coalign.models.backends import open as module
from coalign.models.backends.open import describe_generator, identity_of, open_transformers
from coalign.models.backends.options import BackendOptions
from coalign.models.files.file_pages import frugal, release_file_pages, unwritten_files
from coalign.models.generation import fused_decoder
from coalign.models.generation.fused_decoder import FusedDecoder
from coalign.models.generation.fused_model import FusedModel
from coalign.models.generation.fused_rows import FusedRows
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.incremental import Rows
from coalign.models.generation.one_row.lanes import blocks_of_lanes
from coalign.models.generation.packed_linear import BLOCK, FEW, BlockLinear, Rooms, can_quantize
from coalign.models.generation.precision import Exactness, measure_exactness
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from tests.data.tokenizers import byte_tokenizer
from tests.models.tiny import make_model

quantizes = pytest.mark.skipif(not can_quantize(), reason="no fast products with 4-bit weights here")
SIZES: dict[str, Any] = {
    "vocab_size": len(byte_tokenizer()), "hidden_size": 64, "intermediate_size": 96, "eos_token_id": 1, "bos_token_id": 0,
}  # fmt: skip
PROMPTS = ["the sky is blue", "a", "is it blue or is it green, the sea"]


def in_blocks(*shape: int, seed: int = 0) -> torch.Tensor:
    """Weights of 16 equidistant numbers a block, whose scales and offsets bfloat16 holds."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, 16, (shape[0], shape[1] // BLOCK, BLOCK), generator=draw).float()
    numbers[..., 0], numbers[..., 1] = 0, 15
    scale = 2.0 ** torch.randint(-6, -3, (*numbers.shape[:2], 1), generator=draw)
    return ((numbers - 8) * scale).flatten(1)


def model_in_blocks(**changes: Any) -> Any:
    model = make_model("llama", **{**SIZES, **changes})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.copy_(in_blocks(*parameter.shape, seed=len(name)))
    return model


@quantizes
@pytest.mark.parametrize("rows", [1, FEW, FEW + 1])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_that_are_blocks_are_multiplied_exactly(rows: int, bias: bool) -> None:
    weight = in_blocks(48, 64)
    x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    added = torch.arange(48.0) if bias else None
    linear = BlockLinear(weight, added)
    plain = x.double() @ weight.double().T + (0 if added is None else added.double())
    near: Any = {"rtol": 1e-2, "atol": 2e-2}
    torch.testing.assert_close(linear(x).double(), plain, **near)
    torch.testing.assert_close(linear.swish(x).double(), torch.nn.functional.silu(plain), **near)
    torch.testing.assert_close(linear.times(x, linear(x)).double(), plain**2, rtol=3e-2, atol=0.1)
    torch.testing.assert_close(linear.added_to(torch.ones(rows, 48), x).double(), plain + 1, **near)


def with_rooms() -> Rooms:
    rooms = Rooms()
    if not rooms.fit(48, 64):
        pytest.skip("no numba, or oneDNN lays weights out otherwise on this processor")
    return rooms


@quantizes
@pytest.mark.parametrize("rows", [1, 2, FEW - 1, FEW, FEW + 1, 20])
@pytest.mark.parametrize("bias", [True, False])
def test_blocks_made_wide_for_each_product_are_the_same_numbers(rows: int, bias: bool) -> None:
    """Two weights of one size share a place, and a third has another."""
    rooms = with_rooms()
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 64, generator=draw).bfloat16()
    added = torch.arange(48.0) if bias else None
    weights = [in_blocks(48, 64), in_blocks(48, 64, seed=1), torch.randn(80, 64, generator=draw)]
    linears = [BlockLinear(one, added if len(one) == 48 else None, rooms) for one in weights]
    near: Any = {"rtol": 1e-2, "atol": 2e-2}
    for weight, linear in zip(weights[:2], linears[:2], strict=True):
        plain = x.double() @ weight.double().T + (0 if added is None else added.double())
        torch.testing.assert_close(linear(x).double(), plain, **near)
        torch.testing.assert_close(linear.swish(x).double(), torch.nn.functional.silu(plain), **near)
        torch.testing.assert_close(linear.times(x, linear(x)).double(), plain**2, rtol=3e-2, atol=0.1)
        torch.testing.assert_close(linear.added_to(torch.ones(rows, 48), x).double(), plain + 1, **near)
    exact = numbers_of(linears[2], 80)
    torch.testing.assert_close(linears[2](x).double(), x.double() @ exact.T, rtol=1e-2, atol=5e-2)


def numbers_of(linear: BlockLinear, outputs: int) -> torch.Tensor:
    numbers, scale, low = blocks_of_lanes(linear.lanes() or (), outputs)
    return (numbers.double() * scale.double()[..., None] + low.double()[..., None]).flatten(1)


@quantizes
def test_what_a_block_becomes_in_bfloat16_is_rounded_once() -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(2))
    linear = BlockLinear(weight, None, with_rooms())
    exact = numbers_of(linear, 48)
    wide = linear(torch.eye(64).bfloat16()).double().T
    assert ((wide - exact).abs() <= exact.abs() * 2.0**-8 * 1.001).all()


@quantizes
def test_a_decoder_of_blocks_keeps_nothing_wide_where_few_threads_work() -> None:
    with_rooms()
    model, before = model_in_blocks(), torch.get_num_threads()
    prompt = torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.long)
    logits, held = {}, {}
    try:
        for threads in (1, fused_decoder.MOST_THREADS + 1):
            torch.set_num_threads(threads)
            decoder = FusedDecoder(model, torch.bfloat16, blocks=True)
            logits[threads] = FusedRows(decoder).start(*prompt)
            held[threads] = hasattr(decoder.layers[0].gate, "_kept")
    finally:
        torch.set_num_threads(before)
    few, many = logits.values()
    assert list(held.values()) == [False, True]
    torch.testing.assert_close(few, many, rtol=2e-2, atol=2e-2 * float(many.std()))


@torch.inference_mode()
def test_layers_made_for_every_pass_give_the_same() -> None:
    model = model_in_blocks()
    prompt = torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.long)
    kept, passing = (FusedRows(FusedDecoder(model, torch.float32, passing=one)) for one in (False, True))
    for _ in range(2):
        assert torch.equal(kept.start(*prompt), passing.start(*prompt))


@quantizes
def test_blocks_of_one_number_and_of_any_numbers() -> None:
    same = BlockLinear(torch.full((16, 32), 0.5), None)
    torch.testing.assert_close(same(torch.ones(1, 32).bfloat16()).float(), torch.full((1, 16), 16.0))
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(2))
    few, many = (BlockLinear(weight, None)(torch.eye(64).bfloat16()[:n]).float() for n in (FEW, 64))
    torch.testing.assert_close(few, many[:FEW], rtol=1e-2, atol=1e-2)
    step = (weight.amax() - weight.amin()) / 15
    assert (many.T - weight).abs().max() < step
    assert not BlockLinear.fits(torch.ones(16, 40))
    assert not BlockLinear.fits(torch.ones(8, 32))


@torch.inference_mode()
def test_logits_less_a_level_are_rounded_less() -> None:
    """Logits of 288 and little more, which bfloat16 cannot tell apart: its neighbour of 288 is 290."""
    model: Any = make_model("llama", **SIZES)
    size = SIZES["hidden_size"]
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight.fill_(1.0)
    model.model.norm.weight.fill_(1.0)
    model.lm_head.weight.fill_(288 / size)
    model.lm_head.weight[:, 0] += torch.arange(SIZES["vocab_size"]) % 64 / 32
    prompt = torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long)

    def logits(decoder: FusedDecoder) -> torch.Tensor:
        return FusedRows(decoder).start(*prompt)

    exact, half = FusedDecoder(model, torch.float32), FusedDecoder(model, torch.bfloat16)
    wanted = 288 + torch.arange(SIZES["vocab_size"]) % 64 / 32
    torch.testing.assert_close(logits(exact)[0], wanted, rtol=1e-4, atol=0)
    assert logits(half).unique().tolist() == [288.0, 290.0]
    half.centre(288.4)
    torch.testing.assert_close(logits(half)[0], wanted, rtol=0, atol=0.02)


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("int4", marks=quantizes)])
def test_what_a_precision_costs_is_measured_once_and_said(
    precision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    generator = TransformersGenerator(model_in_blocks(), byte_tokenizer(), precision=precision, compared=True)
    with caplog.at_level(logging.WARNING):
        generator.generate(PROMPTS, Sampling(8, temperature=0.0))
        generator.generate(PROMPTS, Sampling(8, n=2))
    (said,) = (one.message for one in caplog.records)
    found = generator.exactness
    assert found is not None
    assert said.startswith(found.describe(precision))
    assert generator.precision == precision
    assert 0 < found.kl < 0.05
    assert found.agreement > 0.8


@quantizes
def test_a_stream_is_measured_too(caplog: pytest.LogCaptureFixture) -> None:
    generator = TransformersGenerator(model_in_blocks(), byte_tokenizer(), precision="int4", compared=True)
    with caplog.at_level(logging.WARNING):
        list(generator.stream(PROMPTS, Sampling(4)))
        assert not caplog.records  # not in the middle of a text
        generator.settle()
        assert not caplog.records  # 12 tokens are few
        list(generator.stream(PROMPTS, Sampling(40, n=2)))
        generator.settle()
        generator.settle()
    assert len(caplog.records) == 1
    assert generator.exactness is not None


def test_the_measure_is_zero_for_the_model_itself_and_finds_another() -> None:
    model, other = (make_model("llama", seed=seed, dtype=torch.float64, **SIZES) for seed in (0, 1))
    answers = [([5, 6, 7], [8, 9]), ([4], [3] * 80), ([1] * 600, [2]), ([5], [])]
    for one, near in ((model, True), (other, False)):
        fused = FusedModel(one)
        found = measure_exactness(model, lambda fused=fused: cast(Rows, fused.open()), answers)
        assert found is not None
        assert found.places == 64
        assert (found.kl < 1e-9) == (found.agreement == 1.0) == near
    assert measure_exactness(model, pytest.fail, [([1] * 600, [2])]) is None
    assert "99.5%" in Exactness(0.001, 0.995, 64).describe("int4")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    model_in_blocks().save_pretrained(tmp_path / "llama")
    byte_tokenizer().save_pretrained(tmp_path / "llama")
    return str(tmp_path / "llama")


def opened(
    folder: str, monkeypatch: pytest.MonkeyPatch, fastest: torch.dtype, **how: Any
) -> TransformersGenerator:
    monkeypatch.setattr(module, "decoding_dtype", lambda _: fastest)
    return open_transformers(ModelOptions(model=folder, device="cpu"), **how)


def test_the_precision_is_the_fastest_of_the_device_or_as_asked(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, single = torch.bfloat16, torch.float32
    for fastest, asked, modules, expected, of_model in [
        (half, "auto", False, "bfloat16", single),  # the model stays in its file
        (half, "auto", True, "bfloat16", half),  # others compute with it too
        (half, "float32", False, "float32", single),
        (single, "auto", False, "float32", single),
        (single, "bfloat16", False, "bfloat16", single),
        (single, "bfloat16", True, "bfloat16", half),
    ]:
        generator = opened(folder, monkeypatch, fastest, precision=asked, modules=modules)
        assert (generator.precision, next(generator.model.parameters()).dtype) == (expected, of_model)
        assert describe_generator(generator, "m").endswith(f"{expected}, fused weights")


@quantizes
def test_int4_needs_a_model_built_like_llama(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = opened(folder, monkeypatch, torch.float32, precision="int4")
    assert describe_generator(generator, "m").endswith("int4, fused weights")
    make_model("gpt2", vocab_size=SIZES["vocab_size"]).save_pretrained(tmp_path / "other")  # type: ignore[operator]
    byte_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="int4 is not usable for GPT2LMHeadModel"):
        opened(str(tmp_path / "other"), monkeypatch, torch.float32, precision="int4")


def test_the_precision_is_part_of_what_answers(folder: str) -> None:
    named = {
        one: identity_of(ModelOptions(model=folder), build(BackendOptions, {"generation_precision": one}))
        for one in ("auto", "bfloat16", "int4")
    }
    assert len(set(named.values())) == 3
    with pytest.raises(ConfigError, match="generation_precision: has no effect with backend: endpoint"):
        build(BackendOptions, {"generation_precision": "int4", "endpoint": "http://x/v1"})


def test_pages_of_files_are_given_back_and_read_again(tmp_path: Path) -> None:
    save_file({"a": torch.arange(2.0**18), "b": torch.ones(2**18)}, tmp_path / "w.safetensors")
    whole = load_file(tmp_path / "w.safetensors")
    ranges = unwritten_files(whole.values())
    given_back = release_file_pages(whole.values(), ranges)
    assert given_back in (0, *range(2**20, 2**21 + 1))  # 0: not mapped here
    assert torch.equal(whole["a"], torch.arange(2.0**18))
    assert release_file_pages([torch.ones(2**18)], ranges) == 0
    whole["b"].mul_(3)  # a copy of this process from now on
    assert unwritten_files(whole.values()) == []
    release_file_pages(whole.values(), unwritten_files(whole.values()))
    assert torch.equal(whole["b"], torch.full((2**18,), 3.0))


def test_a_frugal_model_computes_the_same_and_gives_its_pages_back(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coalign.models.files import file_pages

    model: Any = opened(folder, monkeypatch, torch.float32).model
    ids = torch.arange(3, 9)[None]
    given: list[int] = []
    release = file_pages.release_file_pages
    monkeypatch.setattr(
        file_pages, "release_file_pages", lambda *how: given.append(release(*how)) or given[-1]
    )
    with torch.inference_mode():
        plain = model(input_ids=ids).logits
        assert not given
        with frugal(model):
            assert torch.equal(model(input_ids=ids).logits, plain)
        assert bool(given) == bool(unwritten_files(model.parameters()))
        count = len(given)
        model(input_ids=ids)
        assert len(given) == count
