"""Train and evaluation parts that share no prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from coalign.core.errors import ConfigError
from coalign.data.records import Record, responses_of

R = TypeVar("R", bound=Record)


def split_records(records: Sequence[R], eval_fraction: float, seed: int = 0) -> tuple[list[R], list[R]]:
    """Split into (train, evaluation), in the given order within each.

    Prompts are ordered by a seeded hash and the first `eval_fraction` of them (at least one) is held out with all
    their records: the same prompt is never on both sides, and neither the order of the file nor a duplicate changes
    where a prompt goes. Records without a prompt go by their responses.

    Raises:
        ConfigError: `eval_fraction` is not in [0, 1), or there are fewer than two different prompts to split.
    """
    if not 0 <= eval_fraction < 1:
        raise ConfigError(f"eval_fraction: {eval_fraction} is not usable, expected at least 0 and below 1")
    if eval_fraction == 0:
        return list(records), []
    hashes = [_hash(record, seed) for record in records]
    order = sorted(set(hashes))
    if len(order) < 2:
        raise ConfigError(
            f"eval_fraction: cannot split {len(records)} records of {len(order)} different prompt.",
            hint="Give more prompts, or eval_fraction 0.",
        )
    held_out = set(order[: min(max(1, round(eval_fraction * len(order))), len(order) - 1)])
    train = [record for record, one in zip(records, hashes, strict=True) if one not in held_out]
    evaluation = [record for record, one in zip(records, hashes, strict=True) if one in held_out]
    return train, evaluation


def prompt_key(record: Record) -> str:
    """What makes two records the same task: their prompt, or for unconditional text their responses."""
    task: Any = record.prompt or responses_of(record)
    if record.template_arguments:
        task = [task, record.template_arguments]
    return json.dumps(task, ensure_ascii=False, sort_keys=True)


def _hash(record: Record, seed: int) -> bytes:
    return hashlib.blake2b(
        f"{seed}\0{prompt_key(record)}".encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
