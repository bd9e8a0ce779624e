"""Judged answers: the two prompts under which an answer is scored, with the judgment and without, and their mix."""

from __future__ import annotations

import random
from collections.abc import Sequence

from coalign.data.records import Demonstration, Judgment, Messages, Record

NO_COMPLAINT = ("", "none", "null")
"""What a judgment says, in lower case, when the judge had nothing to say."""
JUDGED = "{prompt}\n\nA reader judged the reply to this as follows. Write the reply that the judgment is about.\nJudgment: {judgment}"
"""The last user turn of a prompt that shows the judgment (our wording)."""


def is_appropriate(record: Judgment) -> bool:
    """Whether the answer is fine: the verdict says so, or without a verdict the judgment is empty or `None`."""
    if record.label is not None:
        return record.label
    return record.judgment.strip().lower().rstrip(".") in NO_COMPLAINT


def judged_prompt(prompt: Messages, judgment: str) -> Messages:
    """The prompt whose last message also shows the judgment; an empty prompt becomes one user message."""
    messages: Messages = [{**message} for message in prompt] or [{"role": "user", "content": ""}]
    messages[-1]["content"] = JUDGED.format(
        prompt=messages[-1]["content"], judgment=judgment.strip()
    ).lstrip()
    return messages


def judgment_contexts(record: Judgment) -> tuple[Record, ...]:
    """The prompts under which an answer is scored: without the judgment, and for a criticised one also with it."""
    plain = _demonstration(record, record.prompt)
    if is_appropriate(record):
        return (plain,)
    return (plain, _demonstration(record, judged_prompt(record.prompt, record.judgment)))


def keep_appropriate(records: Sequence[Judgment], ratio: float, *, seed: int = 0) -> list[Judgment]:
    """All criticised records and, drawn at random, at most `ratio` times as many appropriate ones; order is kept."""
    fine = [row for row, record in enumerate(records) if is_appropriate(record)]
    size = min(len(fine), round(ratio * (len(records) - len(fine))))
    dropped = set(fine).difference(random.Random(seed).sample(fine, size))
    return [record for row, record in enumerate(records) if row not in dropped]


def _demonstration(record: Judgment, prompt: Messages) -> Demonstration:
    return Demonstration(
        prompt=prompt,
        completion=record.completion,
        source=record.source,
        extra=record.extra,
        plain=record.plain,
    )
