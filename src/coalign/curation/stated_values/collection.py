"""Instructions that were answered under several system messages each: rows of the pipeline, or of a file such as the
released Multifaceted Collection (`system`, `prompt`, `output`, `preference_set`). Demonstrations and pairs come of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from coalign.core.errors import DataError, RecordProblem
from coalign.data.checking.usable import repeated_ids
from coalign.data.messages import folded_system
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, Messages, Preference
from coalign.data.splits import split_records
from coalign.judging.store import content_hash
from coalign.judging.verifiers.constraints import Constraint, ConstraintError, parse_constraints


@dataclass(frozen=True)
class Wish:
    """One thing that a system message asks for.

    Attributes:
        dimension: of the hierarchy.
        name: what tables call it.
        text: what an answer then is like.
        constraints: what programs can check of it.
        levels: what single scores mean, where that is spelled out.
    """

    dimension: str
    name: str
    text: str
    constraints: tuple[Constraint, ...] = ()
    levels: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Answered:
    """An instruction under one system message, with an answer.

    Attributes:
        turns: the conversation up to the answer, without the system message.
        record: where it came from.
    """

    system: str
    turns: Messages
    output: str
    wishes: tuple[Wish, ...]
    record: Demonstration

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def group(self) -> str:
        """The same for all answers to one instruction."""
        return content_hash(self.turns)

    def prompt(self, *, fold: bool = False) -> Messages:
        """The conversation as a model is shown it; `fold`: its template has no system role."""
        return conversation(self.system, self.turns, fold=fold)


def conversation(system: str, turns: Messages, *, fold: bool = False) -> Messages:
    """A system message before the turns, whose last one loses white space at its end; an empty one is none.

    Args:
        fold: put it before the first question instead (`folded_system`).
    """
    last: Any = {**turns[-1], "content": turns[-1]["content"].rstrip()}
    first = [{"role": "system", "content": system}] if system.strip() else []
    made = cast(Messages, [*first, *turns[:-1], last])
    return folded_system(made) if fold else made


def without_system(prompt: Messages) -> tuple[str, Messages]:
    """(text of the system messages, the other turns)."""
    system = "\n".join(one["content"] for one in prompt if one["role"] == "system")
    return system, [one for one in prompt if one["role"] != "system"]


def read_collection(source: str | Path) -> list[Answered]:
    """The rows of a file: demonstrations with a system message.

    Raises:
        DataError: a row that cannot be read, is without a system message, has the id of another one, or a `preference_set` of
            another form.
    """
    records = cast("list[Demonstration]", read_records(source, kind="demonstration").records)
    found, problems = [], repeated_ids(records)
    for record in records:
        system, turns = without_system(record.prompt)
        if not system.strip() or not turns:
            problems.append(record.problem("system", "is missing", "a system message that states values"))
            continue
        wishes = wishes_of(record, record.extra.get("preference_set"), problems)
        found.append(Answered(system, turns, record.completion, wishes, record))
    if problems:
        raise DataError(f"{source}: {len({one.index for one in problems})} rows cannot be used.", problems)
    return found


def wishes_of(record: Demonstration, given: Any, problems: list[RecordProblem]) -> tuple[Wish, ...]:
    """The wishes of a `preference_set` (mappings with `preference` or `description`); without one the system message is
    one wish as a whole.
    """
    if not given:
        text = "The answer follows the system message in everything that it asks for."
        return (Wish("system message", "system message", text),)
    wishes = []
    for place, one in enumerate(given if isinstance(given, list) else [given]):
        where = f"preference_set[{place}]"
        text = (one.get("preference") or one.get("description")) if isinstance(one, Mapping) else None
        if not isinstance(text, str):
            problems.append(
                record.problem(where, "has no preference", "a mapping with preference or description")
            )
            continue
        try:
            constraints = parse_constraints(one["constraints"]) if one.get("constraints") else ()
        except ConstraintError as error:
            problems.append(record.problem(f"{where}.{error.field}", error.problem, error.expected))
            continue
        dimension = str(one.get("dimension") or f"value {place + 1}")
        name = str(one.get("value") or one.get("subdimension") or dimension)
        wishes.append(Wish(dimension, name, text, constraints))
    return tuple(wishes)


def grouped(rows: Sequence[Answered]) -> dict[str, list[Answered]]:
    """The rows of each instruction, in their order."""
    groups: dict[str, list[Answered]] = {}
    for one in rows:
        groups.setdefault(one.group, []).append(one)
    return groups


def split_by_instruction(
    rows: Sequence[Answered], share: float, seed: int
) -> tuple[list[Answered], list[Answered]]:
    """(training, held out): no instruction is on both sides."""
    bare = [replace(one.record, prompt=one.turns) for one in rows]
    held = {id(one) for one in split_records(bare, share, seed)[1]}
    sides: tuple[list[Answered], list[Answered]] = ([], [])
    for one, record in zip(rows, bare, strict=True):
        sides[id(record) in held].append(one)
    return sides


def demonstrations(rows: Sequence[Answered], *, fold: bool) -> list[Demonstration]:
    """What supervised fine-tuning learns from."""
    return [replace(one.record, prompt=one.prompt(fold=fold), plain=False) for one in rows]


def draw_pairs(rows: Sequence[Answered], seed: int, *, fold: bool) -> list[Preference]:
    """One pair an instruction: the answer under a drawn system message, and that under another one of its own.

    Both answers are good ones; only the system message says which fits. Instructions with one system message, or whose
    answers are all the same, give none.
    """
    pairs = []
    for key, mine in grouped(rows).items():
        draw = random.Random(f"{seed}/{key}")
        admissible = [
            (mine[system], mine[other])
            for system, _, other in cross_system_pairs(len(mine))
            if mine[system].output.strip() != mine[other].output.strip()
        ]
        if admissible:
            fitting, other = draw.choice(admissible)
            shown = replace(fitting.record, prompt=fitting.prompt(fold=fold), plain=False)
            pairs.append(Preference.of(shown, chosen=fitting.output, rejected=other.output))
    return pairs


def cross_system_pairs(count: int) -> list[tuple[int, int, int]]:
    """(system message, chosen, rejected) of one instruction with `count` system messages and an answer to each: the answer
    to a system message is better under it than the answer to any other.
    """
    return [(one, one, other) for one in range(count) for other in range(count) if other != one]
