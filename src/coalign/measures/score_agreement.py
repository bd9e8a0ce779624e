"""How well scores agree with what people say: SRCC, KRCC, and PLCC after a logistic fit, as image quality is assessed.
NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from coalign.measures.detection import pearson, spearman

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float64]"
Values: TypeAlias = "Sequence[float] | Array"
_ROUNDS = 2000
_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class ScoreAgreement:
    """Agreement of scores with people's.

    Attributes:
        srcc: Spearman's rank correlation, equal values sharing the mean of their ranks.
        krcc: Kendall's tau-b.
        plcc: Pearson's correlation after `fitted_logistic`; the raw one where `fitted` is false.
        plcc_raw: Pearson's correlation of the scores as they are.
        rmse: root mean square of the raw differences.
        fitted: whether the logistic curve could be fitted.
    """

    srcc: float
    krcc: float
    plcc: float
    plcc_raw: float
    rmse: float
    fitted: bool


def score_agreement(predicted: Values, human: Values) -> ScoreAgreement:
    """All figures. Correlations are 0 where one side is constant.

    Args:
        predicted: [n] scores.
        human: [n] what people say (means over them).

    Raises:
        ValueError: different lengths, no value, or a value that is not finite.
    """
    x, y = _checked(predicted, human)
    raw = pearson(x, y)
    curve = fitted_logistic(x, y)
    return ScoreAgreement(
        spearman(x, y),
        kendall_tau_b(x, y),
        raw if curve is None else pearson(logistic(x, curve), y),
        raw,
        float(np.sqrt(np.mean((x - y) ** 2))),
        curve is not None,
    )


def kendall_tau_b(first: Values, second: Values) -> float:
    """Kendall's tau-b (1945): concordant less discordant pairs, over the geometric mean of the pairs that are not tied on
    either side; 0 where one side is constant. `n log^2 n` steps.

    Raises:
        ValueError: as `score_agreement`.
    """
    x, y = _checked(first, second)
    order = np.lexsort((y, x))
    _, a = np.unique(x[order], return_inverse=True)
    _, b = np.unique(y[order], return_inverse=True)
    pairs = len(x) * (len(x) - 1) // 2
    tied_a, tied_b = _tied(a), _tied(b)
    tied_both = _tied(a * (int(b.max()) + 1) + b)
    apart = pairs - tied_a - tied_b + tied_both
    scale = float(pairs - tied_a) * float(pairs - tied_b)
    return (apart - 2 * _inversions(b)) / scale**0.5 if scale > 0 else 0.0


def logistic(values: Array, curve: Array) -> Array:
    """`b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|))` with the curve (b1, b2, b3, b4)."""
    high, low, middle, width = curve
    return low + (high - low) * _sigmoid((values - middle) / abs(width))


def fitted_logistic(predicted: Values, human: Values) -> Array | None:
    """[4] the curve of `logistic` with the least squared distance to `human`, from (max y, min y, mean x, std x) by
    Levenberg and Marquardt's method; None where either side is constant, there are fewer than 4 values, or no finite curve
    is found.

    Raises:
        ValueError: as `score_agreement`.
    """
    x, y = _checked(predicted, human)
    spread = float(x.std())
    if len(x) < 4 or spread == 0 or np.ptp(y) == 0:
        return None
    centre = float(x.mean())
    z = (x - centre) / spread  # the same curve, in units in which no parameter is tiny
    curve: Array = np.array([y.max(), y.min(), 0.0, 1.0])
    damping = 1e-3
    residuals = y - logistic(z, curve)
    loss = float(residuals @ residuals)
    for _ in range(_ROUNDS):
        slopes = _slopes(z, curve)
        normal, pull = slopes.T @ slopes, slopes.T @ residuals
        step = np.linalg.lstsq(normal + damping * np.diag(np.diag(normal) + 1e-12), pull, rcond=None)[0]
        tried: Array = (curve + step).astype(np.float64)
        after = y - logistic(z, tried) if tried[3] != 0 else np.full_like(y, np.inf)
        new = float(after @ after)
        if new < loss:
            gained, curve, residuals, loss = loss - new, tried, after, new
            damping = max(damping / 10, 1e-12)
            if gained <= 1e-14 * max(loss, 1e-300):
                break
        elif damping > 1e12:
            break
        else:
            damping *= 10
    curve[2], curve[3] = centre + spread * curve[2], spread * abs(curve[3])
    return curve if np.isfinite(curve).all() and np.ptp(logistic(x, curve)) > 0 else None


def _slopes(x: Array, curve: Array) -> Array:
    """[n, 4] derivatives of `logistic` by its parameters."""
    high, low, middle, width = curve
    u = (x - middle) / abs(width)
    share = _sigmoid(u)
    steep = (high - low) * share * (1 - share)
    by_middle, by_width = -steep / abs(width), -steep * u / abs(width) * np.sign(width)
    return np.stack([share, 1 - share, by_middle, by_width], axis=1)


def _sigmoid(u: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(u, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)))


def _tied(labels: NDArray[np.int64]) -> int:
    """Pairs of equal labels."""
    _, counts = np.unique(labels, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: NDArray[np.int64]) -> int:
    """Pairs (i < j) with values[i] > values[j]: bit by bit from the highest, those that differ there for the first time."""
    found = 0
    for bit in reversed(range(int(values.max()).bit_length())):
        ones = (values >> bit) & 1
        _, group = np.unique(
            values >> (bit + 1), return_inverse=True
        )  # contiguous: sorted by the higher bits
        before = np.cumsum(ones) - ones
        starts = before[np.searchsorted(group, np.arange(int(group[-1]) + 1))]
        found += int((before - starts[group])[ones == 0].sum())
        values = values[np.argsort(values >> bit, kind="stable")]
    return found


def _checked(first: Values, second: Values) -> tuple[Array, Array]:
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"{x.shape} and {y.shape} values, expected the same number, at least one")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a value is not finite, expected finite numbers")
    return x, y
