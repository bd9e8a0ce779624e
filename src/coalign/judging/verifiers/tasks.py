"""Prompts that carry checkable constraints: reading them, and measuring responses against them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.checking.usable import repeated_ids
from coalign.data.readers import read_records
from coalign.data.records import Messages, Record
from coalign.judging.verifiers.constraints import (
    Constraint,
    ConstraintError,
    constraint_satisfaction,
)
from coalign.judging.verifiers.following import constraints_of

BUNDLED = "quickstart"
HELD_OUT = ("heldout", "held-out", "test", "validation", "eval")


@dataclass(frozen=True)
class ConstraintTask:
    """A prompt, its constraints, and the group whose answers are compared with each other, if any."""

    id: str
    prompt: Messages
    constraints: tuple[Constraint, ...]
    group: str | None = None
    split: str = "train"

    @property
    def text(self) -> str:
        """The last user message: what verifiers see as the prompt."""
        return self.prompt[-1]["content"]

    @property
    def tags(self) -> list[str]:
        """The verifiers it uses, for a breakdown by kind."""
        return sorted({one.verifier.replace("_", " ") for one in self.constraints})


def read_tasks(source: str | Path) -> list[ConstraintTask]:
    """Read prompts with a `constraints` column (and optional `group_id`, `split`, `id`).

    Args:
        source: a file or hub id, or `quickstart` for the bundled prompts.

    Raises:
        DataError: a row without usable constraints, two rows with one id, or a group constraint without a group; every
            such row is listed.
    """
    records = prompt_records(source)
    return make_tasks(records, _task, lambda tasks: _lonely(tasks, records))


def prompt_records(source: str | Path, limit: int | None = None) -> list[Record]:
    """The prompts of a file or hub id, or of `quickstart`, the bundled ones.

    Raises:
        DataError: the source cannot be read.
    """
    if str(source) == BUNDLED:
        with resources.as_file(resources.files("coalign.selfalign") / "assets" / "quickstart.jsonl") as path:
            return prompt_records(path, limit)
    return [*read_records(source, kind="prompt", limit=limit).records]


def make_tasks(
    records: Sequence[Record],
    make: Callable[[Record], ConstraintTask],
    check: Callable[[list[ConstraintTask]], list[RecordProblem]] = lambda _: [],
) -> list[ConstraintTask]:
    """The tasks of records.

    Args:
        make: raises `ConstraintError` for a record that cannot be used.
        check: finds what is wrong with the tasks together.

    Raises:
        DataError: a record that cannot be used, or two with one id; every such record is listed.
    """
    tasks: list[ConstraintTask] = []
    problems: list[RecordProblem] = []
    for record in records:
        try:
            tasks.append(make(record))
        except ConstraintError as error:
            problems.append(record.problem(error.field, error.problem, error.expected))
    problems += repeated_ids(records) + check(tasks)
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} prompts cannot be used.", problems)
    return tasks


def split_tasks(
    tasks: Sequence[ConstraintTask], eval_fraction: float, seed: int
) -> tuple[list[ConstraintTask], list[ConstraintTask]]:
    """(training, held-out) tasks: by the `split` column where it names held-out rows, else by a seeded draw of whole
    groups.

    Raises:
        DataError: one side is empty.
    """
    held_out = [task for task in tasks if task.split.lower() in HELD_OUT]
    training = [task for task in tasks if task.split.lower() not in HELD_OUT]
    if not held_out:
        training, held_out = _draw(tasks, eval_fraction, seed)
    if not training or not held_out:
        raise DataError(
            f"{len(training)} training and {len(held_out)} held-out prompts: both sides need some.",
            hint="Mark held-out rows with split=heldout, or set --eval-fraction.",
        )
    return training, held_out


def measure_responses(
    tasks: Mapping[str, ConstraintTask],
    rows: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Constraint satisfaction of sampled responses (`rewards.verifiers.constraint_satisfaction`).

    Args:
        tasks: by id.
        rows: with the columns `id` and `responses` [K]; every task of a group has K responses, and response k is
            compared with response k of the others.

    Returns:
        The rows with `csr` [K] and `values` [K][constraints].
    """
    rows = list(rows)
    texts = {row["id"]: row["responses"] for row in rows}
    groups: dict[str, list[str]] = {}
    for row in rows:
        group = tasks[row["id"]].group
        if group is not None:
            groups.setdefault(group, []).append(row["id"])
    measured = []
    for row in rows:
        task = tasks[row["id"]]
        others = [other for other in groups.get(task.group or "", []) if other != task.id]
        csr, values = [], []
        for k, response in enumerate(row["responses"]):
            group = [
                (tasks[other].text, texts[other][k]) for other in others if k < len(texts[other])
            ] or None
            total, each = constraint_satisfaction(task.text, response, task.constraints, group)
            csr.append(total)
            values.append(each)
        measured.append({**row, "csr": csr, "values": values})
    return measured


def _task(record: Record) -> ConstraintTask:
    group = record.extra.get("group_id")
    return ConstraintTask(
        id=record.id,
        prompt=record.prompt,
        constraints=constraints_of(record.extra),
        group=None if group is None else str(group),
        split=str(record.extra.get("split", "train")),
    )


def _lonely(tasks: Sequence[ConstraintTask], records: Sequence[Record]) -> list[RecordProblem]:
    """Group constraints whose group has no other member."""
    sizes: dict[str | None, int] = {}
    for task in tasks:
        sizes[task.group] = sizes.get(task.group, 0) + 1
    by_id = {record.id: record for record in records}
    return [
        by_id[task.id].problem("group_id", "has no other prompt in its group", "two or more prompts a group")
        for task in tasks
        if any(one.needs_group for one in task.constraints) and (task.group is None or sizes[task.group] < 2)
    ]


def _draw(
    tasks: Sequence[ConstraintTask], fraction: float, seed: int
) -> tuple[list[ConstraintTask], list[ConstraintTask]]:
    groups: dict[str, list[ConstraintTask]] = {}
    for task in tasks:
        groups.setdefault(task.group if task.group is not None else f"\0{task.id}", []).append(task)
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    wanted = round(fraction * len(tasks))
    held_out: list[ConstraintTask] = []
    for name in names:
        if len(held_out) >= wanted:
            break
        held_out += groups[name]
    chosen = {task.id for task in held_out}
    return [task for task in tasks if task.id not in chosen], held_out
