"""pass@k: the chance that one of k programs is right, from more samples than k.

Evaluating Large Language Models Trained on Code (arXiv 2107.03374, equation 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def pass_at_k(n: int, correct: int, k: int) -> float:
    """1 - C(n - correct, k) / C(n, k), the unbiased estimate from n samples of which `correct` pass; as a product, which
    does not overflow.

    Raises:
        ValueError: fewer samples than k, k below 1, or `correct` outside of 0 to n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(
            f"pass@{k} of {correct} right among {n} samples, expected 1 <= k <= n and 0 <= right <= n"
        )
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - correct + 1, n + 1))


@dataclass(frozen=True)
class PassAtK:
    """A mean over tasks.

    Attributes:
        value: NaN where no task has k scorable samples.
        strict: where what cannot be scored counts as wrong, as in published scores; NaN without a task of k samples.
        tasks: in `value`.
        left_out: tasks with fewer scorable samples than k.
    """

    k: int
    value: float
    strict: float
    tasks: int
    left_out: int


def mean_pass_at_k(results: Sequence[Sequence[bool | None]], k: int) -> PassAtK:
    """pass@k in the mean over tasks.

    Args:
        results: `[tasks][samples]` whether a program passes its tests; None: not scorable.
    """
    scorable = [[one for one in task if one is not None] for task in results]
    values = [pass_at_k(len(task), sum(task), k) for task in scorable if len(task) >= k]
    strict = [pass_at_k(len(task), sum(one is True for one in task), k) for task in results if len(task) >= k]
    return PassAtK(k, _mean(values), _mean(strict), len(values), len(results) - len(values))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
