"""Every kind of adapter on the engines: scoring, sampling, reference, saving and merging are those of the plain padded model."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel

from coalign.core.errors import ConfigError, ModelError
from coalign.core.options import build
from coalign.models.adapters import (
    START,
    add_adapter,
    disabled_adapter,
    has_start,
    merge,
    quicken_b,
    save_adapter,
    trainable_summary,
)
from coalign.models.backends.vllm_model import assert_takes_adapter, takes_adapter
from coalign.models.files.places import locate
from coalign.models.merged import MergedView, can_merge
from coalign.models.options import (
    LORA_KINDS,
    REFUSED_KINDS,
    TAKES_OUT,
    AdapterInit,
    AdapterKind,
    ModelOptions,
)
from coalign.models.scoring.engine import score_responses
from coalign.models.types import Responses
from coalign.training.module_trainer import training_arguments
from coalign.training.objective import NoConstants
from coalign.training.options import TrainingOptions
from coalign.training.reference import with_reference
from coalign.training.trainer import AlignmentTrainer
from tests.models.test_scoring import assert_close_gradients, gradients
from tests.models.tiny import float64_norms, make_model
from tests.training.helpers import PAIRS, make_examples

TEXTS = Responses([[5, 6, 7, 8], [9, 10]], [[20, 21, 22], [30, 31], [23]], [0, 0, 1])
IDS = torch.tensor([[5, 9, 22, 41, 7]])
KINDS = [(kind, "zero") for kind in get_args(AdapterKind)]
INITS = [("lora", init) for init in get_args(AdapterInit) if init != "zero"]
ALL = [*KINDS, *INITS, ("rslora", "pissa")]


def fresh(kind: str, init: str = "zero", model: Any = None) -> Any:
    rank = {} if kind == "ia3" else {"adapter_rank": 4}
    options = ModelOptions(adapter_kind=kind, adapter_init=init, **rank)  # type: ignore[arg-type]
    torch.manual_seed(0)
    return add_adapter(model or make_model("qwen2", scale=1.0), options).eval()  # type: ignore[arg-type]


def moved(model: Any) -> Any:
    """As if it had been trained: everything that is trained is elsewhere."""
    torch.manual_seed(1)
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.add_(0.1 * torch.randn_like(one))
    return model


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


@pytest.mark.parametrize(("kind", "init"), ALL)
def test_it_begins_as_its_base_and_its_base_is_the_reference(kind: str, init: str) -> None:
    plain = logits(make_model("qwen2", scale=1.0))
    model = fresh(kind, init)
    torch.testing.assert_close(logits(model), plain, atol=2e-6, rtol=1e-5)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert not any(f".{START}." in name for name in trained)
    policy = logits(moved(model))
    assert (policy - plain).abs().max() > 1e-3
    with disabled_adapter(model):
        torch.testing.assert_close(logits(model), plain, atol=2e-6, rtol=1e-5)
    assert torch.equal(logits(model), policy)
    assert {name for name, one in model.named_parameters() if one.requires_grad} == trained
    assert (
        " of kind " in trainable_summary(model)
        if kind in ("ia3", "oft")
        else "rank 4" in trainable_summary(model)
    )


@pytest.mark.parametrize(("kind", "init"), ALL)
def test_merged_saved_and_read_again_it_says_the_same(kind: str, init: str, tmp_path: Path) -> None:
    base = make_model("qwen2", scale=1.0)
    model = moved(fresh(kind, init, copy.deepcopy(base)))
    expected = logits(model)
    close: Any = {"atol": 1e-5, "rtol": 1e-5}
    assert can_merge(model)
    bias = model.get_base_model().model.layers[0].self_attn.v_proj.base_layer.bias
    plain: Any
    with MergedView(model).merged() as plain:
        torch.testing.assert_close(logits(plain), expected, **close)
        assert (plain.model.layers[0].self_attn.v_proj.bias is bias) == (kind != "ia3")
    assert torch.equal(logits(model), expected)
    save_adapter(model, tmp_path / "adapter")
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "adapter")).eval()  # type: ignore[arg-type]
    torch.testing.assert_close(logits(again), expected, **close)
    torch.testing.assert_close(logits(merge(again)), expected, **close)
    torch.testing.assert_close(logits(merge(model)), expected, **close)
    rank = json.loads((tmp_path / "adapter/adapter_config.json").read_text()).get("r")
    assert rank == {"ia3": None, "oft": 0}.get(kind, 8 if init in TAKES_OUT else 4)


@pytest.mark.parametrize(("kind", "init"), [*KINDS, ("lora", "pissa")])
def test_gradients_of_packed_rows_are_those_of_padded_ones(kind: str, init: str) -> None:
    with float64_norms():
        model = moved(fresh(kind, init)).double()
        found, packed = gradients(model, TEXTS, "packed")
        expected, padded = gradients(model, TEXTS, "padded")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert all(bool(one.any()) for name, one in padded.items() if "layers.0.self_attn.v_proj" in name)
    assert_close_gradients(packed, padded, 1e-9, 1e-4)


def test_references_are_kept_for_every_kind_alike(tmp_path: Path) -> None:
    """What an adapter does is no part of its reference, whatever its kind; what was taken out of weights is."""
    examples, found = make_examples(2), []
    for kind in ("lora", "ia3", "vera", "hra"):
        model = moved(fresh(kind))
        with disabled_adapter(model):
            found.append(with_reference(examples, model, folder=tmp_path)[0].reference)
        assert len(list(tmp_path.iterdir())) == 1
    model = moved(fresh("lora", "pissa"))
    with disabled_adapter(model):
        other = with_reference(examples, model, folder=tmp_path)[0].reference
    assert len(list(tmp_path.iterdir())) == 2
    assert other is not None
    for one, two in zip(other, found[0], strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "init", "more"),
    [("lora", "pissa_niter_16", {"loraplus_lr_ratio": 4.0}), ("lokr", "zero", {})],
)
def test_a_training_goes_on_bit_for_bit(kind: str, init: str, more: dict[str, Any], tmp_path: Path) -> None:
    options = TrainingOptions(learning_rate=1e-2, max_steps=4, save_steps=2, batch_size=2, **more)

    def trained(checkpoint: Path | None = None) -> torch.Tensor:
        model = fresh(kind, init)
        settings = training_arguments(options, tmp_path / "run", model)
        trainer = AlignmentTrainer(model, PAIRS, NoConstants(), make_examples(8), settings)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return torch.cat([one.detach().flatten() for one in model.parameters()])

    whole = trained()
    checkpoint = tmp_path / "run/checkpoint-2"
    assert not (checkpoint / START).exists()
    assert torch.equal(trained(checkpoint), whole)


def test_loraplus_moves_b_by_its_ratio(tmp_path: Path) -> None:
    def step(ratio: float | None) -> dict[str, torch.Tensor]:
        model = fresh("dora", "orthogonal")
        before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
        options = TrainingOptions(
            optimizer="sgd", learning_rate=0.1, max_steps=1, save_steps=0, loraplus_lr_ratio=ratio, weight_decay=0.5
        )  # fmt: skip
        settings = training_arguments(options, tmp_path, model)
        trainer = AlignmentTrainer(model, PAIRS, NoConstants(), make_examples(4), settings)
        trainer.train()
        return {name: one.detach() - before[name] for name, one in model.named_parameters() if name in before}

    usual, quick = step(None), step(8.0)
    for name, change in usual.items():
        factor = 8.0 if ".lora_B." in name else 1.0
        assert bool(change.any())
        torch.testing.assert_close(quick[name], factor * change, atol=1e-7, rtol=1e-4)


def test_loraplus_without_a_b_is_refused() -> None:
    model = fresh("ia3")
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1.0)
    with pytest.raises(ConfigError, match="loraplus_lr_ratio has no effect"):
        quicken_b(optimizer, model, 2.0)
    for changes in ({"adapter_kind": "hra"}, {"tuning": "full"}):
        with pytest.raises(ValueError, match="loraplus_lr_ratio has no effect with"):
            _Both(loraplus_lr_ratio=2.0, **changes)  # type: ignore[arg-type]


@dataclass(kw_only=True)
class _Both(ModelOptions, TrainingOptions):
    pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(({"adapter_kind": kind}, why) for kind, why in REFUSED_KINDS.items()),
        ({"adapter_kind": "Prefix_Tuning"}, "virtual tokens"),
        ({"adapter_kind": "lorax"}, "'lorax' is not usable, expected"),
        ({"adapter_kind": "ia3", "adapter_rank": 4}, "adapter_rank has no effect with adapter_kind: ia3"),
        ({"adapter_kind": "vera", "adapter_alpha": 4.0}, "adapter_alpha has no effect with adapter_kind: vera"),
        ({"adapter_kind": "loha", "adapter_dropout": 0.1}, "adapter_dropout has no effect with adapter_kind: loha"),
        ({"adapter_kind": "hra", "adapter_init": "pissa"}, "adapter_init has no effect with adapter_kind: hra"),
        ({"adapter_kind": "dora", "adapter_init": "olora"}, "adapter_init: olora is of lora and rslora"),
        ({"adapter_init": "pissa", "quantization": "4bit"}, "takes a part out of weights"),
        ({"adapter_kind": "hra", "adapter_rank": 3}, "adapter_rank: 3 is odd"),
        ({"adapter_init": "orthogonal", "adapter_rank": 3}, "adapter_rank: 3 is odd"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_reason(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build(ModelOptions, values)
    assert message in str(refused.value)


def test_layers_that_a_kind_cannot_adapt_are_an_error_in_one_line() -> None:
    for kind in ("loha", "hra"):
        with pytest.raises(ConfigError, match=rf"adapter_kind: {kind}: .*Conv1D"):
            add_adapter(make_model("gpt2"), ModelOptions(adapter_kind=kind))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="olora reads weights as they lie"):
        add_adapter(make_model("gpt2"), ModelOptions(adapter_init="olora"))  # type: ignore[arg-type]
    assert all(kind in get_args(AdapterKind) for kind in LORA_KINDS)


@pytest.mark.parametrize(("kind", "init"), ALL)
def test_vllm_is_given_adapters_of_lora_alone(kind: str, init: str, tmp_path: Path) -> None:
    model = fresh(kind, init)
    taken = kind in ("lora", "rslora")
    assert takes_adapter(vars(model.peft_config["default"])) == taken
    assert has_start(model) == (init in TAKES_OUT)
    save_adapter(model, tmp_path)
    place = locate(str(tmp_path))
    if taken:
        assert_takes_adapter(place)  # also one that gave a part away: it was saved as an ordinary one
        return
    with pytest.raises(ModelError, match=rf"vLLM has no adapters of {kind.upper()}"):
        assert_takes_adapter(place)


def test_logps_of_all_paths_agree_for_every_kind() -> None:
    for kind, init in ALL:
        model = moved(fresh(kind, init))
        with torch.no_grad():
            packed, padded = (
                score_responses(model, TEXTS, path=path).token_logps for path in ("packed", "padded")
            )  # type: ignore[arg-type]
        torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
