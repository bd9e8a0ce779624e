"""Judged answers: the two prompts under which an answer is scored, with the judgment and without, and their mix."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from coalign.core.errors import DataError
from coalign.data.encoding import EncodedRecord
from coalign.data.records import Demonstration, Judgment, Messages, Record
from coalign.training.material import Material

T = TypeVar("T")
NO_COMPLAINT = ("", "none", "null")
"""What a judgment says, in lower case, when the judge had nothing to say."""
JUDGED = "{prompt}\n\nA reader judged the reply to this as follows. Write the reply that the judgment is about.\nJudgment: {judgment}"
"""The last user turn of a prompt that shows the judgment (our wording)."""


def is_appropriate(record: Judgment) -> bool:
    """Whether the answer is fine: the verdict says so, or without a verdict the judgment is empty or `None`."""
    if record.label is not None:
        return record.label
    return not _says_something(record)


def check_judgments(records: Sequence[Judgment]) -> None:
    """Every criticised record says what is wrong.

    Raises:
        DataError: records with a negative verdict and no words; every one named.
    """
    problems = [
        record.problem(
            "judgment", "says nothing, but the verdict is negative", "what is wrong with the answer"
        )
        for record in records
        if not is_appropriate(record) and not _says_something(record)
    ]
    if problems:
        raise DataError(
            f"{len(problems)} of {len(records)} judgments have a negative verdict without words.",
            problems,
            hint="A verdict alone is feedback: learn from it with `bco` or `kto`.",
        )


def judged_prompt(prompt: Messages, judgment: str) -> Messages:
    """The prompt whose last message also shows the judgment; an empty prompt becomes one user message."""
    messages: Messages = [{**message} for message in prompt] or [{"role": "user", "content": ""}]
    messages[-1]["content"] = JUDGED.format(
        prompt=messages[-1]["content"], judgment=judgment.strip()
    ).lstrip()
    return messages


def judgment_contexts(record: Judgment) -> tuple[Record, ...]:
    """The prompts under which an answer is scored: without the judgment, and for a criticised one also with it.

    Raises:
        DataError: see `check_judgments`.
    """
    check_judgments([record])
    plain = Demonstration.of(record, completion=record.completion)
    if is_appropriate(record):
        return (plain,)
    return (plain, replace(plain, prompt=judged_prompt(record.prompt, record.judgment)))


def align_answers(records: Sequence[EncodedRecord], max_length: int | None = None) -> list[EncodedRecord]:
    """Cut the answers of each record to the same length under its prompts: the longer prompt leaves less room.

    Args:
        records: encoded contexts, those of a record with the same `record_index`.
        max_length: was kept already.
    """
    shortest: dict[int, int] = {}
    for one in records:
        length = len(one.response_ids[0])
        shortest[one.record_index] = min(length, shortest.get(one.record_index, length))
    return [
        one
        if len(one.response_ids[0]) == shortest[one.record_index]
        else replace(one, response_ids=[one.response_ids[0][: shortest[one.record_index]]], truncated=True)
        for one in records
    ]


def keep_appropriate(
    records: Sequence[T], ratio: float, *, seed: int = 0, appropriate: Callable[[T], bool]
) -> list[T]:
    """All criticised records and, drawn at random, at most `ratio` times as many appropriate ones; order is kept.

    Args:
        appropriate: whether a record is (`is_appropriate`, or a row's label).
    """
    fine = [row for row, record in enumerate(records) if appropriate(record)]
    size = min(len(fine), round(ratio * (len(records) - len(fine))))
    dropped = set(fine).difference(random.Random(seed).sample(fine, size))
    return [record for row, record in enumerate(records) if row not in dropped]


def mix_judgments(material: Material, ratio: float, seed: int, name: str) -> Material:
    """All criticised answers and some of the fine ones (`keep_appropriate`), with notes on how many.

    Args:
        name: of the data, for messages.

    Raises:
        DataError: no answer is criticised.
    """
    records = [one for one in material.training if isinstance(one, Judgment)]
    fine = sum(map(is_appropriate, records))
    criticised = len(records) - fine
    if not criticised:
        raise DataError(
            f"{name}: none of {len(records)} answers is criticised, so there is nothing to unlearn.",
            hint="Give judgments that say what is wrong, or learn from these answers with `sft`.",
        )
    mixed: list[Record] = [*keep_appropriate(records, ratio, seed=seed, appropriate=is_appropriate)]
    kept = len(mixed) - criticised
    notes = [
        *material.notes,
        f"{criticised} criticised answers and {kept} of {fine} fine ones are trained on",
    ]
    if kept < 0.25 * criticised:
        notes.append(
            "With fewer fine answers than a quarter of the criticised ones training on one's own answers can diverge: "
            "add answers without complaint, or lower --unlikelihood-weight"
        )
    return Material(mixed, material.held_out, notes)


def _says_something(record: Judgment) -> bool:
    return record.judgment.strip().lower().rstrip(".") not in NO_COMPLAINT
