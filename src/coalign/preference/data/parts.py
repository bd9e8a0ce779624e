"""A training that is cut into parts, so that its records can be made anew from the model in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coalign.training.job import FitResult
from coalign.training.options import TrainingOptions


def due(step: int, *, warmup: int, every: int) -> bool:
    """Whether records are made anew after optimizer step `step`: at `warmup` and then every `every` steps."""
    return step >= warmup and (step - warmup) % every == 0


def segments(
    options: TrainingOptions, n_records: int, *, every: int | None, warmup: int | None = None
) -> list[int | None]:
    """Optimizer steps of each part; one part of all steps where nothing is made anew.

    Args:
        every: steps between two makings; None for one part.
        warmup: steps before the first one; by default `every`.
    """
    if every is None:
        return [options.max_steps]
    batches = math.ceil(n_records / options.batch_size)
    total = options.max_steps or math.ceil(
        options.epochs * math.ceil(batches / options.gradient_accumulation)
    )
    ends = [step for step in range(1, total) if due(step, warmup=warmup or every, every=every)]
    return [end - start for start, end in zip([0, *ends], [*ends, total], strict=True)]


def joined(results: Sequence[FitResult]) -> FitResult:
    """One result of several trainings that follow each other, with steps counted through."""
    history: list[dict[str, float]] = []
    done = 0
    for one in results:
        history += [{**row, "step": row["step"] + done} for row in one.history]
        done += one.steps
    last = results[-1]
    return FitResult(
        done,
        history,
        sum(one.seconds for one in results),
        results[0].before,
        last.truncated,
        last.dropped,
        results[0].before_losses,
        last.after_losses,
    )
