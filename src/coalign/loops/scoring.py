"""What models say of a round's responses, chunk by chunk: kept row by row and continued after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.progress import progress
from coalign.loops.rows import Keep, Row, fill_rows

if TYPE_CHECKING:
    from coalign.models.implicit_reward import SequenceLogps
    from coalign.models.options import ModelOptions

CHUNK = 16
"""Rows that are made and kept together: always the same ones, so that numbers do not depend on where a run was cut."""


def chunked_rows(
    path: Path,
    rows: Sequence[Row],
    open_work: Callable[[], Callable[[Sequence[Row]], list[Row]]],
    *,
    label: str,
    unit: str = "prompt",
) -> list[Row]:
    """One row for each of `rows`, made a chunk at a time and kept in `path`; what is there is not made again.

    Args:
        rows: with an `id` each, all different.
        open_work: opens what makes the rows of a chunk; called only where one is missing.
    """

    def work(done: list[int], keep: Keep) -> None:
        make, there = open_work(), {*done}
        with progress(len(rows), label, unit=unit) as bar:
            for start in range(0, len(rows), CHUNK):
                part = rows[start : start + CHUNK]
                places = range(start, start + len(part))
                if not there.issuperset(places):
                    keep(dict(zip(places, make(part), strict=True)))
                bar.advance(len(part))

    return fill_rows(path, [row["id"] for row in rows], work)


def scored_logps(
    path: Path, rows: Sequence[Row], policy: ModelOptions, limits: Any, *, label: str
) -> SequenceLogps:
    """Log-probabilities of the `responses` of `rows` under the model of `policy`.

    Args:
        path: keeps a row a prompt: `id`, `logps` (sums over tokens, null where the prompt leaves no room) and
            `scored_tokens`.
        limits: has `max_length` and `max_prompt_length`, as the training that follows.
    """
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.models.implicit_reward import SequenceLogps, sequence_logps

    def open_scorer() -> Callable[[Sequence[Row]], list[Row]]:
        model, tokenizer = load_model(policy, training=False), load_tokenizer(policy)

        def score(part: Sequence[Row]) -> list[Row]:
            found = sequence_logps(
                model,
                tokenizer,
                [row["prompt"] for row in part],
                [row["responses"] for row in part],
                max_length=limits.max_length,
                max_prompt_length=limits.max_prompt_length,
            )
            return [
                {"logps": [None if math.isnan(one) else one for one in sums], "scored_tokens": n}
                for sums, n in zip(found.sums, found.tokens, strict=True)
            ]

        return score

    kept = chunked_rows(path, rows, open_scorer, label=label)
    return SequenceLogps(
        [[math.nan if one is None else one for one in row["logps"]] for row in kept],
        [row["scored_tokens"] for row in kept],
    )


def implicit_rewards(
    folder: Path,
    name: str,
    rows: Sequence[Row],
    policy: ModelOptions,
    reference: ModelOptions,
    limits: Any,
    *,
    beta: float,
) -> list[list[float | None]]:
    """`beta log(pi / pi_ref)` of the `responses` of `rows`, sums over tokens; None where a prompt leaves no room.

    Args:
        folder: keeps the log-probabilities of both models, `logps-<name>` and `logps-<name>-reference`.
        name: of these rows, with dashes.
        limits: see `scored_logps`.
    """
    label = f"Scoring {name.replace('-', ' ')}"
    now = scored_logps(folder / f"logps-{name}.jsonl", rows, policy, limits, label=label)
    path = folder / f"logps-{name}-reference.jsonl"
    fixed = scored_logps(path, rows, reference, limits, label=f"{label} under the reference")
    found = now.rewards(fixed, beta=beta)
    return [[None if math.isnan(one) else one for one in rewards] for rewards in found]


def best_and_worst(rewards: Sequence[float]) -> tuple[int, int] | None:
    """Places of the highest and the lowest reward, of equals the first; None where all are equal."""
    best, worst = (pick(range(len(rewards)), key=rewards.__getitem__) for pick in (max, min))
    return (best, worst) if rewards[best] > rewards[worst] else None
