"""What models say of a round's responses, chunk by chunk: kept row by row and continued after a kill."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from coalign.core.progress import progress
from coalign.loops.rows import Keep, Row, fill_rows
from coalign.models.options import ModelOptions
from coalign.training.distributed.shared_work import group_size, kept, leads, share

if TYPE_CHECKING:
    from coalign.models.implicit_reward import SequenceLogps

CHUNK = 16
"""Rows that are made and kept together: always the same ones, so that numbers do not depend on where a run was cut."""


def chunked_rows(
    path: Path,
    rows: Sequence[Row],
    open_work: Callable[[], Callable[[Sequence[Row]], list[Row]]],
    *,
    label: str,
    unit: str = "prompt",
    by_others: Callable[[Sequence[Row]], list[Row]] | None = None,
) -> list[Row]:
    """One row for each of `rows`, made a chunk at a time and kept in `path`; what is there is not made again.

    Args:
        rows: with an `id` each, all different.
        open_work: opens what makes the rows of a chunk; called only where one is missing.
        by_others: makes them in any process, where the processes of a launcher can share the chunks
            (`coalign.training.distributed.leading`); something that `pickle` takes.
    """

    def work(done: list[int], keep: Keep) -> None:
        there = {*done}
        chunks = [range(start, min(start + CHUNK, len(rows))) for start in range(0, len(rows), CHUNK)]
        missing = [one for one in chunks if not there.issuperset(one)]
        others = by_others if len(missing) > 1 and leads() else None
        size = group_size() if others else 1
        make = None if others else open_work()
        with progress(len(rows), label, unit=unit) as bar:
            bar.advance(len(rows) - sum(map(len, missing)))
            for start in range(0, len(missing), size):
                places = missing[start : start + size]
                parts = [[rows[place] for place in one] for one in places]
                made = [make(parts[0])] if make else share(cast(Any, others), parts)
                keep(
                    {
                        place: row
                        for one, part in zip(places, made, strict=True)
                        for place, row in zip(one, part, strict=True)
                    }
                )
                bar.advance(sum(map(len, places)))

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
    from coalign.models.implicit_reward import SequenceLogps

    scorer = _Scorer(ModelOptions.of(policy), limits.max_length, limits.max_prompt_length)
    asked = [{name: row[name] for name in ("id", "prompt", "responses")} for row in rows]
    kept_rows = chunked_rows(path, asked, scorer.open, label=label, by_others=scorer)
    return SequenceLogps(
        [[math.nan if one is None else one for one in row["logps"]] for row in kept_rows],
        [row["scored_tokens"] for row in kept_rows],
    )


@dataclass(frozen=True)
class _Scorer:
    """Log-probabilities of responses under a model; a process that calls it keeps the model."""

    policy: ModelOptions
    max_length: int | None
    max_prompt_length: int | None

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return kept(pickle.dumps(self), self.open)(rows)

    def open(self) -> Callable[[Sequence[Row]], list[Row]]:
        from coalign.models.files.loading import load_model, load_tokenizer
        from coalign.models.implicit_reward import sequence_logps

        model, tokenizer = load_model(self.policy, training=False), load_tokenizer(self.policy)

        def score(rows: Sequence[Row]) -> list[Row]:
            found = sequence_logps(
                model,
                tokenizer,
                [row["prompt"] for row in rows],
                [row["responses"] for row in rows],
                max_length=self.max_length,
                max_prompt_length=self.max_prompt_length,
            )
            return [
                {"logps": [None if math.isnan(one) else one for one in sums], "scored_tokens": n}
                for sums, n in zip(found.sums, found.tokens, strict=True)
            ]

        return score


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
