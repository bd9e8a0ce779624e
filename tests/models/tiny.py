"""Tiny random models of several architectures, for tests of the engines."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

VOCABULARY = 97
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_HEADS = {**_SHAPE, "head_dim": 8}
_GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
_MAMBA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, _SHAPE),
    "llama_tied": (hf.LlamaForCausalLM, hf.LlamaConfig, {**_SHAPE, "tie_word_embeddings": True}),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config, _SHAPE),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config, _HEADS),
    "gemma": (hf.GemmaForCausalLM, hf.GemmaConfig, _HEADS),
    "gemma2": (hf.Gemma2ForCausalLM, hf.Gemma2Config, {**_HEADS, "query_pre_attn_scalar": 8}),
    "gemma3": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, {**_HEADS, "query_pre_attn_scalar": 8}),
    "mistral": (hf.MistralForCausalLM, hf.MistralConfig, _SHAPE),
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config, _GPT2),
    "mamba": (hf.MambaForCausalLM, hf.MambaConfig, _MAMBA),
}
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "gpt2")


def make_model(
    architecture: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 4.0,
    **changes: Any,
) -> nn.Module:
    """A random model in evaluation mode; its weights are larger than usual, so that errors show."""
    kind, config, shape = MODELS[architecture]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = kind(config(**{**shape, **changes})).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return model.eval()


@contextlib.contextmanager
def float64_norms() -> Iterator[None]:
    """Transformers' RMS norms round to float32 inside; for comparisons in float64 they must not."""

    def forward(self: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + getattr(self, "variance_epsilon", 1e-6))
        gain = self.weight + 1.0 if "Gemma" in type(self).__name__ else self.weight
        return hidden * scale * gain

    names = [("gemma", "Gemma"), ("llama", "Llama"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3")]
    modules = [importlib.import_module(f"transformers.models.{one}.modeling_{one}") for one, _ in names]
    classes = [getattr(module, f"{name}RMSNorm") for module, (_, name) in zip(modules, names, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        for one in classes:
            patch.setattr(one, "forward", forward)
        yield
