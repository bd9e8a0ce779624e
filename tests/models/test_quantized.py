"""Weights in few bits under an adapter: what is computed stays near, what is saved is an ordinary adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from transformers.training_args import OptimizerNames

from coalign.core.errors import ConfigError, MissingExtraError, ModelError
from coalign.core.extras import is_installed
from coalign.core.options import build
from coalign.models.adapters import add_adapter, choose_tuning, has_adapter, merge
from coalign.models.backends.open import open_transformers
from coalign.models.files import quantized
from coalign.models.files.classifiers import new_classifier
from coalign.models.files.identity import model_identity
from coalign.models.files.loading import load_for_training, load_model
from coalign.models.files.quantized import TORCHAO, is_quantized, quantization_arguments, stored_parts
from coalign.models.generation.fused_decoder import is_llama_like
from coalign.models.generation.prefix_cache.marks import weights_mark
from coalign.models.merged import can_merge
from coalign.models.modules import evaluation
from coalign.models.options import AdapterKind, ModelOptions, Quantization
from coalign.models.scoring.engine import resolve_path, score_responses
from coalign.models.types import Responses
from coalign.training.module_trainer import training_arguments
from coalign.training.objective import NoConstants
from coalign.training.options import REFUSED_OPTIMIZERS, Optimizer, Schedule, TrainingOptions, library_of
from coalign.training.reference import _fingerprint
from coalign.training.trainer import AlignmentTrainer
from tests.models.tiny import make_model
from tests.training.helpers import PAIRS_FREE, make_examples


def kind(name: str) -> Any:
    """A value of `quantization` as a parameter, which is skipped where its library is not installed."""
    library = "torchao" if name in TORCHAO else "bitsandbytes"
    missing = pytest.mark.skipif(not is_installed(library), reason=f"{library} is not installed")
    return pytest.param(name, marks=missing)


TEXTS = Responses([[5, 6, 7, 8]], [[20, 21, 22], [30, 31]], [0, 0])


def bytes_of(model: Any) -> int:
    return sum(part.nbytes for one in model.parameters() for part in stored_parts(one))


def _step(model: Any, optimizer: Any) -> float:
    loss = -score_responses(model, TEXTS).token_logps.sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("quantized") / "model"
    model: Any = make_model("llama", scale=1.0, hidden_size=128, intermediate_size=256, vocab_size=300)
    model.save_pretrained(place)
    return place


@pytest.mark.parametrize("bits", map(kind, get_args(Quantization)[1:]))
def test_scores_are_near_and_prompts_are_shared(bits: Any, folder: Path) -> None:
    whole: Any = load_model(ModelOptions(model=str(folder)), training=False)
    small: Any = load_model(ModelOptions(model=str(folder), quantization=bits), training=False)
    assert is_quantized(small)
    assert not is_quantized(whole)
    assert bytes_of(small) < bytes_of(whole)
    assert not is_llama_like(small)  # whose fused weights would be made of these
    assert resolve_path(small, "auto") == "packed"
    found = [score_responses(one, TEXTS).token_logps for one in (whole, small)]
    assert found[0].tolist() != found[1].tolist()
    torch.testing.assert_close(found[1], found[0], atol=0.5, rtol=0.1)


REFUSED = {("4bit", "loha"), ("4bit", "lokr"), ("8bit", "dora")}
GOING = [
    pytest.param(*kind(bits).values, adapter, id=f"{bits}-{adapter}", marks=kind(bits).marks)
    for bits in get_args(Quantization)[1:]
    for adapter in get_args(AdapterKind)
    if adapter != "hra" and (bits, adapter) not in REFUSED
]


@pytest.mark.parametrize(("bits", "adapter"), GOING)
def test_an_adapter_is_trained_over_it(bits: Any, adapter: Any, folder: Path, tmp_path: Path) -> None:
    options = ModelOptions(model=str(folder), quantization=bits, adapter_kind=adapter)
    model: Any = load_for_training(options)
    plain = load_model(ModelOptions(model=str(folder), quantization=bits), training=False)
    expected, found = (score_responses(one, TEXTS).token_logps for one in (plain, model))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with evaluation(model), torch.no_grad():  # after which bitsandbytes passes no gradient on, on some CPUs
        score_responses(model, TEXTS)
    trained = [one for one in model.parameters() if one.requires_grad]
    assert {one.dtype for one in trained} == {torch.float32}
    assert not can_merge(model)
    score_responses(model, TEXTS).token_logps.sum().backward()
    reached: dict[str, bool] = {}
    for name, one in model.named_parameters():
        if one.requires_grad:
            layer = name.rpartition("_proj.")[0]
            reached[layer] = reached.get(layer, False) or (one.grad is not None and bool(one.grad.any()))
    assert all(reached.values())
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    before, after = (_step(model, optimizer) for _ in range(2))
    assert after < before
    with pytest.raises(ModelError, match="on quantised weights, into which nothing is merged"):
        merge(model)
    model.save_pretrained(tmp_path / "adapter")
    same = ModelOptions(model=str(tmp_path / "adapter"), quantization=bits)
    again, whole = (
        score_responses(load_model(one, training=False), TEXTS).token_logps
        for one in (same, ModelOptions(model=same.model))
    )
    torch.testing.assert_close(again, score_responses(model, TEXTS).token_logps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole, again, atol=1.0, rtol=0.2)


@pytest.mark.parametrize("bits", map(kind, get_args(Quantization)[1:]))
def test_an_adapter_answers_over_it(bits: Any, folder: Path, tmp_path: Path, tokenizer: Any) -> None:
    plain: Any = load_for_training(ModelOptions(model=str(folder), adapter_rank=2))
    with torch.no_grad():
        for name, one in plain.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.1)
    plain.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    options = ModelOptions(model=str(tmp_path / "adapter"), quantization=bits)
    generator = open_transformers(options)
    assert is_quantized(generator.model)
    assert has_adapter(generator.model)
    logits = generator.first_logits(["one two three"])
    ids = torch.tensor([generator.encode("one two three")])
    torch.testing.assert_close(logits, generator.model(ids).logits[:, -1].float(), atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match=f"int4 is not usable over quantization: {bits}"):
        open_transformers(options, precision="int4")


@pytest.mark.parametrize("bits", map(kind, TORCHAO))
def test_another_base_is_another_reference(bits: Any, folder: Path, tmp_path: Path) -> None:
    options = ModelOptions(model=str(folder), quantization=bits)
    one, two, other = (load_model(options, training=False) for _ in range(3))
    weight: Any = other.model.layers[0].mlp.up_proj.weight
    weight.scale.mul_(2.0)
    assert _fingerprint(one) == _fingerprint(two) != _fingerprint(other)
    before = weights_mark(one)
    assert before == weights_mark(one)
    cast(Any, one).model.layers[0].mlp.up_proj.weight.scale.mul_(2.0)
    assert before != weights_mark(one)


def test_what_it_does_not_go_with(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bits, adapter in [("4bit", "loha"), ("8bit", "hra"), ("int8_weight_only", "hra")]:
        with pytest.raises(ValueError, match=f"{bits} does not go with adapter_kind: {adapter}"):
            ModelOptions(quantization=cast(Any, bits), adapter_kind=cast(Any, adapter))
    with pytest.raises(ConfigError, match="8bit does not go with adapter_kind: dora on a CPU"):
        add_adapter(cast(Any, make_model("llama")), ModelOptions(quantization="8bit", adapter_kind="dora"))
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
    for bits, said in {
        "4bit": "bitsandbytes quantization",
        **dict.fromkeys(TORCHAO, "torchao torchao"),
    }.items():
        with pytest.raises(MissingExtraError, match=said):
            load_model(ModelOptions(model=str(folder), quantization=cast(Any, bits)), training=False)
    for bits, said in {
        "int4_weight_only": "on a GPU alone",
        "int8-dynamic-activation-int8-weight": "no gradient",
    }.items():
        with pytest.raises(ConfigError, match=said):
            build(ModelOptions, {"quantization": bits})


def test_answers_belong_to_the_bits(folder: Path) -> None:
    found = {
        model_identity(ModelOptions(model=str(folder), quantization=one)) for one in get_args(Quantization)
    }
    assert len(found) == len(get_args(Quantization))


@pytest.mark.parametrize(("kind", "trained"), [("lora", 0), ("rslora", 0), ("dora", 1)])
def test_kinds_of_adapters(kind: Any, trained: int, folder: Path) -> None:
    model: Any = load_for_training(ModelOptions(model=str(folder), adapter_kind=kind, adapter_rank=4))
    layer = next(one for one in model.modules() if hasattr(one, "lora_A"))
    assert layer.scaling["default"] == (16.0 if kind == "rslora" else 8.0)
    assert bool(layer.lora_magnitude_vector) == bool(trained)


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_optimizers(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = library_of(name)
    if library and not is_installed(library[0]):
        with pytest.raises(MissingExtraError, match=rf"{library[0]} is not installed.*{library[1]}"):
            TrainingOptions(optimizer=name)
    monkeypatch.setattr("coalign.training.options.is_installed", lambda module: True)
    made = training_arguments(TrainingOptions(optimizer=name), tmp_path, make_model("llama")).optim
    expected = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}.get(name, name)
    assert made == expected  # one that Transformers does not know is an error there


@pytest.mark.parametrize(
    "name",
    [
        "lion_8bit",
        "adamw_8bit",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("adamw_torch_8bit", "adamw_torch_4bit")),
    ],
)
def test_state_in_few_bits(name: Any, tmp_path: Path) -> None:
    library = library_of(name)
    assert library is not None
    pytest.importorskip(library[0], reason=f"{library[0]} is not installed")
    plain: Any = make_model("llama", hidden_size=128, intermediate_size=512)
    # torchao compiles a step for each shape of a weight, and keeps 32 bits for those of fewer than 4,096 numbers
    model = add_adapter(plain, ModelOptions(adapter_rank=16, adapter_targets=["down_proj"]))
    options = TrainingOptions(
        optimizer=name, learning_rate=1e-3, max_steps=2, save_steps=0, warmup_ratio=0.0, loraplus_lr_ratio=2.0
    )
    settings = training_arguments(options, tmp_path, model)
    trainer = AlignmentTrainer(model, PAIRS_FREE, NoConstants(), make_examples(16), settings)
    before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
    trainer.train()
    assert any(not torch.equal(one, before[name]) for name, one in model.named_parameters() if name in before)
    optimizer: Any = trainer.optimizer
    kept = {
        str(value.dtype) + type(value).__name__
        for one in optimizer.state.values()
        for value in one.values()
        if torch.is_tensor(value)
    }
    assert any("uint8" in one or "bit" in one for one in kept)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adamw_torch", "it is adamw here"),
        ("galore-adamw", "which modules it projects"),
        ("lomo", "takes over the backward pass"),
        ("schedule_free_adamw", "in place of a schedule"),
        ("adamw2", "'adamw2' is not usable, expected"),
    ],
)
def test_optimizers_that_are_not_offered_say_why(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TrainingOptions, {"optimizer": name})
    assert not REFUSED_OPTIMIZERS.keys() & {*get_args(Optimizer)}
    assert REFUSED_OPTIMIZERS.keys() <= {one.value for one in OptimizerNames} | {"adamw_hf"}


NUMBERS: dict[str, dict[str, float]] = {
    "cosine_with_restarts": {"num_cycles": 2},
    "cosine_with_min_lr": {"min_lr_rate": 0.25},
    "polynomial": {"power": 2, "lr_end": 1e-5},
    "inverse_sqrt": {"timescale": 3},
    "warmup_stable_decay": {"num_decay_steps": 4},
}


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_schedules(schedule: Any, tmp_path: Path) -> None:
    options = TrainingOptions(
        schedule=schedule, schedule_options=NUMBERS.get(schedule, {}), learning_rate=1e-2, warmup_ratio=0.2
    )
    model = make_model(
        "llama", num_hidden_layers=1, hidden_size=8, num_attention_heads=1, num_key_value_heads=1
    )
    trainer = AlignmentTrainer(
        model, PAIRS_FREE, NoConstants(), make_examples(2), training_arguments(options, tmp_path, model)
    )
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(10, optimizer)
    rates = []
    for _ in range(10):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    assert max(rates) == pytest.approx(1e-2, rel=0.02)
    ends = {"cosine_with_min_lr": 0.25e-2, "polynomial": 1e-5, "constant": 1e-2, "constant_with_warmup": 1e-2, "inverse_sqrt": None}  # fmt: skip
    if (end := ends.get(schedule, 0.0)) is not None:
        assert rates[-1] == pytest.approx(end, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "linear", "schedule_options": {"num_cycles": 2}}, "is not read by schedule: linear, which reads none"),
        ({"schedule_options": {"power": 2}}, "power is not read by schedule: cosine, expected some of: num_cycles"),
        ({"schedule": "warmup_stable_decay"}, "needs schedule_options with one of: num_decay_steps"),
        ({"schedule": "cosine_with_min_lr", "schedule_options": {"min_lr": 1, "min_lr_rate": 1}}, "one of: min_lr, min_lr_rate"),
        ({"schedule_options": {"num_cycles": "two"}}, "schedule_options: .*is not usable"),
    ],
)  # fmt: skip
def test_numbers_of_a_schedule_that_it_does_not_read(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TrainingOptions, values)
