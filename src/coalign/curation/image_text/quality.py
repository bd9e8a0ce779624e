"""What a score of captions is worth: how it orders ranked ones, and how much of it is length and origin."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.measures.agreement import bootstrap_statistic
from coalign.measures.detection import pearson, spearman

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coalign.measures.statistics import Interval

ALIKE = 1
"""Most words by which the captions of a length-matched pair differ."""


@dataclass(frozen=True)
class Picture:
    """The ranked captions of a picture.

    Attributes:
        ranks: [K] 1 is best.
        words: [K] words of each caption.
        scores: name to [K] scores; higher is better.
    """

    ranks: Sequence[float]
    words: Sequence[int]
    scores: dict[str, Sequence[float]]


def count_words(text: str) -> int:
    """Words of a caption, parted by white space."""
    return len(text.split())


def pair_shares(
    pictures: Sequence[Picture], name: str, *, alike: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """([pictures], [pictures]) pairs that a score orders as people do, equal scores counting half, and all strict pairs.

    Args:
        alike: pairs whose captions differ by at most so many words count alone.
    """
    right, total = np.zeros(len(pictures)), np.zeros(len(pictures))
    for place, one in enumerate(pictures):
        ranks, words, scores = (np.asarray(each, float) for each in (one.ranks, one.words, one.scores[name]))
        better, worse = np.nonzero(ranks[:, None] < ranks)
        if alike is not None:
            near = np.abs(words[better] - words[worse]) <= alike
            better, worse = better[near], worse[near]
        gaps = scores[better] - scores[worse]
        right[place], total[place] = (gaps > 0).sum() + 0.5 * (gaps == 0).sum(), len(gaps)
    return right, total


def preference_accuracy(
    pictures: Sequence[Picture], name: str, *, against: str | None = None, alike: int | None = None
) -> Interval | None:
    """Share of the strict pairs that a score orders as people do, with an interval over pictures; None without pairs.

    Args:
        against: another score, whose share is taken off.
        alike: as of `pair_shares`.
    """
    right, total = pair_shares(pictures, name, alike=alike)
    if against is not None:
        right = right - pair_shares(pictures, against, alike=alike)[0]
    if not total.sum():
        return None

    def share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return weights @ right / (weights @ total)

    return bootstrap_statistic(share, len(pictures))


def explained_by_group(values: Sequence[float] | NDArray[Any], groups: Sequence[Any] | NDArray[Any]) -> float:
    """Share of the variance of the values that lies between groups (eta squared); 0 where the values are constant."""
    data = np.asarray(values, float)
    if not len(data):
        return 0.0
    whole = ((data - data.mean()) ** 2).sum()
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(index)
    means = np.bincount(index, weights=data) / counts
    return float((counts * (means - data.mean()) ** 2).sum() / whole) if whole > 0 else 0.0


def shortcuts(
    scores: Sequence[float] | NDArray[Any], words: Any, origins: Sequence[Any] | NDArray[Any]
) -> dict[str, float]:
    """How much of a score is the length of the caption and where it comes from: `length` (rank correlation), `length_linear`
    (Pearson's) and `origin` (share of the variance between origins, where there are two or more).
    """
    found = {"length": spearman(scores, words), "length_linear": pearson(scores, words)}
    if len(np.unique(np.asarray(origins))) > 1:
        found["origin"] = explained_by_group(scores, origins)
    return found


@dataclass(frozen=True)
class ScoreTable:
    """The scores of a corpus, 17 bytes a pair.

    Attributes:
        scores: [n] float64.
        words: [n] words of the captions.
        kept: [n] whether a pair was kept.
        origin_index: [n] rows of `origins`.
        origins: names, "" where none is said.
    """

    scores: NDArray[np.float64]
    words: NDArray[np.int32]
    kept: NDArray[np.bool_]
    origin_index: NDArray[np.int32]
    origins: list[str]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> ScoreTable:
        """Of rows with `score`, `words`, `kept` and `origin`, read one after the other."""
        scores, words, kept, index = array("d"), array("i"), array("b"), array("i")
        origins: dict[str, int] = {}
        for row in rows:
            scores.append(row["score"])
            words.append(row["words"])
            kept.append(row["kept"])
            index.append(origins.setdefault(row["origin"], len(origins)))
        return cls(
            np.array(scores),
            np.array(words, np.int32),
            np.array(kept, np.bool_),
            np.array(index, np.int32),
            [*origins],
        )

    @property
    def shortcuts(self) -> dict[str, float]:
        """As `shortcuts`; empty without scores."""
        if not len(self.scores):
            return {}
        return shortcuts(self.scores, self.words.astype(np.float64), self.origin_index)

    def by_origin(self) -> list[dict[str, Any]]:
        """A row an origin: how many pairs, how many kept, mean score and mean words, best first."""
        table = []
        for place, origin in enumerate(self.origins):
            own = self.origin_index == place
            table.append(
                {
                    "origin": origin or "not said",
                    "pairs": int(own.sum()),
                    "kept": int(self.kept[own].sum()),
                    "score": float(self.scores[own].mean()),
                    "words": float(self.words[own].mean()),
                }
            )
        return sorted(table, key=lambda row: -row["score"])


def quantiles_of(scores: NDArray[np.float64]) -> dict[str, Any]:
    """How many scores there are, mean, standard deviation, and the quantiles at 0, 1, ..., 100 %."""
    if not len(scores):
        return {"n": 0, "mean": None, "deviation": None, "quantiles": []}
    points = np.quantile(scores, np.linspace(0, 1, 101))
    return {
        "n": len(scores),
        "mean": float(scores.mean()),
        "deviation": float(scores.std()),
        "quantiles": points.tolist(),
    }


def threshold_of(stored: dict[str, Any], keep: float) -> float:
    """The score that a share `keep` of the scores behind stored quantiles reaches, between two of them in proportion."""
    return float(np.interp(1 - keep, np.linspace(0, 1, 101), stored["quantiles"]))
