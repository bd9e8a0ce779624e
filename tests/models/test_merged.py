"""The merged view computes what the adapted model computes, follows its adapter, and leaves it untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from coalign.models.merged import MergedView, can_merge
from tests.models.tiny import make_model

IDS = torch.tensor([[5, 9, 22, 41, 7]])


def adapted(architecture: str = "llama", **options: Any) -> Any:
    targets = ["c_attn", "c_fc"] if architecture == "gpt2" else "all-linear"
    config = LoraConfig(r=4, task_type="CAUSAL_LM", **{"target_modules": targets, **options})
    model: Any = get_peft_model(make_model(architecture, scale=1.0), config)  # type: ignore[arg-type]
    return moved(model, 1)


def moved(model: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_" in name:
                one.copy_(0.1 * torch.randn_like(one))
    return model


@pytest.mark.parametrize("architecture", ["llama", "llama_tied", "gpt2", "qwen3"])
def test_it_computes_what_the_adapted_model_computes_and_follows_it(architecture: str):
    model = adapted(architecture).eval()
    view = MergedView(model)
    for seed in (1, 2):
        expected = moved(model, seed)(IDS).logits
        with view.merged() as plain:
            assert plain is not model
            torch.testing.assert_close(plain(IDS).logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model(IDS).logits, expected, atol=0, rtol=0)


def test_only_the_adapted_weights_are_its_own():
    model = adapted()
    view = MergedView(model)
    with view.merged() as plain:
        own = {id(one) for one in plain.parameters()} - {id(one) for one in model.parameters()}
        assert len(own) == sum(1 for one in model.modules() if hasattr(one, "lora_A") and one.lora_A)
        assert all(not one.requires_grad for one in plain.parameters() if id(one) in own)
        layer = plain.model.layers[0].mlp.up_proj
    assert layer.weight is None


def test_what_cannot_be_merged_is_sampled_as_it_is():
    for model in (
        make_model("llama"),
        adapted(modules_to_save=["norm"]),
        adapted("llama_tied", target_modules=["lm_head", "q_proj"]),
    ):
        assert not can_merge(model)
        with MergedView(model).merged() as same:
            assert same is model
