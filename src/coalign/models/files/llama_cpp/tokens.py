"""A tokenizer as llama.cpp reads it: byte-level BPE with the name of its pre-tokenizer, or SentencePiece's BPE by scores.

llama.cpp splits text by rules of its own that the file only names. They are recognised here by the rules of
`tokenizer.json` themselves and not by a list of known models, so that a tokenizer of any model with the same rules is
written, and one with other rules is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ModelError
from coalign.models.files.llama_cpp.families import Field

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _WORDS + r"\p{N}{1,3}" + _REST
_QWEN2 = _WORDS + r"\p{N}" + _REST
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2, _DIGITS = "gpt-2's rule", "single digits"
PRE_TOKENIZERS: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGITS, _GPT2), False): "smollm",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_LLAMA3,), True): "llama-bpe",
    ((_QWEN2,), False): "qwen2",
    ((_TEKKEN,), True): "tekken",
}
"""(Rules that split text, one after the other; whether whole words are looked up before merges) to llama.cpp's name."""

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
_SPACE = "▁"


def described(tokenizer: PreTrainedTokenizerFast, rows: int, name: str) -> Iterator[Field]:
    """What the file says of a tokenizer: vocabulary, merges or scores, special tokens, chat template.

    Args:
        tokenizer: a fast one.
        rows: of the model's embedding; ids without a token are filled up.
        name: of the model, for errors.

    Raises:
        ModelError: llama.cpp would split text otherwise, or the vocabulary is larger than the embedding.
    """
    if not tokenizer.is_fast:
        raise ModelError(f"{name}: its tokenizer has no tokenizer.json, from which a GGUF file is written.")
    found = json.loads(tokenizer.backend_tokenizer.to_str())
    model = found["model"]
    kind = model["type"]
    if kind != "BPE":
        raise ModelError(f"{name}: a tokenizer of the kind {kind} is not written as GGUF, only BPE is.")
    odd = [
        one
        for one in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
        if model.get(one) not in (None, "", 0.0)
    ]
    if odd:
        raise ModelError(f"{name}: llama.cpp has no BPE with {odd[0]}, so it would split text otherwise.")
    tokens, types = _vocabulary(tokenizer, found, rows, name)
    if model.get("byte_fallback"):
        yield "tokenizer_model", "llama"
        yield "tokenizer_pre", "default"
        yield "token_list", tokens
        yield "token_scores", _scores(model, tokens, types, name)
        yield "add_space_prefix", _begins_with_space(found, name)
    else:
        yield "tokenizer_model", "gpt2"
        yield "tokenizer_pre", _pre_tokenizer(found, name)
        yield "token_list", tokens
        yield "token_merges", [" ".join(pair) for pair in _merges(model)]
    yield "token_types", types
    yield from _special(tokenizer, name)


def _vocabulary(tokenizer: Any, found: dict[str, Any], rows: int, name: str) -> tuple[list[str], list[int]]:
    named = {number: token for token, number in tokenizer.get_vocab().items()}
    if named and max(named) >= rows:
        raise ModelError(f"{name}: {max(named) + 1} tokens, but an embedding of {rows} rows.")
    added = {one["id"]: one["special"] for one in found["added_tokens"]}
    unknown = found["model"].get("unk_token")

    def kind(number: int) -> int:
        if number not in named:
            return _UNUSED
        if named[number] == unknown and found["model"].get("byte_fallback"):
            return _UNKNOWN
        if number in added:
            return _CONTROL if added[number] else _USER
        text = named[number]
        byte = found["model"].get("byte_fallback") and len(text) == 6 and text.startswith("<0x")
        return _BYTE if byte else _NORMAL

    tokens = [named.get(number, f"[PAD{number}]") for number in range(rows)]
    return tokens, [kind(number) for number in range(rows)]


def _merges(model: dict[str, Any]) -> list[list[str]]:
    return [one.split(" ") if isinstance(one, str) else one for one in model["merges"]]


def _scores(model: dict[str, Any], tokens: list[str], types: list[int], name: str) -> list[float]:
    """SentencePiece's scores: the earlier a merge, the higher; its tokens are joined wherever they meet."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(_merges(model)):
        ranks.setdefault(left + right, rank)
    last = float(len(ranks) + 1)
    for token, kind in zip(tokens, types, strict=True):
        if kind == _NORMAL and len(token) > 1 and token not in ranks:
            raise ModelError(
                f"{name}: no merge makes the token {token!r}, but llama.cpp would make it by joining its parts."
            )
    return [
        -float(ranks[token]) if kind == _NORMAL and token in ranks else -last if kind == _NORMAL else 0.0
        for token, kind in zip(tokens, types, strict=True)
    ]


def _begins_with_space(found: dict[str, Any], name: str) -> bool:
    """Whether a space is put before a text; every other space becomes the sign for one."""
    steps = _steps(found["normalizer"], "normalizers")
    kept = [one for one in steps if one != {"type": "Prepend", "prepend": _SPACE}]
    prepended = len(kept) < len(steps)
    replaces = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    before = _steps(found["pre_tokenizer"], "pretokenizers")
    if kept == replaces and before in ([], [split]):  # after the replacement no space is left to split at
        return prepended
    match before:
        case [{"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}] if (
            not steps
        ):
            if scheme in ("first", "never"):
                return scheme == "first"
        case _:
            pass
    raise ModelError(f"{name}: llama.cpp would treat spaces otherwise than this tokenizer's rules.")


def _pre_tokenizer(found: dict[str, Any], name: str) -> str:
    normalizers = [one["type"] for one in _steps(found["normalizer"], "normalizers")]
    rules = [_rule(one) for one in _steps(found["pre_tokenizer"], "pretokenizers")]
    key = tuple(one for one in rules if one), bool(found["model"].get("ignore_merges"))
    if None in rules or normalizers not in ([], ["NFC"]) or key not in PRE_TOKENIZERS:
        raise ModelError(
            f"{name}: llama.cpp knows no rule that splits text as this tokenizer does, so a GGUF file would get other tokens.",
            hint="Export it as safetensors, and try llama.cpp's convert_hf_to_gguf.py on the folder.",
        )
    return PRE_TOKENIZERS[key]


def _rule(step: dict[str, Any]) -> str | None:
    """What a step of a pre-tokenizer splits by; empty for one that only writes bytes as characters, None for an unknown one."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool() as splits}:
            return _GPT2 if splits else ""
        case {"type": "Digits", "individual_digits": True}:
            return _DIGITS
        case {
            "type": "Split",
            "pattern": {"Regex": str() as pattern},
            "behavior": "Isolated",
            "invert": False,
        }:
            return pattern
        case _:
            return None


def _steps(part: dict[str, Any] | None, inside: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return part[inside] if part["type"] == "Sequence" else [part]


def _special(tokenizer: Any, name: str) -> Iterator[Field]:
    for kind, number in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("unk", tokenizer.unk_token_id),
        ("pad", tokenizer.pad_token_id),
    ):
        if number is not None:
            yield f"{kind}_token_id", number
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    start, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    forms = {
        (begins, ends): start * begins + bare + end * ends
        for begins in (False, True)
        for ends in (False, True)
    }
    written = next((form for form, ids in forms.items() if ids == whole), None)
    if written is None:
        raise ModelError(
            f"{name}: its tokenizer puts other tokens around a text than one to begin and one to end."
        )
    yield "add_bos_token", written[0]
    yield "add_eos_token", written[1]
    template = tokenizer.chat_template
    if isinstance(template, dict):
        yield "chat_template", [{"name": one, "template": str(text)} for one, text in template.items()]
    elif template:
        yield "chat_template", str(template)
