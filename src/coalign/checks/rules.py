"""Margin rules: pure functions from the rows of a check to its outcome.

A row is {"arm": name, "seed": number, metric: value, ...}. Every rule is written down before the check runs and
reads nothing but these rows; arms are compared within a seed, because they start from the same model and data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from coalign.core.verdict import CheckOutcome

Row = Mapping[str, Any]
ROUNDING = 1e-6
"""How far a difference or a mean of rows can be from the true one: rows are kept to six decimals."""


def decide(*, seen: bool, not_seen: bool | None = None) -> CheckOutcome:
    """`seen`, or `not seen`, or `mixed` where neither holds.

    Args:
        seen: the effect is there.
        not_seen: it clearly is not; by default whenever it is not seen.

    Raises:
        ValueError: both hold, so the rule contradicts itself.
    """
    if seen and not_seen:
        raise ValueError("the rule says both seen and not seen")
    if seen:
        return "seen"
    return "mixed" if not_seen is False else "not seen"


def settled(figure: float) -> float:
    """A figure that a rule compares with a limit: a number of four decimals where it is no farther from it than `ROUNDING`.

    A loss of 9 answers in 180 is 5 points, and a rule that allows 5 allows it; the rows say -0.05, sums of binary numbers
    -0.05000000000000001.
    """
    near = round(figure, 4)
    # A distance of the rounding itself comes out a hair above it.
    return near if abs(figure - near) <= ROUNDING * (1 + 1e-6) else figure


def gaps_between(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """Seed to ours minus theirs, settled.

    Raises:
        KeyError: theirs lacks a seed.
    """
    return {seed: settled(one - theirs[seed]) for seed, one in ours.items()}


def best_of(arms: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Seed to the highest value of several arms."""
    return {seed: max(one[seed] for one in arms) for seed in arms[0]}


def mean_of(by_seed: Mapping[int, float]) -> float:
    """Mean over seeds, settled."""
    return settled(statistics.fmean(by_seed.values()))


def standard_error(by_seed: Mapping[int, float]) -> float:
    """Standard error of the mean over seeds; 0 for one seed."""
    return _deviation(list(by_seed.values())) / math.sqrt(len(by_seed))


_T_LIMITS = {
    0.05: {2: 6.314, 3: 2.920, 4: 2.353, 5: 2.132, 6: 2.015, 7: 1.943, 8: 1.895, 9: 1.860, 10: 1.833},
    0.025: {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262},
}
"""Student's t by the probability above it and the number of pairs."""


def paired_t(gaps: Mapping[int, float]) -> float:
    """Student's t of the mean of paired differences, by seed; infinite where they do not differ from each other."""
    error, mean = standard_error(gaps), mean_of(gaps)
    return mean / error if error else math.copysign(math.inf, mean)


def significant(gaps: Mapping[int, float], *, two_sided: bool = False) -> bool:
    """Whether the mean over seeds is above 0 by a paired t-test with p below 0.05. One seed says nothing; more than ten have the
    limit of ten, which is above their own.
    """
    limits = _T_LIMITS[0.025 if two_sided else 0.05]
    return len(gaps) > 1 and paired_t(gaps) > limits[min(len(gaps), max(limits))]


def exceeds(gaps: Mapping[int, float], errors: float = 2.0) -> bool:
    """Whether the mean over seeds is above 0 by more than so many of its standard errors."""
    return mean_of(gaps) > errors * standard_error(gaps)


def clearly_above(*gaps: Mapping[int, float]) -> CheckOutcome:
    """`seen` where every mean over seeds is above 0 by more than 2 of its standard errors, `not seen` where one is not
    by more than 1, `mixed` between.
    """
    return decide(seen=all(map(exceeds, gaps)), not_seen=not all(exceeds(one, errors=1.0) for one in gaps))


def most_seeds(hits: Mapping[int, bool], share: str = "4/5") -> bool:
    """Whether at least this share of the seeds hits: of 5 seeds 4, of 3 all, of 10 eight."""
    return sum(hits.values()) >= math.ceil(Fraction(share) * len(hits))


def by_arm(rows: Iterable[Row]) -> dict[str, dict[str, tuple[float, float]]]:
    """Arm to metric to (mean, standard deviation over seeds); the deviation of one seed is 0."""
    collected: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for metric, value in row.items():
            if metric not in ("arm", "seed"):
                collected.setdefault(row["arm"], {}).setdefault(metric, []).append(value)
    return {
        arm: {metric: (statistics.fmean(values), _deviation(values)) for metric, values in metrics.items()}
        for arm, metrics in collected.items()
    }


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
