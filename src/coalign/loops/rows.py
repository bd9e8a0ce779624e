"""Stage parts that several loops share: sampling responses row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

from coalign.data.records import Messages
from coalign.loops.rounds import Round
from coalign.models.types import Generation, Generator, Sampling


class Prompted(Protocol):
    """Anything with an id and a prompt."""

    @property
    def id(self) -> str: ...

    @property
    def prompt(self) -> Messages: ...


def row_id(place: int, prompt: Messages) -> str:
    """An id that changes with the prompt, so that rows kept for other data are not taken for a task's own."""
    digest = hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode()).hexdigest()
    return f"{place}-{digest[:12]}"


def sample_rows(
    round: Round,
    stage: str,
    tasks: Sequence[Prompted],
    generator: Generator,
    sampling: Sampling,
    label: str,
) -> list[dict[str, Any]]:
    """Sample responses to every task and keep one row a task in the stage's artefact, in task order at the end.

    A killed stage goes on at the first batch with a missing row; batches are composed from all tasks, so the text
    is that of an undisturbed run.

    Returns:
        `{"id", "responses": [{"text", "finish_reason", "tokens"}]}` for every task.
    """
    have = {row["id"] for row in round.read(stage)}

    def keep(batch: dict[int, list[Generation]]) -> None:
        rows = [
            {"id": tasks[index].id, "responses": [_row(one) for one in samples]}
            for index, samples in batch.items()
            if tasks[index].id not in have
        ]
        round.append(stage, rows)
        have.update(row["id"] for row in rows)

    done = [index for index, task in enumerate(tasks) if task.id in have]
    generator.generate([task.prompt for task in tasks], sampling, done=done, on_batch=keep, label=label)
    by_id = {row["id"]: row for row in round.read(stage)}
    rows = [by_id[task.id] for task in tasks]
    round.write(stage, rows)  # batches finish in order of length
    return rows


def _row(sample: Generation) -> dict[str, Any]:
    return {"text": sample.text, "finish_reason": sample.finish_reason, "tokens": sample.length}
