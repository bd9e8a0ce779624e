"""What is trained on and what is evaluated on: parts that share no prompt, caps and weights of sources."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from coalign.core.errors import ConfigError
from coalign.data.prepared.many import RecordStore, Selection, joined, taken
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
    training, held_out = split_parts([records], eval_fraction, seed)[0]
    return [*training], [*held_out]


def split_parts(
    parts: Sequence[Sequence[R]], eval_fraction: float, seed: int = 0
) -> list[tuple[Sequence[R], Sequence[R]]]:
    """As `split_records`, for each of several sources: of each its own share of prompts is held out, and no prompt is
    on both sides, whichever sources have it. A source with one prompt gives it to training. Records that lie on disk stay
    there.

    Raises:
        ConfigError: as of `split_records`, over all sources together.
    """
    if not 0 <= eval_fraction < 1:
        raise ConfigError(f"eval_fraction: {eval_fraction} is not usable, expected at least 0 and below 1")
    if eval_fraction == 0:
        return [(records, taken(records, np.arange(0))) for records in parts]
    hashes = [_hashes(records, seed) for records in parts]
    different = len(_ordered(np.concatenate(hashes)))
    if different < 2:
        raise ConfigError(
            f"eval_fraction: cannot split {sum(map(len, parts))} records of {different} different prompt.",
            hint="Give more prompts, or eval_fraction 0.",
        )
    held_out: set[bytes] = set()
    for order in map(_ordered, hashes):
        least = 2 if len(order) >= FEWEST_PROMPTS else 1
        count = min(max(least, round(eval_fraction * len(order))), len(order) - 1)
        held_out.update(one.tobytes() for one in order[: max(count, 0)])
    sides: list[tuple[Sequence[R], Sequence[R]]] = []
    for records, keys in zip(parts, hashes, strict=True):
        held = np.fromiter((one.tobytes() in held_out for one in keys), bool, len(keys))
        sides.append((taken(records, np.flatnonzero(~held)), taken(records, np.flatnonzero(held))))
    return sides


def different_prompts(parts: Sequence[Sequence[Record]], seed: int = 0) -> int:
    """How many different prompts the records of all parts have.

    Args:
        seed: of a split by which they are hashed anyway; it changes nothing.
    """
    hashes = [_hashes(records, seed) for records in parts]
    return len(_ordered(np.concatenate(hashes))) if hashes else 0


def drawn(records: Sequence[R], n: int | None, key: str) -> Sequence[R]:
    """At most `n` of the records, drawn by `key` (a seed and a name), in their order; all of them for None."""
    if n is None or n >= len(records):
        return records
    return taken(records, np.array(sorted(random.Random(key).sample(range(len(records)), n)), dtype=np.int64))


def weighted(records: Sequence[R], weight: float, key: str) -> Sequence[R]:
    """The records as often as a weight says: 2 gives each twice, 0.5 half of them, 2.5 each twice and half of them a
    third time; what is left of a whole number is drawn by `key`.
    """
    whole, rest = divmod(weight, 1)
    return joined([*[records] * int(whole), drawn(records, round(rest * len(records)), key)])


def prompt_key(record: Record) -> str:
    """What makes two records the same task: their prompt, or for unconditional text their responses. The same wherever
    the data lie: a copy of a folder of pictures is split as the folder is.
    """
    task: Any = record.prompt or responses_of(record)
    if record.template_arguments:
        task = [task, record.template_arguments]
    if record.pictures:
        task = [task, [one.source_key for one in record.pictures]]
    return json.dumps(task, ensure_ascii=False, sort_keys=True)


def _hashes(records: Sequence[Record], seed: int) -> np.ndarray:
    """[N, 16] seeded hash of each record's prompt; of records on disk kept beside them."""

    def make(record: Record) -> bytes:
        key = f"{seed}\0{prompt_key(record)}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(key, digest_size=16).digest()

    if isinstance(records, RecordStore):
        return records.kept(f"prompts-{seed}", make)
    if isinstance(records, Selection):
        parts: list[np.ndarray] = [_hashes(one, seed) for one in records.parts]
        return np.concatenate(parts)[records.places]
    return np.frombuffer(b"".join(map(make, records)), np.uint8).reshape(len(records), 16)


def _ordered(hashes: np.ndarray) -> np.ndarray:
    """The different ones, in the order of their bytes."""
    halves = np.ascontiguousarray(hashes).view(">u8")
    order = hashes[np.lexsort((halves[:, 1], halves[:, 0]))]
    first = np.ones(len(order), bool)
    first[1:] = (order[1:] != order[:-1]).any(axis=1)
    return order[first]
