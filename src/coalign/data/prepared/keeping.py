"""What a tokenizer is made of, and what follows from it."""

from __future__ import annotations

import json
from typing import Any

_KEEPING = frozenset(("ByteLevel", "Digits", "Punctuation", "Split"))
"""Pre-tokenizers that cut a text and change nothing of it, `ByteLevel` with `add_prefix_space` and any with the behavior
`Removed` aside.
"""


def keeps_texts(tokenizer: Any) -> bool:
    """Whether decoding the tokens of any texts, one after the other, gives these texts back: proved from the parts of a
    byte-level tokenizer that changes no text, has a token for every byte, and writes each added token as it was found.
    """
    from tokenizers import models, pre_tokenizers

    if not is_plain(tokenizer):
        return False
    backend = tokenizer.backend_tokenizer
    model = backend.model
    if backend.normalizer is not None or not isinstance(model, models.BPE):
        return False
    if model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    decoder, cutting = _described(backend.decoder), _described(backend.pre_tokenizer)
    cutters = cutting.get("pretokenizers", [cutting])
    if decoder.get("type") != "ByteLevel" or not any(one.get("type") == "ByteLevel" for one in cutters):
        return False
    if any(
        one.get("type") not in _KEEPING or one.get("add_prefix_space") or one.get("behavior") == "Removed"
        for one in cutters
    ):
        return False
    if any(backend.token_to_id(byte) is None for byte in pre_tokenizers.ByteLevel.alphabet()):
        return False
    added = backend.get_added_tokens_decoder()
    return not any(one.lstrip or one.rstrip for one in added.values()) and all(
        backend.decode([number], skip_special_tokens=False) == one.content for number, one in added.items()
    )


def is_plain(tokenizer: Any) -> bool:
    """Whether a tokenizer does what its Rust part does and no more."""
    from transformers import PreTrainedTokenizerFast

    own = type(tokenizer)
    return isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(own, name) is getattr(PreTrainedTokenizerFast, name)
        for name in ("__call__", "_encode_plus", "_decode")
    )


def _described(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as tokenizer.json has it."""
    return {} if part is None else json.loads(part.__getstate__())
