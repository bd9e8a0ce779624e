"""Where a response ends: end-of-turn tokens, stop texts, and the text of what was sampled."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from coalign.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLACK = 4  # tokens of a window that may add nothing to its text: special ones, parts of a character


def stop_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a response: EOS of generation configuration, model and tokenizer, and the token that the
    chat template puts at the end of the assistant's turn."""
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


class Endings:
    """Finds stop texts in sampled tokens and makes the final texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        # A token holds at least one byte, so a stop text that just ended lies within so many tokens.
        self.window = max((len(one.encode()) for one in stop), default=0) + _SLACK

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
        text = self._decode(ids)
        if before is not None:
            head, whole = (
                self._decode(one, skip_special_tokens=False)
                for one in ([before], [before, *self._plain(ids)])
            )
            text = whole.removeprefix(head) if whole.startswith(head) else text
        places = [text.find(one) for one in self._stop]
        cut = min((place for place in places if place >= 0), default=None)
        return text[:cut], cut is not None

    def _plain(self, ids: list[int]) -> list[int]:
        special = set(self._tokenizer.all_special_ids)
        return [one for one in ids if one not in special]

    def _decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        decode = cast("Any", self._tokenizer.decode)
        return decode(ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
