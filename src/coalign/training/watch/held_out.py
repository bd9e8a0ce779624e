"""Losses of single held-out records before and after a training, from which the change of the mean has an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coalign.core.files import parse_json, write_json
from coalign.measures.statistics import Interval, bootstrap_ratio

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.training.job import FitResult

Losses = list[tuple[float, int]]
"""Of each held-out record its summed loss and what that sum is divided by (1, or its counted tokens)."""


class RecordLosses:
    """The losses of one evaluation, collected batch by batch in each process.

    Args:
        process, processes: index of this process, and their number: its share is every `processes`-th record.
    """

    def __init__(self, process: int, processes: int) -> None:
        self.process, self.processes = process, processes
        self.own: Losses | None = []

    def add(self, both: Tensor | None) -> None:
        """Take in [N, 2] losses and counts of a batch; None, where a task has no loss of a record, for all."""
        if both is None:
            self.own = None
        elif self.own is not None:
            self.own += [(loss, round(count)) for loss, count in both.tolist()]

    def gathered(self) -> Losses | None:
        """All records' losses in their order; to be called by each process."""
        from accelerate.utils import gather_object

        own = [] if self.own is None else self.own
        found = [(self.process + self.processes * place, *one) for place, one in enumerate(own)]
        rows = gather_object([None] if self.own is None else found)
        return None if None in rows else [(loss, count) for _, loss, count in sorted(rows)]


def write_losses(path: Path, step: int, losses: Losses) -> None:
    """Keep the losses that were measured after `step` steps, for a training that is continued."""
    write_json(path, {"step": step, "losses": losses})


def read_losses(path: Path, step: int) -> Losses:
    """What `write_losses` kept of that step; nothing where there is none (a folder of an earlier version)."""
    if not path.is_file():
        return []
    kept = parse_json(path.read_text(encoding="utf-8"))
    return [(loss, count) for loss, count in kept["losses"]] if kept["step"] == step else []


def loss_change(result: FitResult) -> Interval | None:
    """The change of the mean held-out loss, with a paired bootstrap interval over records; None where single records
    were not measured twice.
    """
    before, after = result.before_losses, result.after_losses
    if len(before) != len(after):
        return None
    return paired_change(before, after)


def paired_change(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> Interval | None:
    """After minus before: the sum of the records' differences over the sum of their counts; None without a counted record,
    or with a loss that is not finite.
    """
    rows = [(new[0] - old[0], old[1]) for old, new in zip(before, after, strict=True) if old[1]]
    if not rows or not all(math.isfinite(difference) for difference, _ in rows):
        return None
    return bootstrap_ratio(*zip(*rows, strict=True))
