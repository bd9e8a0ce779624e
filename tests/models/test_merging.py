"""Merging: the three ways as equations, adapters folded in, tied and untied heads, shards, what cannot be merged."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from coalign.core.errors import ConfigError, ModelError
from coalign.core.options import build
from coalign.models.adapters import add_adapter
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.merging import run as merging
from coalign.models.merging.arithmetic import linear, model_stock, task_arithmetic
from coalign.models.options import ModelOptions

IDS = torch.arange(3, 15).reshape(2, 6)


def moved_copy(source: str, folder, seed: int, **settings) -> str:
    """A whole model beside `source`, with noise on its weights."""
    model = load_model(source, training=False)
    torch.manual_seed(seed)
    for one in model.parameters():
        one.data += 0.05 * torch.randn_like(one)
    save_model(model, load_tokenizer(source), folder)
    return str(folder)


def merged(config: merging.Config, path) -> torch.nn.Module:
    merging.merge_models(config, path / "merged", path)
    return AutoModelForCausalLM.from_pretrained(path / "merged")


def config(**values) -> merging.Config:
    return build(merging.Config, values)


@given(st.integers(2, 5), st.integers(0, 100))
def test_between_base_and_mean_lies_model_stock(count, seed):
    draw = torch.Generator().manual_seed(seed)
    base, *models = torch.randn(count + 1, 3, 4, generator=draw, dtype=torch.float64)
    found = model_stock(base, models)
    mean = linear(models, [1.0] * count)
    torch.testing.assert_close(found.weights, found.share * mean + (1 - found.share) * base)
    # equal models: their mean; models that did not move: the base
    assert model_stock(base, [models[0]] * count).share == pytest.approx(1)
    torch.testing.assert_close(model_stock(base, [base] * count).weights, base)


@given(st.integers(1, 4), st.floats(-2, 2), st.integers(0, 100))
def test_one_task_at_full_scale_is_the_model_and_at_none_the_base(count, scale, seed):
    draw = torch.Generator().manual_seed(seed)
    base, model = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(task_arithmetic(base, [model], [1.0], 1.0), model)
    torch.testing.assert_close(task_arithmetic(base, [model] * count, [scale] * count, 0.0), base)
    torch.testing.assert_close(
        task_arithmetic(base, [model] * count, [scale] * count, 1.0), base + count * scale * (model - base)
    )


def test_orthogonal_updates_give_the_base_and_opposed_ones_too():
    base = torch.zeros(2, dtype=torch.float64)
    crossed = model_stock(base, [torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()])
    assert crossed.share == 0
    opposed = model_stock(base, [torch.tensor([1.0, 0.0]).double(), torch.tensor([-1.0, 0.0]).double()])
    assert torch.equal(opposed.weights, base)


def test_the_mean_of_two_models_loads_as_any_model(tiny_model, tmp_path):
    one, two = (moved_copy(tiny_model, tmp_path / name, seed) for seed, name in enumerate("ab"))
    made = merged(config(models=[one, two], method="linear", weights=[3, 1]), tmp_path).state_dict()
    first, second = (load_model(name, training=False).state_dict() for name in (one, two))
    for name, weight in made.items():
        torch.testing.assert_close(weight.float(), (3 * first[name] + second[name]).float() / 4)
    rows = [json.loads(line) for line in (tmp_path / "tensors.jsonl").read_text().splitlines()]
    assert sum(row["size"] for row in rows) == sum(
        one.numel() for one in AutoModelForCausalLM.from_pretrained(tmp_path / "merged").parameters()
    )


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_an_adapter_is_folded_in_first(tiny_model, tmp_path, kind):
    adapted = add_adapter(load_model(tiny_model, training=True), ModelOptions(adapter_kind=kind)).eval()
    for name, one in adapted.named_parameters():
        if one.requires_grad and "lora_" in name:
            torch.nn.init.normal_(one, std=0.1)
    save_model(adapted, load_tokenizer(tiny_model), tmp_path / "adapter")
    settings = config(
        models=[str(tmp_path / "adapter"), tiny_model],
        base=tiny_model,
        method="task-arithmetic",
        dtype="float32",
    )
    made = merged(settings, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(made(IDS).logits, adapted(IDS).logits, atol=1e-4, rtol=1e-4)
    assert not list(tmp_path.glob("folded-*"))


def test_large_models_are_written_in_shards(tiny_model, tmp_path, monkeypatch):
    one, two = (moved_copy(tiny_model, tmp_path / name, seed) for seed, name in enumerate("ab"))
    whole = merged(config(models=[one, two], base=tiny_model), tmp_path).state_dict()
    monkeypatch.setattr(merging, "SHARD", 20_000)
    (tmp_path / "again").mkdir()
    sharded = merged(config(models=[one, two], base=tiny_model), tmp_path / "again").state_dict()
    assert len(list((tmp_path / "again" / "merged").glob("model-*.safetensors"))) > 1
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)
    # shards are read as well as written
    (tmp_path / "third").mkdir()
    from_shards = merged(
        config(models=[str(tmp_path / "again" / "merged"), one], method="linear", weights=[1, 0]),
        tmp_path / "third",
    ).state_dict()
    assert all(torch.equal(whole[name], from_shards[name]) for name in whole)


def test_a_tied_and_an_untied_model_give_an_untied_one(tmp_path, tiny_model):
    from tests.models.test_loading import llama

    tokenizer = load_tokenizer(tiny_model)
    vocabulary = len(tokenizer)
    places, logits = [], []
    for tied in (True, False):
        torch.manual_seed(0)
        model = llama(tie_word_embeddings=tied, vocab_size=vocabulary).eval()
        place = tmp_path / f"tied-{tied}"
        save_model(model, tokenizer, place)
        places.append(str(place))
        logits.append(model(IDS).logits)
    for share in (0, 1):
        path = tmp_path / str(share)
        path.mkdir()
        made = merged(config(models=places, method="linear", weights=[1 - share, share]), path)
        torch.testing.assert_close(made(IDS).logits, logits[share])


def test_what_cannot_be_merged_is_named(tiny_model, tmp_path):
    from tests.models.test_loading import llama

    tokenizer = load_tokenizer(tiny_model)
    save_model(llama(vocab_size=len(tokenizer), num_hidden_layers=1), tokenizer, tmp_path / "short")
    save_model(llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "plain")
    save_model(llama(vocab_size=len(tokenizer) + 8), tokenizer, tmp_path / "wide")
    plain = str(tmp_path / "plain")
    for name, word in (("short", "another architecture"), ("wide", "embed_tokens")):
        with pytest.raises(ModelError, match=word):
            merging.merge_models(
                config(models=[plain, str(tmp_path / name)], method="linear"), tmp_path / "m", tmp_path
            )
    tokenizer.add_tokens(["<new>"])
    save_model(llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "other")
    with pytest.raises(ModelError, match=r"another vocabulary.*<new>"):
        merging.merge_models(
            config(models=[plain, str(tmp_path / "other")], method="linear"), tmp_path / "m", tmp_path
        )
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"models": ["a"]}, "two or more"),
        ({"models": ["a", "b"]}, "base is required"),
        ({"models": ["a", "b"], "base": "c", "method": "linear"}, "base has no effect"),
        ({"models": ["a", "b"], "base": "c", "weights": [1, 2]}, "weights has no effect"),
        ({"models": ["a", "b"], "method": "linear", "weights": [1]}, "one for each"),
        ({"models": ["a", "b"], "method": "linear", "weights": [1, -1]}, "sum to 0"),
        ({"models": ["a", "b"], "method": "linear", "scale": 2}, "scale has no effect"),
    ],
)
def test_options_that_do_not_fit_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        config(**values)
