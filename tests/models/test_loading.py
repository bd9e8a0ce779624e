"""Models and tokenizers are found, and every way to fail says what was wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from coalign.core.errors import ConfigError, ModelError
from coalign.core.options import build
from coalign.models import adapters
from coalign.models.adapters import has_adapter
from coalign.models.devices import describe_device, pick_device, pick_dtype
from coalign.models.files import defaults, places
from coalign.models.files.loading import load_for_training, load_model, load_pretrained, load_tokenizer
from coalign.models.files.places import locate
from coalign.models.options import ModelOptions

pytestmark = pytest.mark.usefixtures("offline")


def llama(**changes):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = {"vocab_size": 64, "num_hidden_layers": 2, "tie_word_embeddings": True, **sizes, **changes}
    return LlamaForCausalLM(LlamaConfig(**config))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return llama().eval()


@pytest.fixture
def folder(tmp_path, model) -> Path:
    model.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def digits_tokenizer(path: Path, settings: dict[str, str]) -> Path:
    """A byte-level tokenizer whose file splits digits."""
    vocabulary = {one: number for number, one in enumerate(["<|end|>", "<|endoftext|>", "a", "Ġ", "ĠĠ", "5"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "Ġ")]))
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<|end|>", "<|endoftext|>"])
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "config.json").write_text('{"model_type": "llama"}')
    return path


def test_a_folder_loads_with_equal_logits(folder, model):
    loaded = load_model(str(folder), training=False)
    ids = torch.arange(10)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert loaded.dtype == torch.float32
    assert not loaded.training
    assert loaded.name_or_path == str(folder.resolve())


def test_a_run_folder_means_its_model(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "status.json").write_text('{"state": "running"}')
    with pytest.raises(ModelError, match=r"has no model.*interrupted"):
        locate(str(run))
    folder.rename(run / "model")
    assert locate(str(run)).path == str((run / "model").resolve())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "does not exist"),
        ("a/b/c", "does not exist"),
        ("someone/some-model", r"neither a folder here nor in the hub's cache.*no network"),
    ],
)
def test_what_is_not_there_is_named(name, message):
    with pytest.raises(ModelError, match=message):
        load_model(name, training=False)
    with pytest.raises(ModelError, match=message):
        load_tokenizer(name)


def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(ModelError, match="is a folder, so revision 'main'"):
        load_model(ModelOptions(model=str(folder), revision="main"), training=False)
    with pytest.raises(ModelError, match="pinned to one revision"):
        locate("default", "main")


def test_an_encoder_and_a_folder_without_a_configuration_are_no_causal_models(tmp_path):
    with pytest.raises(ModelError, match=r"holds none of config.json, adapter_config.json"):
        load_model(str(tmp_path), training=False)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=32, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a BertModel, not a causal language model"):
        load_model(str(tmp_path), training=False)


def lose_weights(weights: Path) -> None:
    state = load_file(weights)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, weights, metadata={"format": "pt"})


def pickle_weights(weights: Path) -> None:
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((lambda one, keep=keep: one.write_bytes(one.read_bytes()[:keep]), "weights are corrupted") for keep in (0, 4, 1000)),
        (lose_weights, r"1 weights are missing.*layers.1.mlp.up_proj"),
        (pickle_weights, "no safetensors weights"),
    ],
    ids=["0", "4", "1000", "missing", "pickled"],
)  # fmt: skip
def test_weights_that_are_cut_missing_or_pickled_are_not_read(folder, damage, message):
    damage(folder / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        load_model(str(folder), training=False)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "is gated"),
        ("RepositoryNotFoundError", "nor a model on the hub"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
    ],
)
def test_gated_and_unknown_hub_models_are_told_apart(monkeypatch, kind, message):
    def fail(*_, **__):
        response = SimpleNamespace(headers={}, request=None, status_code=403)
        raise OSError("wrapped") from getattr(errors, kind)("no", response=response)

    monkeypatch.setattr(places, "hub_problem", lambda: None)
    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    with pytest.raises(ModelError, match=message):
        load_model(ModelOptions(model="someone/some-model", revision="v9"), training=False)


def test_the_digit_rule_of_the_tokenizer_file_is_kept_and_a_damaged_one_named(tmp_path):
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    tokenizer = load_tokenizer(str(digits_tokenizer(tmp_path / "digits", settings)))
    assert tokenizer("a  5").input_ids == [2, 4, 5]
    assert tokenizer.eos_token == tokenizer.pad_token == "<|end|>"
    (tmp_path / "digits" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="the tokenizer cannot be loaded"):
        load_tokenizer(str(tmp_path / "digits"))


def test_a_missing_pad_token_is_taken_from_the_vocabulary(tmp_path):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    tokenizer = load_tokenizer(str(digits_tokenizer(tmp_path / "one", settings)))
    assert tokenizer.pad_token == "<|endoftext|>"
    assert len(tokenizer) == 6
    settings["eos_token"] = "<|endoftext|>"
    assert load_tokenizer(str(digits_tokenizer(tmp_path / "two", settings))).pad_token == "<|endoftext|>"


def test_training_on_a_cpu_adds_an_adapter_by_default(folder):
    options = ModelOptions(model=str(folder), adapter_rank=4)
    assert has_adapter(load_for_training(options))
    full = load_for_training(ModelOptions(model=str(folder), tuning="full"))
    assert not has_adapter(full)
    assert all(one.requires_grad for one in full.parameters())


CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(ModelOptions, {"tuning": "full", "adapter_rank": 4}), "adapter_rank has no effect with tuning: full"),
        (lambda: build(ModelOptions, {"tuning": "some"}), "tuning: 'some' is not usable, expected one of: auto, lora, full"),
        *((lambda name=name: pick_device(name), "is not usable, expected one of") for name in ("gpu", "cpu:1", "cuda:x", "mps:0")),
        (lambda: pick_dtype(CPU, "float16"), "float16 is not usable for a CPU"),
        (lambda: pick_device("cuda"), "sees no CUDA device"),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(monkeypatch, call, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        call()


def test_devices_and_formats(monkeypatch):
    assert pick_device("cpu") == CPU
    assert pick_dtype(CPU) == torch.float32
    assert pick_dtype(CPU, "bfloat16", training=True) == torch.bfloat16
    assert {"cpu", "float32"} <= {*re.findall(r"\w+", describe_device(CPU, torch.float32))}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert pick_dtype(CUDA) == torch.bfloat16
    assert pick_dtype(CUDA, training=True) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert pick_dtype(CUDA) == torch.float16


def test_full_fine_tuning_only_where_it_fits(monkeypatch):
    cuda, options = CUDA, ModelOptions()
    monkeypatch.setattr(adapters, "free_memory", lambda _: 32_000)
    assert adapters.choose_tuning(options, 1000, cuda) == "full"
    assert adapters.choose_tuning(options, 1001, cuda) == "lora"
    assert adapters.choose_tuning(options, 10, CPU) == "lora"
    assert adapters.choose_tuning(ModelOptions(adapter_rank=4), 10, cuda) == "lora"


def test_the_hub_id_of_the_default_is_the_embedded_copy_offline(monkeypatch, folder):
    monkeypatch.setattr(places, "default_model_path", lambda kind: folder)
    monkeypatch.setattr(places, "_in_hub_cache", lambda *_: False)
    hub_id = defaults.DEFAULTS["chat"].hub_id
    assert locate(hub_id).path == str(folder)
    assert locate("default").name == hub_id
    monkeypatch.setattr(places, "hub_problem", lambda: None)
    assert locate(hub_id).path == hub_id
    assert locate(hub_id, as_base=True).path == str(folder)


def test_a_cached_model_is_read_without_asking_the_hub_for_an_adapter(monkeypatch):
    """Transformers 5.23 looks for `adapter_config.json` on the hub in spite of `local_files_only`."""
    asked = []

    def find(name, **given):
        asked.append((name, given.get("local_files_only")))

    monkeypatch.setattr("transformers.models.auto.auto_factory.find_adapter_config_file", find)
    place = places.Location("org/model", "org/model", cached_only=True)
    with pytest.raises(ModelError):
        load_pretrained(AutoModelForCausalLM, place, what="model")
    assert asked == [("org/model", True)]
