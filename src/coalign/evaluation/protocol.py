"""Prompts under conditions, their answers, a verdict on each, and rates with intervals.

A condition is what differs between two measurements of the same items: the model, the instruction before the prompt,
what the prompt claims. Items are the unit throughout: answers are kept item by item, so that a run that was cut goes on;
intervals are bootstrapped over items; two conditions are compared item by item::

    answer(folder, Condition(name="plain", tasks=plain, sampling=greedy, label="Answering"), open_model)
    before = [verdict(one, answers(folder, "plain")[one.id]) for one in items]
    metric_intervals({"declined": declined}, before, after, labels=("answered", "declined"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.loops.rows import Prompted, answer_rows, read_answers
from coalign.measures.detection import bootstrap_of
from coalign.measures.statistics import bootstrap_mean, paired_bootstrap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coalign.models.types import Generator, Sampling

Transitions = Mapping[str, int]
"""How many items went from one verdict to another: `{"right->wrong": 3, ...}`, every pair of verdicts once."""
Metric = Callable[[Transitions], float]
Values = Mapping[str, Sequence[float]]
"""Name of a measure to [items] values."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is asked, and how.

    Attributes:
        name: of the file of its answers.
        tasks: an item's id and its prompt under this condition.
        label: text of the progress bar.
    """

    name: str
    tasks: Sequence[Prompted]
    sampling: Sampling
    label: str


def answer(folder: Path, condition: Condition, model: Callable[[], Generator]) -> list[list[str]]:
    """`[items][samples]` answers under a condition, kept in `folder`; `model` is opened where one is missing."""
    path = folder / f"{condition.name}.jsonl"
    rows = answer_rows(path, condition.tasks, model, condition.sampling, label=condition.label)
    return [row["responses"] for row in rows]


def answers(folder: Path, name: str) -> dict[str, list[str]]:
    """What `answer` kept of a condition, by item."""
    return {row["id"]: row["responses"] for row in read_answers(folder / f"{name}.jsonl")}


def transitions(before: Sequence[str], after: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """How many items went from each verdict to each.

    Args:
        before, after: [items] verdicts under two conditions, in the same order.
        labels: every verdict there is.

    Raises:
        ValueError: different numbers of items.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} verdicts before and {len(after)} after, expected the same items")
    return _counted(places(before, labels), places(after, labels), labels)


def places(verdicts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
    """[items] places of the verdicts among the labels, for resampling."""
    return np.array([labels.index(one) for one in verdicts], dtype=np.float64)


def of_places(metric: Metric, labels: Sequence[str]) -> Callable[[Any, Any], float]:
    """A metric of transitions as a function of the places before and after."""
    return lambda before, after: metric(_counted(before, after, labels))


def metric_intervals(
    metrics: Mapping[str, Metric], before: Sequence[str], after: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Metrics of the transitions with 95 % bootstrap intervals over items, as plain values."""
    pair = places(before, labels), places(after, labels)
    return {
        name: bootstrap_of(of_places(metric, labels), *pair).to_dict() for name, metric in metrics.items()
    }


def rates(values: Values) -> dict[str, dict[str, Any]]:
    """The mean of every measure with its 95 % bootstrap interval over items, as plain values."""
    return {name: bootstrap_mean(one).to_dict() for name, one in values.items()}


def changes(before: Values, after: Values) -> dict[str, dict[str, Any]]:
    """The mean difference of every measure, paired by item, with its interval and p-value, as plain values."""
    return {name: paired_bootstrap(one, after[name]).to_dict() for name, one in before.items()}


def _counted(before: Any, after: Any, labels: Sequence[str]) -> dict[str, int]:
    size = len(labels)
    counts = np.bincount((size * before + after).astype(int), minlength=size**2).tolist()
    return dict(zip((f"{b}->{a}" for b in labels for a in labels), counts, strict=True))
