"""A training as it is asked for, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from coalign.core.runs import Run
from coalign.data.records import Record
from coalign.training.objective import Objective

if TYPE_CHECKING:
    from coalign.training.batches import Prepared


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: what is learnt from what, how, and in which run.

    Attributes:
        options: `TrainingOptions`, with the objective's constants where `constants` has none; for
            `coalign.training.learning.train` with `ModelOptions` beside them.
        records, held_out: to train and to evaluate on: records, or what `prepare_examples` made of them.
        constants: of the objective; by default `options` has them.
        questions: that are answered before and after, see `coalign.training.watch.answers`.
        name: of this training among those of the run.
        quiet: plan and signs are logged and not printed, for one training of many.
    """

    objective: Objective
    options: Any
    run: Run
    records: Sequence[Record] | Prepared
    held_out: Sequence[Record] | Prepared = ()
    constants: Any = None
    questions: Sequence[Record] = ()
    name: str = "train"
    quiet: bool = False


@dataclass(frozen=True)
class FitResult:
    """What training did.

    Attributes:
        steps: optimizer steps in all, those before a resume included.
        history: one row per log line: `step`, `loss`, the metrics of what is learnt, `eval_...`.
        seconds: wall time of this process's part.
        before: the same metrics on the evaluation records before training; empty without them.
        before_losses, after_losses: of each evaluation record its summed loss and what that is divided by; empty where
            single records have no loss.
        truncated: records of which tokens were cut off.
        dropped: records without a response left, with reasons.
    """

    steps: int
    history: list[dict[str, float]]
    seconds: float
    before: dict[str, float] = field(default_factory=dict)
    truncated: int = 0
    dropped: int = 0
    before_losses: list[tuple[float, int]] = field(default_factory=list)
    after_losses: list[tuple[float, int]] = field(default_factory=list)

    def finite(self) -> FitResult:
        """Without the metrics that nothing was measured for (no thumbs-up in a batch), as JSON takes it."""
        history, before = [_finite(row) for row in self.history], _finite(self.before)
        return replace(self, history=history, before=before)


def _finite(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if math.isfinite(value)}
