"""Tokens of a text that grows, without tokenising it from the start each time, and the texts of single tokens.

Tokenising a prompt and all that follows it as a whole is the only way that is right for every tokenizer: the end of
one piece and the start of the next may make one token. Most tokenizers split a text before the space that begins a
word, though, and then never merge across it. Where that holds, only the words since the last such place are looked
up. It is tried out on each tokenizer, on each prompt, and at the end of every text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

WORDS = re.compile(r"(?<=\S)(?= \S)")
"""Between a word and the single space before the next one."""
HALF = "\ufffd"
"""What a decoder writes for a part of a character."""
CONTEXT = 4
"""Tokens before a token on which its text may depend."""
CACHED_WORDS = 50_000
_SAMPLE = (
    "It's 12:30, isn't it? In 2024 we've paid $1,250.75 (about 3 %) to \"A. B. Smith\" - twice!\n\nNext  line,\ttab. "
    "Grüße aus Köln, naïve café; 東京 and Москва.\n1. one\n2. two <b> x = y + 1; // done ... well...ok"
)


class TextEncoder:
    """Token ids of texts as their tokenizer gives them, no special tokens added (a text holds its own)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, list[int]] = {}
        self.by_words = all(self._splits(text) for text in (_SAMPLE, _SAMPLE.lower()))

    def whole(self, text: str) -> list[int]:
        """The text tokenised from its start."""
        return cast("list[int]", self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def pieces(self, text: str) -> list[int]:
        """The text's words tokenised one by one."""
        ids: list[int] = []
        for word in WORDS.split(text):
            if word not in self._words:
                if len(self._words) >= CACHED_WORDS:
                    self._words.clear()
                self._words[word] = self.whole(word)
            ids += self._words[word]
        return ids

    def _splits(self, text: str) -> bool:
        return self.pieces(text) == self.whole(text)


class GrowingText:
    """Token ids of one prompt and of what follows it."""

    def __init__(self, encoder: TextEncoder, prompt: str) -> None:
        self._encoder = encoder
        self._prompt = prompt
        self._head: list[int] = []
        self._tail = prompt
        places = [one.start() for one in WORDS.finditer(prompt)]
        self._by_words = encoder.by_words
        if self._by_words and places:
            self._head, self._tail = encoder.whole(prompt[: places[-1]]), prompt[places[-1] :]
            for after in (" it", "It"):
                whole = encoder.whole(prompt + after)
                self._by_words = self._by_words and self._head + encoder.pieces(self._tail + after) == whole

    def ids(self, text: str) -> list[int]:
        """Token ids of the prompt and `text` after it."""
        if not self._by_words:
            return self._encoder.whole(self._prompt + text)
        return self._head + self._encoder.pieces(self._tail + text)

    def verify(self, text: str) -> bool:
        """Whether `ids` was right for a finished text. If not, the tokenizer is not taken by words any more."""
        if not self._by_words or self.ids(text) == self._encoder.whole(self._prompt + text):
            return True
        self._encoder.by_words = self._by_words = False
        logger.warning(
            "This tokenizer merges words in some texts: from here on texts are tokenised from their start, which is "
            "slower. One text that was made before may differ in the split of a word."
        )
        return False


class TokenTexts:
    """What tokens add to a text, one after the other.

    Args:
        before: the tokens before; the texts of tokens may depend on them.
        special: ids of the special tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int], special: frozenset[int]
    ) -> None:
        self._tokenizer: Any = tokenizer
        self._special = special
        self._known = list(before[-CONTEXT:])
        self._pending: list[int] = []
        self._shown = self._decode(self._known)

    def push(self, token: int) -> str | None:
        """The text of a token; None where it ends inside a character, whose text the token that ends it gets.

        A special token has no text.
        """
        if token in self._special:
            return ""
        self._pending.append(token)
        text = self._decode(self._known + self._pending)
        if text.endswith(HALF):
            return None
        added = (
            text.removeprefix(self._shown) if text.startswith(self._shown) else self._decode(self._pending)
        )
        self._known = (self._known + self._pending)[-CONTEXT:]
        self._pending = []
        self._shown = self._decode(self._known)
        return added

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
