"""Weights in few bits under an adapter: what is computed stays near, what is saved is an ordinary adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import ConfigError, MissingExtraError
from coalign.core.extras import is_installed
from coalign.models.adapters import choose_tuning
from coalign.models.files import quantized
from coalign.models.files.classifiers import new_classifier
from coalign.models.files.identity import model_identity
from coalign.models.files.loading import load_for_training, load_model
from coalign.models.files.quantized import is_quantized, quantization_arguments
from coalign.models.merged import can_merge
from coalign.models.modules import evaluation
from coalign.models.options import ModelOptions
from coalign.models.scoring.engine import resolve_path, score_responses
from coalign.models.types import Responses
from coalign.training.module_trainer import optimizer_name, training_arguments
from coalign.training.options import TrainingOptions
from tests.models.tiny import make_model

needs_bitsandbytes = pytest.mark.skipif(
    not is_installed("bitsandbytes"), reason="bitsandbytes is not installed"
)
TEXTS = Responses([[5, 6, 7, 8]], [[20, 21, 22], [30, 31]], [0, 0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("quantized") / "model"
    model: Any = make_model("llama", scale=1.0, hidden_size=128, intermediate_size=256)
    model.save_pretrained(place)
    return place


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_scores_are_near_and_prompts_are_shared(bits: Any, folder: Path) -> None:
    whole: Any = load_model(ModelOptions(model=str(folder)), training=False)
    small: Any = load_model(ModelOptions(model=str(folder), quantization=bits), training=False)
    assert is_quantized(small)
    assert not is_quantized(whole)
    assert small.get_memory_footprint() < whole.get_memory_footprint()
    assert resolve_path(small, "auto") == "packed"
    found = [score_responses(one, TEXTS).token_logps for one in (whole, small)]
    assert found[0].tolist() != found[1].tolist()
    torch.testing.assert_close(found[1], found[0], atol=0.5, rtol=0.1)


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_is_trained_over_it(kind: Any, folder: Path, tmp_path: Path) -> None:
    options = ModelOptions(model=str(folder), quantization="4bit", adapter_rank=2, adapter_kind=kind)
    model: Any = load_for_training(options)
    plain = load_model(ModelOptions(model=str(folder), quantization="4bit"), training=False)
    expected, found = (score_responses(one, TEXTS).token_logps for one in (plain, model))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with evaluation(model), torch.no_grad():  # after which bitsandbytes passes no gradient on, on some CPUs
        score_responses(model, TEXTS)
    trained = [one for one in model.parameters() if one.requires_grad]
    assert {one.dtype for one in trained} == {torch.float32}
    assert not can_merge(model)
    score_responses(model, TEXTS).token_logps.sum().backward()
    first = [one for name, one in model.named_parameters() if "layers.0." in name and "lora_B" in name]
    assert all(one.grad is not None and bool(one.grad.abs().sum()) for one in first)
    model.save_pretrained(tmp_path / "adapter")
    again = load_model(ModelOptions(model=str(tmp_path / "adapter")), training=False)
    assert score_responses(again, TEXTS).token_logps.shape == (5,)


def test_what_it_does_not_go_with(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="leaves nothing to train with tuning: full"):
        ModelOptions(quantization="4bit", tuning="full")
    assert choose_tuning(ModelOptions(quantization="4bit"), 10, torch.device("cuda")) == "lora"
    with pytest.raises(ConfigError, match="trunk of a reward model is not quantised"):
        new_classifier(ModelOptions(model=str(folder), quantization="8bit"))
    load_for_training(ModelOptions(model=str(folder), adapter_rank=2)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="is an adapter, which is merged"):
        load_model(ModelOptions(model=str(tmp_path / "adapter"), quantization="4bit"), training=True)
    assert quantization_arguments(ModelOptions(), torch.device("cpu"), torch.float32) == {}

    def missing(module: str, extra: str) -> None:
        raise MissingExtraError(f"{module} {extra}")

    monkeypatch.setattr(quantized, "require", missing)
    with pytest.raises(MissingExtraError, match="bitsandbytes quantization"):
        load_model(ModelOptions(model=str(folder), quantization="4bit"), training=False)


def test_answers_belong_to_the_bits(folder: Path) -> None:
    found = {
        model_identity(ModelOptions(model=str(folder), quantization=one)) for one in ("none", "4bit", "8bit")
    }
    assert len(found) == 3


@pytest.mark.parametrize(("kind", "trained"), [("lora", 0), ("rslora", 0), ("dora", 1)])
def test_kinds_of_adapters(kind: Any, trained: int, folder: Path) -> None:
    model: Any = load_for_training(ModelOptions(model=str(folder), adapter_kind=kind, adapter_rank=4))
    plain = load_model(ModelOptions(model=str(folder)), training=False)
    expected = score_responses(plain, TEXTS).token_logps
    torch.testing.assert_close(score_responses(model, TEXTS).token_logps, expected, atol=1e-5, rtol=1e-5)
    layer = next(one for one in model.modules() if hasattr(one, "lora_A"))
    assert layer.scaling["default"] == (16.0 if kind == "rslora" else 8.0)
    assert bool(layer.lora_magnitude_vector) == bool(trained)
    assert can_merge(model) == (kind != "dora")


def test_optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    names = [
        str(training_arguments(TrainingOptions(optimizer=one), tmp_path, model).optim)
        for one in ("adamw", "adafactor", "sgd")
    ]
    assert [one.rpartition(".")[2].lower() for one in names] == ["adamw_torch_fused", "adafactor", "sgd"]
    monkeypatch.setattr("coalign.training.module_trainer.require", lambda module, extra: None)
    assert optimizer_name("adamw_8bit") == "adamw_bnb_8bit"
    assert optimizer_name("paged_adamw_8bit") == "paged_adamw_8bit"
