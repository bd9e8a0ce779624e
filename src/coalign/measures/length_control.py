"""Win rates as they would be between answers of equal length. NumPy only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_STEPS = 100


def length_controlled_win_rate(
    wins: ArrayLike, lengths: ArrayLike, other_lengths: ArrayLike, *, penalty: float = 1.0
) -> float:
    """`sig(theta)` of the model `P(win) = sig(theta + phi tanh(d / sd(d)))`, d the difference of lengths, fitted by maximum
    likelihood: what is left of a win rate where no answer is longer (Dubois et al. 2024, arXiv 2404.04475, equation 2, without
    the term of an instruction's difficulty, which several models are needed for).

    Equal to the plain win rate where the lengths do not differ, and where every comparison is won or every one is lost.

    Args:
        wins: [N] 1 a win, 0 a loss, 0.5 a tie.
        lengths, other_lengths: [N] of both answers, in any unit.
        penalty: of `phi² / 2`, so that few comparisons do not drive it to infinity.

    Raises:
        ValueError: no comparison, lists of different lengths, or a win outside 0 to 1.
    """
    won, mine, others = (np.asarray(one, np.float64) for one in (wins, lengths, other_lengths))
    if not len(won) or not len(won) == len(mine) == len(others):
        raise ValueError(
            f"{len(won)} wins of {len(mine)} and {len(others)} lengths, expected as many, at least one"
        )
    if ((won < 0) | (won > 1)).any():
        raise ValueError("wins: expected numbers from 0 to 1")
    plain, longer = float(won.mean()), mine - others
    spread = float(longer.std())
    if plain in (0.0, 1.0) or not longer.any():
        return plain
    # Differences that are all the same tell nothing apart: the term is their common sign, held by the penalty alone.
    lead = np.tanh(longer / spread) if spread else np.sign(longer)
    columns = np.stack([np.ones_like(lead), lead], 1)
    held = np.diag([0.0, penalty])

    def cost(at: np.ndarray) -> float:
        scores = columns @ at
        return float((np.logaddexp(0, scores) - won * scores).sum() + at @ held @ at / 2)

    found = np.array([np.log(plain / (1 - plain)), 0.0])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-(columns @ found)))
        slope = columns.T @ (chance - won) + held @ found
        curvature = columns.T @ (columns * (chance * (1 - chance))[:, None]) + held
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), slope)
        size = 1.0
        while cost(found - size * step) > cost(found) and size > 1e-6:
            size /= 2
        found = found - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return float(1 / (1 + np.exp(-found[0])))
