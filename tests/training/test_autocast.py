"""float32 weights with bfloat16 products, as on CUDA: here on a CPU, whose autocast follows the same rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from coalign.models import devices
from coalign.models.devices import autocast_format, autocast_of, products_of
from coalign.models.scoring import products
from coalign.models.scoring.engine import resolve_path
from coalign.models.scoring.token_head import token_logps_from_hidden
from coalign.training.module_trainer import training_arguments
from coalign.training.options import TrainingOptions
from coalign.training.reference import with_reference
from tests.models.tiny import make_model
from tests.training.helpers import PAIRS, adapted, logged, make_examples, train

BFLOAT16 = {"bf16": True, "learning_rate": 1e-3}


def halved(model: nn.Module) -> nn.Module:
    cast(Any, model).autocast_dtype = torch.bfloat16
    return model


@pytest.mark.parametrize("path", ["full", "adapter"])
def test_training_starts_where_the_reference_is(path: str, tmp_path: Path) -> None:
    """The reference is computed as the policy is: with products of another format no margin would be 0."""
    model = halved(make_model("llama", scale=1.0) if path == "full" else adapted())
    examples = with_reference(make_examples(32), model, folder=tmp_path)
    trainer = train(model, PAIRS, tmp_path / "out", examples, **BFLOAT16)
    first = logged(trainer)[0]
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-4)
    assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-3)
    trained = [one for one in model.parameters() if one.requires_grad]
    assert {one.dtype for one in trained} == {torch.float32}


def test_losses_are_those_of_float32_but_for_rounding(tmp_path: Path) -> None:
    found = []
    for name, model in (
        ("whole", make_model("llama", scale=1.0)),
        ("half", halved(make_model("llama", scale=1.0))),
    ):
        examples = with_reference(make_examples(32), model, folder=tmp_path / name)
        given = {**BFLOAT16, "bf16": name == "half"}
        found.append([row["loss"] for row in logged(train(model, PAIRS, tmp_path / name, examples, **given))])
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.02)


@pytest.mark.parametrize("trainable", [False, True], ids=["frozen-head", "trained-head"])
@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16])
def test_the_output_layer_has_the_gradients_of_float32(trainable: bool, hidden_dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(7, 16, generator=draw).to(hidden_dtype)
    layer = torch.randn(50, 16, generator=draw)
    targets, rows = torch.randint(0, 50, (9,), generator=draw), torch.randint(0, 7, (9,), generator=draw)
    found = []
    for half in (False, True):
        hidden = (states if half else states.float()).clone().requires_grad_()
        weight = layer.clone().requires_grad_(trainable)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logps = token_logps_from_hidden(hidden, weight, None, targets, rows)
        logps.square().sum().backward()
        assert logps.dtype == torch.float32
        assert hidden.grad is not None
        found.append(
            [logps.detach(), hidden.grad.float()] + ([weight.grad] if weight.grad is not None else [])
        )
    for exact, rounded in zip(*found, strict=True):
        assert (rounded - exact).norm() <= 0.02 * exact.norm()


def test_a_model_of_bfloat16_products_still_shares_its_prompts() -> None:
    model = halved(make_model("llama", scale=1.0))
    with autocast_of(model):
        assert resolve_path(model, "auto") == "packed"


def test_a_cache_belongs_to_one_format_of_products(tmp_path: Path) -> None:
    model, examples = make_model("llama"), make_examples(6)
    with_reference(examples, model, folder=tmp_path)
    with_reference(examples, halved(model), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_where_products_are_bfloat16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert autocast_format(torch.device("cpu")) is None
    monkeypatch.setattr(devices.torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    cuda = torch.device("cuda")
    assert autocast_format(cuda) == torch.bfloat16
    assert autocast_format(cuda, "float32") is None
    monkeypatch.setattr(products, "available", lambda: False)
    model = make_model("llama")
    assert (products_of(model), products_of(halved(make_model("llama")))) == ("", ", products in bfloat16")
    assert not training_arguments(TrainingOptions(), tmp_path, model).bf16
    assert training_arguments(TrainingOptions(), tmp_path, halved(model)).bf16
