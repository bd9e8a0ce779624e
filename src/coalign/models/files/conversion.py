"""The GGUF file of SmolLM2-135M-Instruct as a folder that Transformers loads and trains.

Transformers reads GGUF itself, but keeps such a model marked as quantised (it cannot be saved or trained) and splits
text without the file's digit rule, so that "1.\\n\\n2" gets other tokens than in pre-training. Here tensors are
dequantised with the gguf package, and the tokenizer file is rebuilt byte for byte as its authors published it, which
its SHA-256 proves.

The weights are stored as float32: a dequantised Q4_1 value is a 4-bit integer times a float16 scale plus a float16
offset (the embedding: Q8_0). bfloat16 holds a quarter of these values exactly and 3 % of the embedding's, float32
all of them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from coalign.core.errors import ModelError
from coalign.core.extras import require
from coalign.core.progress import counted

TOKENIZER_SHA256 = "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c"
"""Of `tokenizer.json` in HuggingFaceTB/SmolLM2-135M-Instruct."""

_CONTROL_TOKEN = 3
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_llama_gguf(
    source: Path, target: Path, *, tokenizer_sha256: str | None = TOKENIZER_SHA256
) -> None:
    """Write `source`, a Llama-architecture GGUF with a byte-level BPE tokenizer and tied embeddings, to `target`.

    Args:
        source: the GGUF file.
        target: folder to create: config, generation config, `model.safetensors` (float32), tokenizer, chat template.
        tokenizer_sha256: what `tokenizer.json` must hash to; None does not check.

    Raises:
        MissingExtraError: the gguf package is not installed.
        ModelError: the file is of another architecture, or the rebuilt tokenizer is not the published one.
    """
    gguf = require("gguf", "gguf")
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama" or fields["tokenizer.ggml.model"] != "gpt2":
        raise ModelError(
            f"{source} holds a {fields['general.architecture']} model with a {fields['tokenizer.ggml.model']} "
            "tokenizer; only Llama with byte-level BPE can be converted."
        )
    target.mkdir(parents=True)
    _write_tokenizer(fields, target, tokenizer_sha256)
    _write_weights(reader, fields, target)


def _write_weights(reader: Any, fields: dict[str, Any], target: Path) -> None:
    import numpy as np
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import save_file
    from transformers import GenerationConfig, LlamaConfig

    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 12),  # stored as float32
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        dtype="float32",
    )
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in counted(reader.tensors, "Unpacking", "tensor", len(reader.tensors)):
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            values = _unpermute(values, heads[kind])
        weights[_name(tensor.name)] = torch.from_numpy(np.array(values, order="C"))
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
    generation = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    GenerationConfig(**generation, pad_token_id=config.pad_token_id).save_pretrained(target)


def _name(gguf_name: str) -> str:
    parts = gguf_name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.weight"
    return {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[parts[0]]


def _unpermute(weight: Any, heads: int) -> Any:
    """From GGUF's rotary layout (pairs interleaved) to Transformers' (halves), by head. [heads * d, hidden]"""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def interleave(weight: Any, heads: int) -> Any:
    """From Transformers' rotary layout (halves) to GGUF's (pairs interleaved), by head.

    Args:
        weight: [heads * d, columns], or a bias [heads * d].
    """
    rows, *rest = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(weight.shape)


def _write_tokenizer(fields: dict[str, Any], target: Path, sha256: str | None) -> None:
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    data = json.dumps(_tokenizer(fields, tokens), indent=2, ensure_ascii=False).encode()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError("The tokenizer rebuilt from the GGUF file is not the published one.")
    (target / "tokenizer.json").write_bytes(data)

    def token(kind: str) -> str:
        return tokens[fields[f"tokenizer.ggml.{kind}_token_id"]]

    settings = {
        # the published class, GPT2Tokenizer, makes Transformers 5 ignore the digit rule of tokenizer.json
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (target / "chat_template.jinja").write_text(fields["tokenizer.chat_template"], encoding="utf-8")


def _tokenizer(fields: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    types = fields["tokenizer.ggml.token_type"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": content, **flags}
            for number, (content, kind) in enumerate(zip(tokens, types, strict=True))
            if kind == _CONTROL_TOKEN
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {content: number for number, content in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }
