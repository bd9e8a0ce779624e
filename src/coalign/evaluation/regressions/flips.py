"""Compatibility of a model update: which answers that were right before are wrong now, and which are mended.

Metrics are means over test items and take plain arrays, one entry an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUADRANTS = ("kept right", "broken", "mended", "kept wrong")
"""What became of an item: right in both, right before only, right now only, wrong in both."""


@dataclass(frozen=True)
class Flips:
    """Flips between two versions' predictions.

    Attributes:
        n: items.
        accuracy_old, accuracy_new: shares that are right.
        nfr: negative flip rate, the share that was right and is wrong now.
        nfr_mc: the share that is wrong now and was answered differently before; a wrong answer that became another
            wrong one counts too, for tasks whose users know the wrong answers of the old version.
        pfr: positive flip rate, the share that was wrong and is right now.
        btc: backward trust compatibility, the share of what was right that still is; None when nothing was.
    """

    n: int
    accuracy_old: float
    accuracy_new: float
    nfr: float
    nfr_mc: float
    pfr: float
    btc: float | None


def flips(old: Sequence[Any], new: Sequence[Any], truth: Sequence[Any]) -> Flips:
    """Flips of predictions against the truth (arXiv 2407.09435, section 3; NFR: Yan et al. 2021).

    Args:
        old, new, truth: [N] labels or normalised texts; two answers are the same when they are equal.

    Raises:
        ValueError: different lengths, or no item.
    """
    if not len(old) == len(new) == len(truth):
        raise ValueError(f"{len(old)} old and {len(new)} new predictions for {len(truth)} items")
    if not len(truth):
        raise ValueError("there are no items, expected at least one")
    was = np.array([one == right for one, right in zip(old, truth, strict=True)])
    now = np.array([one == right for one, right in zip(new, truth, strict=True)])
    changed = np.array([one != other for one, other in zip(old, new, strict=True)])
    return Flips(
        n=len(truth),
        accuracy_old=float(was.mean()),
        accuracy_new=float(now.mean()),
        nfr=float((was & ~now).mean()),
        nfr_mc=float((~now & changed).mean()),
        pfr=float((~was & now).mean()),
        btc=float((was & now).sum() / was.sum()) if was.any() else None,
    )


def quadrant(was_right: bool, is_right: bool) -> str:
    """The item's entry of `QUADRANTS`."""
    return QUADRANTS[(0 if is_right else 1) if was_right else (2 if is_right else 3)]


@dataclass(frozen=True)
class SmoothFlips:
    """Flips of a score per item (ROUGE, a reward): how many items gained or lost, and by how much.

    Attributes:
        n: items.
        score_old, score_new: mean scores.
        nfr, pfr: shares whose score fell, or rose.
        gain, loss: mean rise of those that rose and mean fall of those that fell, both at least 0; 0 without any.
    """

    n: int
    score_old: float
    score_new: float
    nfr: float
    pfr: float
    gain: float
    loss: float


def smooth_flips(old: Sequence[float], new: Sequence[float], *, margin: float = 0.0) -> SmoothFlips:
    """Flips of scores (arXiv 2407.09435, section 3.2).

    Args:
        old, new: [N] score of each item under both versions; higher is better.
        margin: differences up to this size count as none. Around zero they are mostly noise.

    Raises:
        ValueError: different lengths, no item, scores that are not finite, or a negative margin.
    """
    before, after = _scores(old), _scores(new)
    if before.shape != after.shape:
        raise ValueError(f"{len(before)} old and {len(after)} new scores")
    if margin < 0:
        raise ValueError(f"margin is {margin}, expected at least 0")
    difference = after - before
    rose, fell = difference > margin, difference < -margin
    return SmoothFlips(
        n=len(before),
        score_old=float(before.mean()),
        score_new=float(after.mean()),
        nfr=float(fell.mean()),
        pfr=float(rose.mean()),
        gain=float(difference[rose].mean()) if rose.any() else 0.0,
        loss=float(-difference[fell].mean()) if fell.any() else 0.0,
    )


def _scores(values: Sequence[float]) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if not data.size or not np.isfinite(data).all():
        raise ValueError("expected one or more finite scores")
    return data
