"""What a tokenizer is made of, and what follows from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

_KEEPING = frozenset(("ByteLevel", "Digits", "Punctuation", "Split"))
"""Pre-tokenizers that cut a text and change nothing of it, `ByteLevel` with `add_prefix_space` and any with the behavior
`Removed` aside.
"""


def lost_characters(tokenizer: Any) -> re.Pattern[str] | None:
    """The characters that a text must not have for it to come back from its tokens, alone or among those of other texts:
    proved from the parts of a byte-level tokenizer that changes no text and writes each added token as it was found. Such a
    tokenizer loses the bytes for which it has no token (SmolLM2 has none for 21, most of which no text has). None: there is
    no such proof.
    """
    from tokenizers import models

    if not is_plain(tokenizer):
        return None
    backend = tokenizer.backend_tokenizer
    model = backend.model
    if backend.normalizer is not None or not isinstance(model, models.BPE):
        return None
    if model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    decoder, cutting = _described(backend.decoder), _described(backend.pre_tokenizer)
    cutters = cutting.get("pretokenizers", [cutting])
    if decoder.get("type") != "ByteLevel" or not any(one.get("type") == "ByteLevel" for one in cutters):
        return None
    if any(
        one.get("type") not in _KEEPING or one.get("add_prefix_space") or one.get("behavior") == "Removed"
        for one in cutters
    ):
        return None
    added = backend.get_added_tokens_decoder()
    if any(one.lstrip or one.rstrip for one in added.values()) or any(
        backend.decode([number], skip_special_tokens=False) != one.content for number, one in added.items()
    ):
        return None
    return _characters([byte for byte, letter in _letters() if backend.token_to_id(letter) is None])


def _letters() -> list[tuple[int, str]]:
    """Each byte and the letter that stands for it in the tokens of byte-level tokenizers (GPT-2)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    return [(byte, chr(byte)) for byte in shown] + [(byte, chr(0x100 + n)) for n, byte in enumerate(hidden)]


def _characters(missing: Sequence[int]) -> re.Pattern[str] | None:
    """The characters that UTF-8 writes with one of these bytes; None where that is any byte after a first one."""
    ranges: list[tuple[int, int]] = []
    for byte in missing:
        if byte < 0x80:
            ranges.append((byte, byte))
        elif byte < 0xC0:
            return None
        elif 0xC2 <= byte <= 0xF4:  # no text has others
            bits, rest = (0x1F, 6) if byte < 0xE0 else (0x0F, 12) if byte < 0xF0 else (0x07, 18)
            first = (byte & bits) << rest
            ranges.append((first, min(first + (1 << rest) - 1, 0x10FFFF)))
    if not ranges:
        return re.compile(r"(?!)")
    return re.compile(f"[{''.join(f'{re.escape(chr(low))}-{re.escape(chr(high))}' for low, high in ranges)}]")


def identity(tokenizer: Any) -> str:
    """What the tokens of a text depend on, of a tokenizer that `is_plain`."""
    parts = [
        type(tokenizer).__name__,
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        sorted((name, str(one)) for name, one in tokenizer.special_tokens_map.items()),
        tokenizer.split_special_tokens,
    ]
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


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
