"""Passages that share words with a query, by BM25 (Robertson and Zaragoza 2009) over `bm25s`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coalign.core.extras import require
from coalign.measures.texts.text_metrics import rouge_words

if TYPE_CHECKING:
    import numpy as np


class BM25:
    """An index of passages.

    With f the times that a word w is in a passage of |d| words, n the passages that have it, of N in all, and the mean
    length avg: score(q, d) = sum over w in q of idf(w) f (k1 + 1) / (f + k1 (1 - b + b |d| / avg)), and
    idf = ln(1 + (N - n + 0.5) / (n + 0.5)). Words are those of ROUGE (`rouge_words`); a word that the query has twice
    counts twice.

    Args:
        passages: texts, at least one with a word.
        k1: how soon a repeated word counts no more.
        b: how much long passages are discounted.

    Raises:
        MissingExtraError: bm25s is not installed.
        ValueError: no passage has a word.
    """

    def __init__(self, passages: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> None:
        tokens = [rouge_words(one) for one in passages]
        if not any(tokens):
            raise ValueError("no passage has a word, expected at least one")
        module: Any = require("bm25s", "retrieval")
        # Lucene's form leaves the factor k1 + 1 out, which changes no order
        self._index = module.BM25(method="lucene", k1=k1, b=b, dtype="float64")
        self._index.index(tokens, show_progress=False)
        self._factor, self._known = k1 + 1, {word for one in tokens for word in one}

    def scores(self, query: str) -> np.ndarray[Any, Any]:
        """[passages] score of each for a query; 0 where they share no word."""
        import numpy as np

        words = [one for one in rouge_words(query) if one in self._known]
        if not words:
            return np.zeros(self._index.scores["num_docs"])
        return self._index.get_scores(words) * self._factor

    def top(self, query: str, k: int) -> list[int]:
        """Places of the `k` passages with the highest scores, best first; of equal ones the first. Those without a
        common word are left out.
        """
        import numpy as np

        scores = self.scores(query)
        return [int(one) for one in np.argsort(-scores, kind="stable")[:k] if scores[one] > 0]
