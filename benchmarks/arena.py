"""Simulated tournaments: all brackets as arrays against one bracket after the other, alternating in one process.

    python benchmarks/arena.py [--trials 1000] [--share 5]

Both sides draw brackets and matches for 20 models on 500 prompts and fit Bradley-Terry ratings. The plain side runs on
`--share` trials; its time is scaled to all of them. Printed are medians and the ratio, pair by pair.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import numpy as np

from coalign.evaluation.arena.tournament import play_bracket, simulate
from coalign.evaluation.varco_arena import PAPER_RATINGS
from coalign.measures.ratings import bradley_terry, match_probabilities, wins_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--share", type=int, default=5, help="trials of the plain side")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    ours, plain = [], []
    for number in range(arguments.repeat):
        started = time.perf_counter()
        simulate(
            PAPER_RATINGS,
            reference=1186,
            precision=0.8,
            prompts=arguments.prompts,
            trials=arguments.trials,
            seed=number,
        )
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        for trial in range(arguments.share):
            one_by_one(arguments.prompts, seed=trial)
        plain.append((time.perf_counter() - started) * arguments.trials / arguments.share)
        print(
            f"pair {number}: arrays {ours[-1]:.2f} s, one by one {plain[-1]:.0f} s, ratio {plain[-1] / ours[-1]:.0f}"
        )
    ratios = [b / a for a, b in zip(ours, plain, strict=True)]
    print(
        f"{arguments.trials} trials: arrays {statistics.median(ours):.2f} s, one by one {statistics.median(plain):.0f} s "
        f"(from {arguments.share} trials), median ratio {statistics.median(ratios):.0f}"
    )


def one_by_one(prompts: int, seed: int) -> np.ndarray:
    """One simulated benchmark without arrays."""
    rng = random.Random(seed)
    chances = match_probabilities(PAPER_RATINGS, 0.8).tolist()
    matches = []
    order = list(range(len(PAPER_RATINGS)))

    def winner_of(first: int, second: int) -> int:
        return first if rng.random() < chances[first][second] else second

    for _ in range(prompts):
        rng.shuffle(order)
        played, _ = play_bracket(order, winner_of)
        matches += [(first, second, float(winner == first)) for first, second, winner in played]
    return bradley_terry(wins_table(matches, len(PAPER_RATINGS))).values


if __name__ == "__main__":
    main()
