"""Retrieval: how well queries find their matches (R@k, Rank-k, mAP, median rank), and passages that share words with a
query, by BM25 (Robertson and Zaragoza 2009) over `bm25s`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coalign.core.extras import require
from coalign.measures.texts.text_metrics import rouge_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


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

    def scores(self, query: str) -> NDArray[Any]:
        """[passages] score of each for a query; 0 where they share no word."""
        words = [one for one in rouge_words(query) if one in self._known]
        if not words:
            return np.zeros(self._index.scores["num_docs"])
        return self._index.get_scores(words) * self._factor

    def top(self, query: str, k: int) -> list[int]:
        """Places of the `k` passages with the highest scores, best first; of equal ones the first. Those without a
        common word are left out.
        """
        scores = self.scores(query)
        return [int(one) for one in np.argsort(-scores, kind="stable")[:k] if scores[one] > 0]


Ties = Literal["pessimistic", "expected"]
"""Of equal scores: `pessimistic` ranks what is no match first, `expected` takes the mean over all their orders."""


@dataclass(frozen=True)
class RetrievalFigures:
    """How queries find their matches in a gallery.

    Attributes:
        recall: share of the queries with a match among the first k, by k. Rank-k of person search is the same.
        median_rank: of the best match, 1 is the first.
        mean_average_precision: over the queries, all their matches counted.
        queries: those that have a match.
        unmatched: queries without one, which count nowhere.
    """

    recall: dict[int, float]
    median_rank: float
    mean_average_precision: float
    queries: int
    unmatched: int = 0


def retrieval_figures(
    scores: NDArray[Any],
    positives: NDArray[np.bool_] | None = None,
    *,
    ks: Sequence[int] = (1, 5, 10),
    ties: Ties = "pessimistic",
) -> RetrievalFigures:
    """R@k (Rank-k), median rank and mAP of queries over a gallery.

    Several matches a query: recall counts any of them. Equal scores have no order, so the rule for them is stated: under
    `pessimistic` every non-match of an equal score stands before the matches; under `expected` recall and average
    precision are means over all orders of equal scores (for average precision McSherry and Najork 2008), and the rank is
    the mean rank of the best match.

    Args:
        scores: [Q, G] higher is better; give the transposed matrix for the other direction. NaN is refused.
        positives: [Q, G] True for matches; None: query i matches entry i alone.

    Raises:
        ValueError: shapes that do not fit, a score that is not a number, or no query with a match.
    """
    scores, positives = _checked(scores, positives)
    matched = positives.any(1)
    if not matched.any():
        raise ValueError("no query has a match in the gallery, expected at least one")
    columns: list[list[float]] = []
    for row in np.flatnonzero(matched):
        better, equal, hits = _best_match(scores[row], positives[row])
        found = [_found_by(k, better, equal, hits, ties) for k in ks]
        rank = _rank(better, equal, hits, ties)
        if positives[row].sum() > 1:
            precision = average_precision(scores[row], positives[row], ties=ties)
        else:
            ranks = [rank] if ties == "pessimistic" else range(better + 1, better + equal + 2)
            precision = sum(1 / one for one in ranks) / len(ranks)
        columns.append([*found, rank, precision])
    table = np.asarray(columns)
    recall = {k: float(table[:, place].mean()) for place, k in enumerate(ks)}
    median, mean = float(np.median(table[:, -2])), float(table[:, -1].mean())
    return RetrievalFigures(recall, median, mean, len(table), int((~matched).sum()))


def match_ranks(
    scores: NDArray[Any], positives: NDArray[np.bool_] | None = None, *, ties: Ties = "pessimistic"
) -> NDArray[np.float64]:
    """[Q] rank of each query's best match, 1 is the first; NaN for a query without one. One row is in work at a time.

    Args:
        scores, positives, ties: as of `retrieval_figures`; its recall is the share of ranks up to k under `pessimistic`.

    Raises:
        ValueError: as `retrieval_figures`, but for queries without a match.
    """
    scores, positives = _checked(scores, positives)
    ranks = np.full(len(scores), np.nan)
    for row in np.flatnonzero(positives.any(1)):
        better, equal, hits = _best_match(scores[row], positives[row])
        ranks[row] = _rank(better, equal, hits, ties)
    return ranks


def average_precision(
    scores: NDArray[Any], positives: NDArray[np.bool_], *, ties: Ties = "pessimistic"
) -> float:
    """Mean over the matches of the precision at their ranks; NaN without a match.

    Args:
        scores: [G] higher is better.
        positives: [G] True for matches.
        ties: as of `retrieval_figures`.
    """
    relevant = int(positives.sum())
    if not relevant:
        return float("nan")
    if ties == "pessimistic":
        order = np.lexsort((positives, -np.asarray(scores, dtype=np.float64)))
        ranks = np.flatnonzero(positives[order]) + 1
        return float((np.arange(1, relevant + 1) / ranks).mean())
    _, inverse, sizes = np.unique(
        -np.asarray(scores, dtype=np.float64), return_inverse=True, return_counts=True
    )
    matches = np.bincount(inverse.ravel(), weights=positives, minlength=len(sizes))
    total, before, hits = 0.0, 0, 0.0
    for size, inside in zip(sizes.tolist(), matches.tolist(), strict=True):
        if inside:
            places = np.arange(size)
            # of those of the group that stand before a match, (inside - 1) / (size - 1) are matches on average
            earlier = places * ((inside - 1) / (size - 1)) if size > 1 else places * 0.0
            total += float((inside / size * (hits + earlier + 1) / (before + places + 1)).sum())
        before, hits = before + size, hits + inside
    return total / relevant


def equal_texts(texts: Sequence[str]) -> NDArray[np.bool_] | None:
    """[N, N] True where two texts are equal but for case and spaces; None where all differ.

    Equal captions of different pictures cannot be told apart: with the diagonal as matches, finding the one for the other
    counts as a miss. `positives_of` counts it as found.
    """
    groups = _numbered(texts)
    return groups[:, None] == groups[None, :] if len(set(groups.tolist())) < len(groups) else None


def positives_of(
    images: Sequence[Hashable], texts: Sequence[str], text_images: Sequence[Hashable]
) -> NDArray[np.bool_]:
    """[images, texts] True where a text belongs to an image, or equals one that does.

    Args:
        images: what each picture is known by; pictures of one object or person share it.
        texts: captions, several an image where there are.
        text_images: what each caption's picture is known by.
    """
    numbers = {one: place for place, one in enumerate(dict.fromkeys([*images, *text_images]))}
    rows = np.asarray([numbers[one] for one in images])
    columns = np.asarray([numbers[one] for one in text_images])
    groups = _numbered(texts)
    has = np.zeros(
        (len(numbers), int(groups.max(initial=-1)) + 1), dtype=bool
    )  # of an image, any of equal texts
    has[columns, groups] = True
    return has[np.ix_(rows, groups)]


def warn_of_equal_texts(texts: Sequence[str]) -> int:
    """How many texts equal another one; told in the log where there are any."""
    groups = _numbered(texts)
    count = int((np.bincount(groups)[groups] > 1).sum()) if len(groups) else 0
    if count:
        logger.warning(
            "%d of %d texts are equal to another one: each counts as a match of the other's picture.",
            count,
            len(groups),
        )
    return count


def _numbered(texts: Sequence[str]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    plain = [" ".join(one.split()).casefold() for one in texts]
    return np.asarray([numbers.setdefault(one, len(numbers)) for one in plain], dtype=np.int64)


def _checked(
    scores: NDArray[Any], positives: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores have the shape {scores.shape}, expected [queries, gallery]")
    if positives is None:
        if scores.shape[0] > scores.shape[1]:
            raise ValueError(
                f"{scores.shape[0]} queries over {scores.shape[1]} entries, expected a match for each"
            )
        positives = np.eye(*scores.shape, dtype=bool)
    positives = np.asarray(positives, dtype=bool)
    if positives.shape != scores.shape:
        raise ValueError(
            f"positives have the shape {positives.shape}, expected that of the scores, {scores.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError("a score is not a number, expected numbers")
    return scores, positives


def _best_match(scores: NDArray[Any], positives: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Entries above the best match, non-matches that equal it, and matches that equal it."""
    best = scores[positives].max()
    level = scores == best
    hits = int((level & positives).sum())
    return int((scores > best).sum()), int(level.sum()) - hits, hits


def _rank(better: int, equal: int, hits: int, ties: Ties) -> float:
    """Of the best match: behind all that equals it, or the mean over all orders of these."""
    return better + 1 + (equal if ties == "pessimistic" else equal / (hits + 1))


def _found_by(k: int, better: int, equal: int, hits: int, ties: Ties) -> float:
    """Whether, or how probably, the best match is among the first k."""
    if ties == "pessimistic":
        return float(better + equal < k)
    places = k - better
    if places <= 0:
        return 0.0
    return 1.0 if places > equal else 1 - math.comb(equal, places) / math.comb(equal + hits, places)
