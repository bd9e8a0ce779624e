"""Few pictures of each class, drawn once for all who compare on them, and classes that are held out."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from coalign.core.errors import DataError
from coalign.data.media.records import MediaRecord
from coalign.vision.tuning.options import Protocol


@dataclass(frozen=True)
class Shots:
    """What a seed trains on.

    Attributes:
        records: the shots of every class, in the order of `classes`.
        rest: the other records of these classes.
        short: classes with fewer pictures than shots, and how many they have.
    """

    records: list[MediaRecord]
    rest: list[MediaRecord]
    short: dict[str, int]


def classes_of(records: Sequence[MediaRecord]) -> list[str]:
    """Names of the classes, sorted."""
    return sorted({str(one.label) for one in records})


def base_and_novel(classes: Sequence[str], protocol: Protocol) -> tuple[list[str], list[str]]:
    """The first half of the sorted classes, rounded up, and the others; all and none under `all`."""
    ordered = sorted(classes)
    cut = math.ceil(len(ordered) / 2) if protocol == "base-to-novel" else len(ordered)
    return ordered[:cut], ordered[cut:]


def draw_shots(records: Sequence[MediaRecord], classes: Sequence[str], shots: int, seed: int) -> Shots:
    """So many records of each class, drawn by (seed, class) alone: other classes and the order of the file change nothing.

    Raises:
        DataError: a class without a picture.
    """
    by_class: dict[str, list[MediaRecord]] = defaultdict(list)
    for one in records:
        by_class[str(one.label)].append(one)
    taken: list[MediaRecord] = []
    rest: list[MediaRecord] = []
    short: dict[str, int] = {}
    for name in classes:
        pool = sorted(by_class[name], key=lambda one: one.id)
        if not pool:
            raise DataError(f"no picture of the class {name!r}, expected at least one")
        if len(pool) < shots:
            short[name] = len(pool)
        random.Random(f"{seed}/{name}").shuffle(pool)
        taken += pool[:shots]
        rest += pool[shots:]
    return Shots(taken, rest, short)


def harmonic_mean(base: float, novel: float) -> float:
    """2 base novel / (base + novel); 0 where both are."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0
