"""Known signs that reinforcement learning goes wrong: pure functions on log rows and on held-out evaluations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.training.watch.monitor import WINDOW, Row, Sign

ENTROPY_SHARE = 0.2
"""Of the entropy at the beginning: below, samples hardly differ any more."""
TRUNCATED_SHARE = 0.5
GAP_LIMIT = 0.05
"""Nats a token between sampler and trainer: above, what is learnt from is not what was sampled."""
CLIP_SHARE = 0.3
FALL_ERRORS = 2.0
"""Standard errors by which a held-out reward has fallen below its best."""


def online_signs(rows: Sequence[Row]) -> list[Sign]:
    """What looks wrong in the log rows of one training, in order."""
    checks = (entropy_collapses, much_truncated, sampler_differs, much_clipped)
    return [sign for check in checks if (sign := check(rows)) is not None]


def entropy_collapses(rows: Sequence[Row]) -> Sign | None:
    """The policy says nearly the same whatever is drawn: nothing new is tried."""
    values = _values(rows, "entropy")
    if len(values) < 2 * WINDOW:
        return None
    first, last = statistics.fmean(values[:WINDOW]), statistics.fmean(values[-WINDOW:])
    if last >= ENTROPY_SHARE * first:
        return None
    return Sign(
        "entropy_collapses",
        f"The entropy fell from {first:.2g} to {last:.2g} nats a token: samples of a prompt hardly differ any more.",
        "Lower the learning rate, hold the policy to the start model (--beta), clip higher (--epsilon-high 0.28), or stop here.",
    )


def much_truncated(rows: Sequence[Row]) -> Sign | None:
    """Most responses run out of tokens."""
    values = _values(rows, "responses/truncated")[-WINDOW:]
    if len(values) < 5 or statistics.fmean(values) <= TRUNCATED_SHARE:
        return None
    return Sign(
        "much_truncated",
        f"{100 * statistics.fmean(values):.0f} % of the responses run out of tokens.",
        "Raise --max-new-tokens, or say what such a response is worth: --truncated mask or penalise.",
    )


def sampler_differs(rows: Sequence[Row]) -> Sign | None:
    """Sampler and trainer give one token different probabilities."""
    values = _values(rows, "sampler/gap")[-WINDOW:]
    if len(values) < 2 or statistics.fmean(values) <= GAP_LIMIT:
        return None
    return Sign(
        "sampler_differs",
        f"Log-probabilities of sampler and trainer differ by {statistics.fmean(values):.2g} nats a token.",
        "Sample in the number format of the training (--dtype float32); without a server also without merged weights (--merge-rollout false).",
    )


def much_clipped(rows: Sequence[Row]) -> Sign | None:
    """Many tokens are beyond the clip, and so get no gradient."""
    values = _values(rows, "clip/fraction")[-WINDOW:]
    if len(values) < 5 or statistics.fmean(values) <= CLIP_SHARE:
        return None
    return Sign(
        "much_clipped",
        f"{100 * statistics.fmean(values):.0f} % of the tokens are at the clip and get no gradient.",
        "Make fewer passes over a rollout (--updates, --minibatches), or lower the learning rate.",
    )


def held_out_falls(evaluations: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> Sign | None:
    """The reward in training rises while that of held-out prompts falls below its best: the prompts are learnt by heart, or the
    reward is gamed in a way that depends on them.

    Args:
        evaluations: with `step` and `rewards`, one number a prompt or None.
        rows: of the training's log.
    """
    known = [[one for one in row["rewards"] if one is not None] for row in evaluations]
    if len(known) < 3 or any(len(one) < 2 for one in known):
        return None
    means = [statistics.fmean(one) for one in known]
    best = max(range(len(means)), key=means.__getitem__)
    error = statistics.stdev(known[-1]) / math.sqrt(len(known[-1]))
    since = [
        row["reward"]
        for row in rows
        if row.get("step", 0) > evaluations[best]["step"] and _is_number(row, "reward")
    ]
    half = len(since) // 2
    fell = means[best] - means[-1] > FALL_ERRORS * error
    if not (fell and half >= 2 and statistics.fmean(since[half:]) > statistics.fmean(since[:half])):
        return None
    return Sign(
        "held_out_falls",
        f"The held-out reward fell from {means[best]:.3f} (step {evaluations[best]['step']}) to {means[-1]:.3f} while that of the "
        "training rose.",
        "Stop at the earlier step, use more prompts, hold the policy to the start model (--beta), and read the samples.",
    )


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if _is_number(row, key)]


def _is_number(row: Row, key: str) -> bool:
    value = row.get(key)
    return isinstance(value, int | float) and math.isfinite(value)
