"""Adapters: what is trained, the reference under a disabled adapter, merging."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from coalign.core.errors import ConfigError, ModelError
from coalign.models.adapters import add_adapter, disabled_adapter, has_adapter, merge, trainable_summary
from coalign.models.options import ModelOptions
from tests.models.test_loading import llama

IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return llama(tie_word_embeddings=False).eval()


def adapted_by(model, **options):
    """The model with an adapter that is not zero, and what it says with it."""
    adapted = add_adapter(model, ModelOptions(**options)).eval()
    for one in adapted.parameters():
        if one.requires_grad:
            torch.nn.init.normal_(one, std=0.3)
    return adapted, adapted(IDS).logits


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains(model):
    before = model(IDS).logits
    adapted = add_adapter(model, ModelOptions(adapter_rank=4))
    assert torch.equal(adapted(IDS).logits, before)
    trained = [name for name, one in adapted.named_parameters() if one.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    # 7 linear layers a block: q and o 16x16, k and v 16x8, gate and up 16x32, down 32x16; rank 4
    expected = 2 * 4 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 32))
    assert sum(one.numel() for one in adapted.parameters() if one.requires_grad) == expected
    assert trainable_summary(adapted).startswith(f"{expected} of ")
    assert trainable_summary(adapted).endswith("adapter of rank 4")


def test_the_reference_is_the_base_and_gradients_survive(model):
    before = model(IDS).logits.detach()
    adapted, policy = adapted_by(model)
    required = [one.requires_grad for one in adapted.parameters()]
    with disabled_adapter(adapted), torch.no_grad():
        reference = adapted(IDS).logits
    assert torch.equal(reference, before)
    assert not torch.allclose(policy, reference)
    assert [one.requires_grad for one in adapted.parameters()] == required
    assert torch.equal(adapted(IDS).logits, policy)
    (policy - reference).square().mean().backward()
    assert all(one.grad is not None for one in adapted.parameters() if one.requires_grad)


def test_the_adapter_is_on_again_after_an_error_and_stays_frozen(model):
    adapted, policy = adapted_by(model)
    adapted.requires_grad_(False)
    with pytest.raises(RuntimeError, match="stop"), disabled_adapter(adapted):
        raise RuntimeError("stop")
    assert torch.equal(adapted(IDS).logits, policy)
    assert not any(one.requires_grad for one in adapted.parameters())


def test_there_is_no_reference_without_an_adapter(model):
    with pytest.raises(ModelError, match="has no adapter"), disabled_adapter(model):
        pass
    with pytest.raises(ModelError, match="no adapter to merge"):
        merge(model)


def test_merging_keeps_the_outputs(model):
    adapted, policy = adapted_by(model)
    merged = merge(adapted)
    assert not has_adapter(merged)
    torch.testing.assert_close(merged(IDS).logits, policy, atol=1e-5, rtol=1e-5)
    assert has_adapter(add_adapter(merged, ModelOptions()))


def test_targets_are_checked(model):
    adapted = add_adapter(model, ModelOptions(adapter_targets=["q_proj", "mlp.up_proj"]))
    names = {name for name, one in adapted.named_parameters() if one.requires_grad}
    assert all("q_proj" in name or "mlp.up_proj" in name for name in names)
    with pytest.raises(ModelError, match="already has an adapter"):
        add_adapter(adapted, ModelOptions())  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", [["q_proj", "c_attn"], ["all-linear", "q_proj"], []])
def test_targets_that_match_nothing_are_refused(model, targets):
    with pytest.raises(ConfigError, match="adapter_targets"):
        add_adapter(model, ModelOptions(adapter_targets=targets))


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens", "q_proj"], ["q_proj"]])
def test_tied_weights_are_untied_where_an_adapter_changes_one(targets, tmp_path):
    torch.manual_seed(0)
    with torch.no_grad():
        adapted, expected = adapted_by(
            llama(num_hidden_layers=1).eval(), adapter_rank=4, adapter_targets=targets
        )
        merged = merge(adapted)
        assert torch.allclose(merged(IDS).logits, expected, atol=1e-4)
        merged.save_pretrained(tmp_path)
        assert torch.allclose(LlamaForCausalLM.from_pretrained(tmp_path)(IDS).logits, expected, atol=1e-4)
    assert merged.config.tie_word_embeddings == (targets == ["q_proj"])


def test_an_adapter_of_both_ends_is_merged_once_into_each():
    """peft 0.21.2 merges it twice into the matrix that they share (findings/tied-adapters-are-merged-twice.sh)."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=4,
        target_modules=["embed_tokens"],
        ensure_weight_tying=True,
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    adapted = get_peft_model(llama(num_hidden_layers=1), config).eval()
    with torch.no_grad():
        expected = adapted(IDS).logits
        merged = merge(adapted)
        torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(merged.lm_head.weight, merged.model.embed_tokens.weight)
