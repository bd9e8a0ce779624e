"""What is saved is what is loaded, and a full disk leaves nothing."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from coalign.core.errors import ModelError
from coalign.models.adapters import add_adapter, disabled_adapter, has_adapter
from coalign.models.files import places
from coalign.models.files.loading import load_for_training, load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions
from tests.models.test_loading import digits_tokenizer, llama

pytestmark = pytest.mark.usefixtures("offline")
IDS = torch.arange(12).reshape(2, 6)


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32))


@pytest.fixture
def tokenizer(tmp_path):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    return load_tokenizer(str(digits_tokenizer(tmp_path / "tokenizer", settings)))


@pytest.fixture(params=[llama, gpt2])
def base(request, tmp_path, tokenizer):
    torch.manual_seed(0)
    return save_model(request.param().eval(), tokenizer, tmp_path / "base")


def trained(options: ModelOptions):
    """A model with an adapter that is not zero."""
    model = load_for_training(options).eval()
    torch.manual_seed(1)
    for one in model.parameters():
        if one.requires_grad:
            torch.nn.init.normal_(one, std=0.3)
    return model


def base_of(saved):
    """The base model that an adapter records."""
    return json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"]


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_an_adapter_comes_back(base, tmp_path, tokenizer):
    model = trained(ModelOptions(model=str(base), adapter_rank=4))
    saved = save_model(model, tokenizer, tmp_path / "out")
    assert {one.name for one in saved.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert not (saved / "model.safetensors").exists()
    assert base_of(saved) == str(base)
    loaded = load_model(str(saved), training=False)
    assert has_adapter(loaded)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(load_model(str(base), training=False)), atol=1e-3)
    assert load_tokenizer(str(saved)).get_vocab() == tokenizer.get_vocab()


def test_a_merged_model_needs_neither_peft_nor_its_base(base, tmp_path, tokenizer):
    model = trained(ModelOptions(model=str(base), adapter_rank=4))
    before = logits(model)
    saved = save_model(model, tokenizer, tmp_path / "out", merge=True)
    assert not (saved / "adapter_config.json").exists()
    assert "peft" not in (saved / "config.json").read_text()
    merged = AutoModelForCausalLM.from_pretrained(saved)
    torch.testing.assert_close(logits(merged), before, atol=1e-5, rtol=1e-5)
    assert has_adapter(model)
    assert torch.equal(logits(model), before)


def test_training_goes_on_from_an_adapter_as_the_new_reference(base, tmp_path, tokenizer):
    first = trained(ModelOptions(model=str(base), adapter_rank=4))
    saved = save_model(first, tokenizer, tmp_path / "first")
    second = trained(ModelOptions(model=str(saved), adapter_rank=2))
    with disabled_adapter(second):
        torch.testing.assert_close(logits(second), logits(first), atol=1e-5, rtol=1e-5)
    again = save_model(second, tokenizer, tmp_path / "second")
    assert (again / "model.safetensors").exists()  # no folder holds its base, so it is merged
    loaded = load_model(str(again), training=False)
    torch.testing.assert_close(logits(loaded), logits(second), atol=1e-3, rtol=1e-3)


def test_an_adapter_of_the_default_records_the_hub_id(base, tmp_path, tokenizer, monkeypatch):
    """And loads offline."""
    monkeypatch.setattr(places, "default_model_path", lambda kind: base)
    model = trained(ModelOptions(adapter_rank=4))
    saved = save_model(model, tokenizer, tmp_path / "out")
    assert base_of(saved) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert torch.equal(logits(load_model(str(saved), training=False)), logits(model))


def test_what_was_there_is_replaced_whole(base, tmp_path, tokenizer):
    model = trained(ModelOptions(model=str(base)))
    out = tmp_path / "out"
    save_model(model, tokenizer, out, merge=True)
    save_model(model, tokenizer, out)
    assert not (out / "model.safetensors").exists()
    assert load_model(str(out), training=False) is not None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights, _: weights.unlink(), "is missing"),
        (lambda weights, _: weights.write_bytes(weights.read_bytes()[:100]), "is corrupted"),
        (lambda _, base: base.rename(base.with_name("moved")), "adapts another model:.*base does not exist[^`]*base_model_name_or_path in .*adapter_config.json"),
    ],
    ids=["gone", "cut", "other"],
)  # fmt: skip
def test_broken_adapters_are_named(base, tmp_path, tokenizer, damage, message):
    saved = save_model(trained(ModelOptions(model=str(base))), tokenizer, tmp_path / "out")
    damage(saved / "adapter_model.safetensors", base)
    with pytest.raises(ModelError, match=message):
        load_model(str(saved), training=False)


def test_a_full_disk_leaves_what_was_there(base, tmp_path, tokenizer, monkeypatch):
    model = load_model(str(base), training=False)
    before = sorted(one.name for one in base.iterdir())

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(ModelError, match="No space left on the disk"):
        save_model(model, tokenizer, base)
    assert sorted(one.name for one in base.iterdir()) == before
    assert not list(base.parent.glob(".*.tmp"))
    assert add_adapter(load_model(str(base), training=True), ModelOptions()) is not None


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.6, "top_p": 0.9}, {"do_sample": True, "top_k": 5}, {}]
)
def test_a_generation_config_that_transformers_would_not_save(base, tmp_path, tokenizer, settings):
    (base / "generation_config.json").write_text(json.dumps(settings))
    saved = save_model(load_model(str(base), training=True), tokenizer, tmp_path / "again")
    written = json.loads((saved / "generation_config.json").read_text())
    assert {name: written[name] for name in settings} == settings
    assert written.get("do_sample", False) == bool(settings)
