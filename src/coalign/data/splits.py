"""What is trained on and what is evaluated on: parts that share no prompt, caps and weights of sources."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from typing import Any, TypeVar

from coalign.core.errors import ConfigError
from coalign.data.records import Record, responses_of

FEWEST_PROMPTS = 4
"""Different prompts from which on two can be held out and as many are left."""
R = TypeVar("R", bound=Record)


def split_records(records: Sequence[R], eval_fraction: float, seed: int = 0) -> tuple[list[R], list[R]]:
    """Split into (train, evaluation), in the given order within each.

    Prompts are ordered by a seeded hash and the first `eval_fraction` of them is held out with all their records: the
    same prompt is never on both sides, and neither the order of the file nor a duplicate changes where a prompt goes.
    At least two are held out (one of two or three), since nothing can be told of one and objectives that compare prompts
    with each other cannot be evaluated on it. Records without a prompt go by their responses.

    Raises:
        ConfigError: `eval_fraction` is not in [0, 1), or there are fewer than two different prompts to split.
    """
    return split_parts([records], eval_fraction, seed)[0]


def split_parts(
    parts: Sequence[Sequence[R]], eval_fraction: float, seed: int = 0
) -> list[tuple[list[R], list[R]]]:
    """As `split_records`, for each of several sources: of each its own share of prompts is held out, and no prompt is
    on both sides, whichever sources have it. A source with one prompt gives it to training.

    Raises:
        ConfigError: as of `split_records`, over all sources together.
    """
    if not 0 <= eval_fraction < 1:
        raise ConfigError(f"eval_fraction: {eval_fraction} is not usable, expected at least 0 and below 1")
    if eval_fraction == 0:
        return [(list(records), []) for records in parts]
    hashes = [[_hash(record, seed) for record in records] for records in parts]
    different = len(set().union(*hashes))
    if different < 2:
        raise ConfigError(
            f"eval_fraction: cannot split {sum(map(len, parts))} records of {different} different prompt.",
            hint="Give more prompts, or eval_fraction 0.",
        )
    held_out: set[bytes] = set()
    for order in (sorted(set(one)) for one in hashes):
        least = 2 if len(order) >= FEWEST_PROMPTS else 1
        held_out.update(order[: min(max(least, round(eval_fraction * len(order))), len(order) - 1)])

    def side(records: Sequence[R], keys: Sequence[bytes], held: bool) -> list[R]:
        return [record for record, one in zip(records, keys, strict=True) if (one in held_out) == held]

    return [
        (side(records, keys, False), side(records, keys, True))
        for records, keys in zip(parts, hashes, strict=True)
    ]


def different_prompts(parts: Sequence[Sequence[Record]]) -> int:
    """How many different prompts the records of all parts have."""
    return len({prompt_key(record) for records in parts for record in records})


def drawn(records: Sequence[R], n: int | None, key: str) -> list[R]:
    """At most `n` of the records, drawn by `key` (a seed and a name), in their order; all of them for None."""
    if n is None or n >= len(records):
        return list(records)
    return [records[place] for place in sorted(random.Random(key).sample(range(len(records)), n))]


def weighted(records: Sequence[R], weight: float, key: str) -> list[R]:
    """The records as often as a weight says: 2 gives each twice, 0.5 half of them, 2.5 each twice and half of them a
    third time; what is left of a whole number is drawn by `key`.
    """
    whole, rest = divmod(weight, 1)
    return [*records] * int(whole) + drawn(records, round(rest * len(records)), key)


def prompt_key(record: Record) -> str:
    """What makes two records the same task: their prompt, or for unconditional text their responses."""
    task: Any = record.prompt or responses_of(record)
    if record.template_arguments:
        task = [task, record.template_arguments]
    if record.pictures:
        task = [task, [one.key for one in record.pictures]]
    return json.dumps(task, ensure_ascii=False, sort_keys=True)


def _hash(record: Record, seed: int) -> bytes:
    return hashlib.blake2b(
        f"{seed}\0{prompt_key(record)}".encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
