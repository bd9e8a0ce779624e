"""Tiny random models of several architectures, for tests of the engines."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import transformers as hf
from torch import nn

VOCABULARY = 97
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "gpt2")
_GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip


def make_model(
    architecture: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 4.0,
    **changes: Any,
) -> nn.Module:
    """A random model in evaluation mode; its weights are larger than usual, so that errors show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = _make(architecture, changes).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return model.eval()


def _make(architecture: str, changes: dict[str, Any]) -> nn.Module:
    match architecture:
        case "llama":
            return hf.LlamaForCausalLM(hf.LlamaConfig(**{**_SHAPE, **changes}))
        case "llama_tied":
            return hf.LlamaForCausalLM(hf.LlamaConfig(**{**_SHAPE, "tie_word_embeddings": True, **changes}))
        case "qwen2":
            return hf.Qwen2ForCausalLM(hf.Qwen2Config(**{**_SHAPE, **changes}))
        case "qwen3":
            return hf.Qwen3ForCausalLM(hf.Qwen3Config(**{**_SHAPE, "head_dim": 8, **changes}))
        case "gemma":
            return hf.GemmaForCausalLM(hf.GemmaConfig(**{**_SHAPE, "head_dim": 8, **changes}))
        case "gemma2":
            return hf.Gemma2ForCausalLM(
                hf.Gemma2Config(**{**_SHAPE, "head_dim": 8, "query_pre_attn_scalar": 8, **changes})
            )
        case "mistral":
            return hf.MistralForCausalLM(hf.MistralConfig(**{**_SHAPE, **changes}))
        case "gpt2":
            return hf.GPT2LMHeadModel(hf.GPT2Config(**{**_GPT2, **changes}))
        case "mamba":
            return hf.MambaForCausalLM(
                hf.MambaConfig(
                    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, bos_token_id=1, eos_token_id=2
                )
            )
    raise ValueError(architecture)


@contextlib.contextmanager
def float64_norms() -> Iterator[None]:
    """Transformers' RMS norms round to float32 inside; for comparisons in float64 they must not."""

    def forward(self: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + getattr(self, "variance_epsilon", 1e-6))
        gain = self.weight + 1.0 if "Gemma" in type(self).__name__ else self.weight
        return hidden * scale * gain

    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    classes = (GemmaRMSNorm, LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
    originals = [one.forward for one in classes]
    for one in classes:
        one.forward = forward
    try:
        yield
    finally:
        for one, original in zip(classes, originals, strict=True):
            one.forward = original
