"""How much a text repeats texts before it: ROUGE-L, against a pool that grows."""

from __future__ import annotations

from collections.abc import Iterable

from coalign.measures.texts.text_metrics import rouge_words

_FIRST_SIGN, _SIGNS = 0xE000, 0x10FFFF - 0xE000  # beyond the surrogates


class NoveltyPool:
    """Texts that new ones are to be unlike.

    Each word becomes one character, so that the longest common subsequence of words is one of characters, and
    `rapidfuzz` compares a text with the whole pool in one call. A million different words have signs of their own.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._signs: dict[str, str] = {}
        self._texts = [self._written(text) for text in texts]

    def add(self, text: str) -> None:
        """Put a text into the pool."""
        self._texts.append(self._written(text))

    def overlap(self, text: str, *, at_least: float = 0.0) -> float:
        """The largest ROUGE-L F of the text with one of the pool: with the longest common subsequence of L words of n
        and m, 2 L / (n + m) (Lin 2004). 0 for an empty pool, and for a text without words.

        Args:
            at_least: an overlap below it is given as 0, which is faster.
        """
        from rapidfuzz import process
        from rapidfuzz.distance import Indel

        written = self._written(text)
        if not written:
            return 0.0
        # insertions and deletions alone: n + m - 2 L of n + m, so the similarity is ROUGE-L's F
        best = process.extractOne(
            written, self._texts, scorer=Indel.normalized_similarity, score_cutoff=at_least
        )
        return float(best[1]) if best else 0.0

    def _written(self, text: str) -> str:
        signs = self._signs
        return "".join(
            signs.setdefault(word, chr(_FIRST_SIGN + len(signs) % _SIGNS)) for word in rouge_words(text)
        )
