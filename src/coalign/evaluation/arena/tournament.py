"""Single-elimination tournaments: brackets for any number of players, played round by round or simulated by the thousand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coalign.measures.agreement import midranks, rank_correlations
from coalign.measures.ratings import bradley_terry, is_connected, match_probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 2_000_000
"""Players of all brackets that are simulated at once."""


@dataclass(frozen=True)
class Node:
    """A match of a bracket.

    Attributes:
        left, right: who meets: a place of the shuffled list, or minus one minus the index of an earlier match.
        round: 1 for matches of two places; a match comes after those that feed it.
    """

    left: int
    right: int
    round: int


@functools.cache
def bracket(players: int) -> tuple[Node, ...]:
    """The matches of `players` places in post-order: always players - 1, whatever the number.

    A list is halved, the left half having floor(n / 2) places, until one place (a bye) or two remain; the winners of
    the halves meet.

    Raises:
        ValueError: no players.
    """
    if players < 1:
        raise ValueError(f"a tournament of {players} players, expected at least 1")
    nodes: list[Node] = []

    def play(start: int, count: int) -> tuple[int, int]:
        if count == 1:
            return start, 0
        left, left_round = play(start, count // 2)
        right, right_round = play(start + count // 2, count - count // 2)
        nodes.append(Node(left, right, 1 + max(left_round, right_round)))
        return -len(nodes), nodes[-1].round

    play(0, players)
    return tuple(nodes)


def play_bracket(
    order: Sequence[int], winner_of: Callable[[int, int], int]
) -> tuple[list[tuple[int, int, int]], int]:
    """Play one bracket.

    Args:
        order: the shuffled players.
        winner_of: two players to the winner.

    Returns:
        The matches (first, second, winner) in post-order, and the champion.
    """
    winners: list[int] = []
    matches = []

    def who(reference: int) -> int:
        return order[reference] if reference >= 0 else winners[-1 - reference]

    for node in bracket(len(order)):
        first, second = who(node.left), who(node.right)
        winners.append(winner_of(first, second))
        matches.append((first, second, winners[-1]))
    return matches, winners[-1] if winners else order[0]


def simulate_tables(
    chances: NDArray[np.float64], prompts: int, trials: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """[trials, players, players] wins in `prompts` tournaments a trial, each with a bracket of its own.

    Args:
        chances: [players, players] the chance that the row beats the column.
    """
    players = len(chances)
    tables = np.zeros((trials, players, players))
    flat = chances.astype(np.float32).reshape(-1)
    rows = max(1, _CHUNK // max(1, prompts * players))
    for start in range(0, trials, rows):
        count = min(rows, trials - start)
        order = rng.permuted(np.tile(np.arange(players, dtype=np.int32), (count * prompts, 1)), axis=1)
        offsets = np.repeat(np.arange(count, dtype=np.int64) * players**2, prompts)
        winners: list[NDArray[np.int32]] = []
        cells: list[NDArray[np.int64]] = []
        for node in bracket(players):
            first, second = (
                order[:, one] if one >= 0 else winners[-1 - one] for one in (node.left, node.right)
            )
            won = rng.random(len(order), dtype=np.float32) < flat[first * players + second]
            winner, loser = np.where(won, first, second), np.where(won, second, first)
            winners.append(winner)
            cells.append(offsets + winner * players + loser)
        counts = np.bincount(np.concatenate(cells), minlength=count * players**2) if cells else 0.0
        tables[start : start + count] = np.reshape(counts, (count, players, players)) if cells else 0.0
    return tables


@dataclass(frozen=True)
class Simulation:
    """Rank correlations with the truth, one a trial: of tournaments, and of comparisons with a fixed reference."""

    tournament: NDArray[np.float64]
    anchored: NDArray[np.float64]


def simulate(
    ratings: Sequence[float],
    *,
    reference: float,
    precision: float,
    prompts: int,
    trials: int,
    seed: int = 0,
) -> Simulation:
    """Rank players of known ratings in both ways, many times (the paper's first experiment).

    Args:
        ratings: the truth.
        reference: rating of the outputs that every player is compared with in the anchored arm.
        precision: of the judge.
        prompts: tournaments a trial, and comparisons with the reference a player.
    """
    truth = np.asarray(ratings, dtype=np.float64)
    rng = np.random.default_rng(seed)
    tables = simulate_tables(match_probabilities(truth, precision), prompts, trials, rng)
    penalty = np.where(is_connected(tables), 0.0, 1.0)
    found = bradley_terry(tables, l2=penalty).values
    chances = match_probabilities(np.append(truth, reference), precision)[:-1, -1]
    anchored = rng.binomial(prompts, chances, size=(trials, len(truth))) / prompts
    ranks = midranks(truth)
    return Simulation(*(rank_correlations(midranks(np.round(one, 9)), ranks) for one in (found, anchored)))
