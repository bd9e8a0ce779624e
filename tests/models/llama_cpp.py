"""Tiny models of the families that GGUF files hold, with tokenizers that split text as theirs do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from coalign.models.files.llama_cpp.tokens import PRE_TOKENIZERS
from tests.data.tokenizers import CHATML, SPECIAL, byte_tokenizer
from tests.models.tiny import make_model

TEXT = "the sky is blue, it's 12345 o'clock!\n\n  Well, I'd say: hé 日本"
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_HEADS = {"head_dim": 256, "query_pre_attn_scalar": 256}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "gpt-2", {}),
    "smollm": ("llama_tied", "smollm", {}),
    "llama2": ("llama", "spaced", {}),
    "mistral": ("mistral", "metaspace", {"sliding_window": None, "head_dim": 16}),
    "nemo": ("mistral", "tekken", {"sliding_window": None}),
    "qwen2": ("qwen2", "qwen2", {}),
    "qwen3": ("qwen3", "qwen2", {"head_dim": 128}),
    "gemma2": ("gemma2", "gemma", _HEADS),
    "gemma3": ("gemma3", "gemma", {**_HEADS, "num_hidden_layers": 6}),
}
"""Name to (architecture of `tiny`, tokenizer, further settings); Transformers reads all of these back."""


def save(folder: Path, architecture: str, tokenizer: str, settings: dict[str, Any]) -> Path:
    """A model with three rows more than its tokenizer has tokens, whose norms and biases are not the usual ones."""
    words = make_tokenizer(tokenizer)
    ids = {"eos_token_id": words.eos_token_id, "bos_token_id": words.bos_token_id, "pad_token_id": None}
    model: Any = make_model(architecture, vocab_size=len(words) + 3, **ids, **settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for one in model.parameters():
            if one.ndim == 1:
                one.add_(torch.randn_like(one) * 0.2)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def make_tokenizer(kind: str) -> hf.PreTrainedTokenizerFast:
    """By the name of llama.cpp's pre-tokenizer, or `gemma`, `metaspace`, `spaced` for SentencePiece's BPE."""
    if kind in ("gemma", "metaspace", "spaced"):
        return _sentencepiece(kind)
    found = json.loads(byte_tokenizer(adds_bos=kind == "llama-bpe").backend_tokenizer.to_str())
    (rules, whole) = next(key for key, name in PRE_TOKENIZERS.items() if name == kind)
    steps: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": one}, "behavior": "Isolated", "invert": False}
        for one in rules
        if "\\p" in one
    ]
    digits = [{"type": "Digits", "individual_digits": True}] if kind == "smollm" else []
    found["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [*digits, *steps, {**_BYTES, "use_regex": not steps}],
    }
    found["model"]["ignore_merges"] = whole
    found["normalizer"] = {"type": "NFC"} if kind == "qwen2" else None
    return wrapped(found)


def wrapped(found: dict[str, Any]) -> hf.PreTrainedTokenizerFast:
    inner = Tokenizer.from_str(json.dumps(found))
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", additional_special_tokens=SPECIAL[2:]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def _sentencepiece(kind: str) -> hf.PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    if kind == "gemma":
        inner.normalizer = replace
        inner.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    elif kind == "spaced":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", "<start>", "<eot>"]
    data = [f"<0x{one:02X}>" for one in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special + data, show_progress=False)
    inner.train_from_iterator([f"▁{word}" for word in TEXT.split()] * 4, trainer)
    found = json.loads(inner.to_str())
    found["added_tokens"] = [one for one in found["added_tokens"] if one["content"] in special]
    inner = Tokenizer.from_str(json.dumps(found))
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=special[3:],
    )  # fmt: skip
    tokenizer.chat_template = CHATML
    return tokenizer
