"""Scores of answers under a model, rankings by them, and what a ranking is worth where accuracies are known. NumPy only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from coalign.measures.agreement import spearman
from coalign.measures.statistics import Interval, percentile_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Aggregate = Literal["mean", "median"]
Better = Literal["lower", "higher"]
Statistic: TypeAlias = "Callable[[NDArray[np.float64]], NDArray[np.float64]]"


def perplexity(logps: Sequence[float]) -> float:
    """`exp(-mean)` of an answer's token log-probabilities, at least one."""
    return math.exp(-statistics.fmean(logps))


def ifd_ratio(conditional: float, alone: float) -> float | None:
    """Negative log-likelihood a token of an answer after its question over that of the answer alone (arXiv 2308.12032);
    None where the second is not above 0 or missing (an answer of one token that nothing stands before).
    """
    return conditional / alone if math.isfinite(alone) and alone > 0 else None


def reward_per_loss(rewards: ArrayLike, losses: ArrayLike, *, beta: float = 3.0) -> NDArray[np.float64]:
    """CAR: [...] mean reward over `1 + beta` times the mean negative log-likelihood a token, of [..., n] answers; higher is
    better.
    """
    reward, loss = (np.asarray(one, np.float64).mean(-1) for one in (rewards, losses))
    return reward / (1 + beta * loss)


def layer_similarities(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """[L] cosines of two texts layer by layer, each layer's states averaged over tokens; 0 where one is zero.

    Args:
        first, second: [L, T, D] and [L, T', D] hidden states, the embedding layer among them.
    """
    a, b = (np.asarray(one, np.float64).mean(1) for one in (first, second))
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(1), scale, out=np.zeros_like(scale), where=scale > 0)


def example_places(question: int, pool: int, examples: int, *, official: bool = False) -> list[int]:
    """Places of the pool's items that stand before question number `question` (from 0): a window that moves by one.

    Args:
        examples: M; at most as many as the pool has.
        official: as the published code, which never shows the pool's last item.
    """
    size = pool - 1 if official else pool
    if size < 1:
        return [0] * min(examples, pool)
    return [(question + number + (1 if official else 0)) % size for number in range(min(examples, size))]


@dataclass(frozen=True)
class Ranking:
    """Strategies by score.

    Attributes:
        scores: strategy to its score over the questions.
        order: best first; equal ones in the order that they came in.
        shares: strategy to the share of resamples of the questions in which it is first.
        lead: how much better the first is than the second, in the score's own unit, with its 95 % interval; None of one.
    """

    scores: Mapping[str, float]
    order: Sequence[str]
    shares: Mapping[str, float]
    lead: Interval | None

    @property
    def chosen(self) -> str:
        return self.order[0]

    def ranks(self) -> dict[str, int]:
        """Rank from 1; equal scores share the best of their ranks."""
        firsts: dict[float, int] = {}
        for place, name in enumerate(self.order, start=1):
            firsts.setdefault(self.scores[name], place)
        return {name: firsts[value] for name, value in self.scores.items()}


def over_questions(aggregate: Aggregate) -> Statistic:
    """The mean or the median over questions."""
    return lambda table: (np.mean if aggregate == "mean" else np.median)(table, axis=1)


def rank(
    values: Mapping[str, Sequence[Any]],
    better: Better,
    statistic: Statistic,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Ranking:
    """Rank strategies by a statistic of their values, and say how sure the choice is by a bootstrap over questions.

    Args:
        values: strategy to [questions] values, of the same questions in the same order; a value may be several numbers.
        statistic: [strategies, questions, ...] to [strategies] scores.

    Raises:
        ValueError: no strategy, or different numbers of questions.
    """
    names = list(values)
    if not names or len({len(one) for one in values.values()}) > 1 or not len(values[names[0]]):
        raise ValueError("values are ragged or empty, expected the same questions for every strategy")
    table = np.asarray(list(values.values()), np.float64)
    sign = 1.0 if better == "lower" else -1.0
    scores = statistic(table)
    order = np.argsort(sign * scores, kind="stable")
    draw = np.random.default_rng(seed)
    count, questions = np.zeros(len(names)), table.shape[1]
    leads = []
    for _ in range(resamples):
        drawn = sign * statistic(table[:, draw.integers(0, questions, questions)])
        count[int(drawn.argmin())] += 1
        leads.append(drawn[order[1]] - drawn[order[0]] if len(names) > 1 else 0.0)
    lead = None
    if len(names) > 1:
        ahead = float(sign * (scores[order[1]] - scores[order[0]]))
        lead = percentile_interval(ahead, leads, questions)
    return Ranking(
        dict(zip(names, map(float, scores), strict=True)),
        [names[place] for place in order],
        dict(zip(names, (count / resamples).tolist(), strict=True)),
        lead,
    )


def against_truth(
    scores: Mapping[str, float], accuracies: Mapping[str, float], better: Better
) -> tuple[float, float]:
    """(Spearman's correlation of the ranking with the accuracies after training, what the choice loses to the best).

    The first is NaN where all scores or all accuracies are equal. Equal scores choose the one that comes first.
    """
    sign = -1.0 if better == "lower" else 1.0
    names = [name for name in scores if name in accuracies]
    mine, truth = [sign * scores[name] for name in names], [accuracies[name] for name in names]
    chosen = mine.index(max(mine))
    return spearman(mine, truth), max(truth) - truth[chosen]


def spread(accuracies: Mapping[str, float], *, ignore: Sequence[str] = ()) -> float:
    """Coefficient of variation of the strategies' accuracies (n - 1 in the deviation): how much the choice matters."""
    values = [float(value) for name, value in accuracies.items() if name not in ignore]
    return statistics.stdev(values) / statistics.fmean(values)


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """`sum(w v) / sum(w)`, for correlations of several tasks weighed by their spread."""
    return math.fsum(w * v for v, w in zip(values, weights, strict=True)) / math.fsum(weights)
