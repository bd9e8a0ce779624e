"""Where a response ends: end-of-turn tokens, stop texts, and the text of what was sampled, whole or as it grows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from coalign.core.errors import ModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

_HALF = "\ufffd"  # what a decoder writes for part of a character
_SLACK = 4  # tokens of a window that may add nothing to its text: special ones, parts of a character


def stop_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a response: EOS of generation configuration, model and tokenizer, and the token that the
    chat template puts at the end of the assistant's turn.
    """
    from coalign.data.frame import EncodingError, Frame

    ids: set[int] = set()
    for holder in (getattr(model, "generation_config", None), getattr(model, "config", None), tokenizer):
        eos = getattr(holder, "eos_token_id", None)
        ids.update(eos if isinstance(eos, list | tuple) else [] if eos is None else [eos])
    if tokenizer.chat_template:
        frame = Frame(tokenizer)
        with contextlib.suppress(EncodingError, ModelError):
            ids.update(frame.ids(frame.turn_end[1])[-1:])
    return sorted(ids)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that are no text: those that decoding skips, also those that `all_special_ids` does not list."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset((*tokenizer.all_special_ids, *(place for place, one in added.items() if one.special)))


class Endings:
    """Finds stop texts in sampled tokens and makes the final texts. Special tokens are no text, wherever they stand."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        # A token holds at least one byte, so a stop text that just ended lies within so many tokens.
        self.window = max((len(one.encode()) for one in stop), default=0) + _SLACK
        self._alternatives: dict[int, str] = {}
        self._special = special_ids(tokenizer)
        anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
        self._anchor = cast("list[int]", anchor)[-1] if anchor else None

    def has_stop(self, tails: list[list[int]]) -> list[bool]:
        """Whether each text, given its last `window` tokens, holds a stop text."""
        texts = self._tokenizer.batch_decode(
            tails, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [any(one in text for one in self._stop) for text in texts]

    def text(self, ids: list[int], before: int | None = None) -> tuple[str, bool]:
        """The text of a response, cut before the first stop text, and whether one was found.

        Args:
            ids: sampled tokens.
            before: the last token of the prompt when the text goes on from it: tokenizers that write the space
                before a word into its token drop it at the start of a text, where here it belongs.
        """
        text = self._after(before, ids)
        places = [text.find(one) for one in self._stop]
        cut = min((place for place in places if place >= 0), default=None)
        return text[:cut], cut is not None

    def settled(self, ids: list[int], before: int | None = None) -> str:
        """The start of `text` that no further token changes: without half a character or the start of a stop text."""
        text = self._after(before, ids).rstrip(_HALF)
        held = (len(one) - 1 for one in self._stop)
        for size in range(min(max(held, default=0), len(text)), 0, -1):
            if any(one.startswith(text[-size:]) for one in self._stop):
                return text[:-size]
        return text

    def tokens(self, ids: list[int], before: int | None = None) -> list[str]:
        """What each token adds to the text (see `coalign.models.types.Generation.tokens`)."""
        texts, pending = [], [] if before is None else [before]
        shown = self._decode(pending, skip_special_tokens=False)
        for one in ids:
            if one in self._special:
                texts.append(self._decode([one], skip_special_tokens=False))
                continue
            whole = self._decode([*pending, one], skip_special_tokens=False)
            if whole.endswith(_HALF) or whole == shown:  # the token that completes the character gets it
                pending.append(one)
                texts.append("")
                continue
            texts.append(whole.removeprefix(shown) if whole.startswith(shown) else self._decode([one]))
            pending = [one]
            shown = self._decode(pending, skip_special_tokens=False)
        return texts

    def alternative(self, token: int) -> str:
        """The text of a token by itself, with the space that it brings; a special token as it is written."""
        if token not in self._alternatives:
            self._alternatives[token] = self._alone(token)
        return self._alternatives[token]

    def _alone(self, token: int) -> str:
        if token in self._special:
            return self._decode([token], skip_special_tokens=False)
        return self.tokens([token], before=self._anchor)[0] or self._decode([token])

    def _after(self, before: int | None, ids: list[int]) -> str:
        text = self._decode(ids)
        if before is None:
            return text
        head, whole = (
            self._decode(one, skip_special_tokens=False) for one in ([before], [before, *self._plain(ids)])
        )
        return whole.removeprefix(head) if whole.startswith(head) else text

    def _plain(self, ids: list[int]) -> list[int]:
        return [one for one in ids if one not in self._special]

    def _decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        decode = cast("Any", self._tokenizer.decode)
        return decode(ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
