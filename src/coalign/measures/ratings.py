"""Ratings from matches: Bradley-Terry by maximum likelihood on the Elo scale, for one table of wins or many at once.

P(a beats b) = 1 / (1 + 10^((R_b - R_a) / 400)). All matches are fitted together, so their order does not matter, which
sequential Elo updates cannot say. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE, CENTRE = 400.0, 1000.0
"""Points of a tenfold advantage in odds, and the mean of all ratings."""

Table: TypeAlias = "NDArray[np.float64]"
"""[..., players, players] wins of the row over the column; a tie is half a win for both."""

_LN10 = math.log(10)
_STEPS = 200


@dataclass(frozen=True)
class Ratings:
    """A fit.

    Attributes:
        values: [..., players] ratings.
        nll: [...] negative log-likelihood of the matches at them, in nats, without the penalty.
    """

    values: NDArray[np.float64]
    nll: NDArray[np.float64]


def wins_table(matches: Sequence[tuple[int, int, float]], players: int) -> Table:
    """The table of matches (first, second, share of the win of the first)."""
    table = np.zeros((players, players))
    for first, second, share in matches:
        table[first, second] += share
        table[second, first] += 1 - share
    return table


def bradley_terry(table: Table, *, l2: float | NDArray[np.float64] = 0.0) -> Ratings:
    """Ratings that make the matches most likely.

    Minimises -sum log P over wins + l2 / 2 sum c^2 with R = 400 c + 1000, as logistic regression with a penalty does.
    Without a penalty the mean rating is 1000.

    Args:
        table: wins; leading dimensions are fits of their own.
        l2: weight of the penalty, one for all or one a fit. 0 has a finite optimum only where `is_connected`.

    Raises:
        ValueError: a fit without a penalty whose players are not connected, or one that does not converge.
    """
    shape = table.shape[:-2]
    players = table.shape[-1]
    wins = table.reshape(-1, players, players)
    games = wins + wins.transpose(0, 2, 1)
    weights = np.broadcast_to(np.asarray(l2, dtype=np.float64), shape).reshape(-1)
    if not (is_connected(wins) | (weights > 0)).all():
        raise ValueError(
            "without a penalty the ratings run away: some players have no path of wins to each other"
        )
    coefficients = np.zeros((len(wins), players))
    won = wins.sum(-1)
    eye = np.eye(players)
    size = np.maximum(games.sum((-2, -1)), 1.0)
    value = _objective(coefficients, wins, weights)
    for _ in range(_STEPS):
        chances = _chances(coefficients)
        gradient = -_LN10 * (won - (games * chances).sum(-1)) + weights[:, None] * coefficients
        if np.all(np.abs(gradient).max(-1) <= 1e-11 * size + 1e-12):
            break
        curvature = _LN10**2 * games * chances * chances.transpose(0, 2, 1)
        hessian = eye * curvature.sum(-1)[..., None] - curvature + weights[:, None, None] * eye
        # The sum of ratings is free without a penalty: fixing it makes the system solvable and moves no difference.
        hessian = hessian + np.where(weights > 0, 0.0, 1.0)[:, None, None] / players
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        step *= np.minimum(1.0, 1.0 / np.maximum(np.abs(step).max(-1, keepdims=True), 1e-300))
        coefficients, value = _descend(coefficients, step, value, wins, weights)
    else:
        raise ValueError(f"the ratings did not converge in {_STEPS} steps")
    free = (weights == 0)[:, None]
    coefficients = np.where(free, coefficients - coefficients.mean(-1, keepdims=True), coefficients)
    nll = _objective(coefficients, wins, np.zeros_like(weights))
    return Ratings((SCALE * coefficients + CENTRE).reshape(*shape, players), nll.reshape(shape))


def _descend(
    start: NDArray[np.float64],
    step: NDArray[np.float64],
    value: NDArray[np.float64],
    wins: Table,
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A Newton step, halved for the fits whose objective it would raise."""
    length = np.ones((len(start), 1))
    halvings = 29
    while True:
        moved = start - length * step
        reached = _objective(moved, wins, weights)
        worse = reached > value + 1e-12 * np.maximum(np.abs(value), 1.0)
        if not worse.any() or not halvings:
            return moved, reached
        length[worse] /= 2
        halvings -= 1


def _chances(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-_LN10 * (coefficients[:, :, None] - coefficients[:, None, :])))


def _objective(
    coefficients: NDArray[np.float64], wins: Table, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    gaps = _LN10 * (coefficients[:, :, None] - coefficients[:, None, :])
    return (wins * np.logaddexp(0, -gaps)).sum((-2, -1)) + 0.5 * weights * (coefficients**2).sum(-1)


def is_connected(table: Table) -> NDArray[np.bool_]:
    """[...] whether every player has a path of wins to every other, so that ratings without a penalty are finite."""
    players = table.shape[-1]
    reach = (table > 0) | np.eye(players, dtype=bool)
    for _ in range(max(1, math.ceil(math.log2(max(players, 2))))):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return np.asarray(reach.all((-2, -1)))


def match_probabilities(
    ratings: Sequence[float] | NDArray[np.float64], precision: float = 1.0
) -> NDArray[np.float64]:
    """[players, players] the chance that the row is said to beat the column, by a judge who is right with `precision`.

    P' = p P + (1 - p) (1 - P): the true winner of a match is turned round with probability 1 - p.

    Raises:
        ValueError: a precision outside of 0 to 1.
    """
    if not 0 <= precision <= 1:
        raise ValueError(f"precision is {precision}, expected a number from 0 to 1")
    values = np.asarray(ratings, dtype=np.float64)
    chances = 1 / (1 + 10 ** ((values[None, :] - values[:, None]) / SCALE))
    return precision * chances + (1 - precision) * (1 - chances)


def cyclic_share(table: Table) -> tuple[int, int]:
    """(cycles, triples): among triples of players who have all met, those in which each beats the next one more often
    than not.
    """
    ahead = table > table.T
    met = (table + table.T) > 0
    triples = [
        (a, b, c) for a, b, c in combinations(range(len(table)), 3) if met[a, b] and met[b, c] and met[a, c]
    ]
    turns = [ring for a, b, c in triples for ring in ((a, b, c), (c, b, a))]
    cycles = sum(bool(ahead[a, b] and ahead[b, c] and ahead[c, a]) for a, b, c in turns)
    return cycles, len(triples)


def bootstrap_ratings(
    tables: Table, *, resamples: int = 1000, seed: int = 0, l2: float = 0.0, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Percentile intervals of ratings, prompts drawn with replacement, whole tournaments with them.

    Args:
        tables: [prompts, players, players] wins on each prompt.
        l2: of the fits; resamples that are not connected get at least 1.

    Returns:
        (low [players], high [players], resamples that needed the penalty).
    """
    prompts, players = tables.shape[0], tables.shape[-1]
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(np.float64)
    found = (drawn @ tables.reshape(prompts, -1)).reshape(resamples, players, players)
    penalties = np.where(is_connected(found), l2, max(l2, 1.0))
    values = bradley_terry(found, l2=penalties).values
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high, int((penalties > l2).sum())
