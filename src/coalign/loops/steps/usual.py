"""The usual steps without a model that see records as they come: filter, rewrite, score, novelty, a fixed number.

Functions that a step is given see the record alone and leave it as it is; where several processes share the work they
must be picklable. Those that need to see all records are in `coalign.loops.steps.choices`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Kept, Made, Rejected
from coalign.measures.texts.novelty import NoveltyPool
from coalign.measures.texts.templates import TemplatePool

NOT_SCORABLE = "not scorable"
"""Begins the reason against a record that has no score."""


@dataclass(frozen=True)
class Filter:
    """Rejects the records that `reason` gives a reason against (a few words, empty or None where there is none)."""

    name: str
    reason: Callable[[Row], str | None]
    needs: Sequence[str] = ()

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        return [[Rejected(row, why) if (why := self.reason(row)) else Kept(row)] for row in rows]


@dataclass(frozen=True)
class Rewrite:
    """Puts in a record's place what `rewrite` makes of it: a row, or several results, none of which is a reason."""

    name: str
    rewrite: Callable[[Row], Row | Sequence[Made]]
    needs: Sequence[str] = ()

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        made = map(self.rewrite, map(dict, rows))  # what it changes in place is changed
        return [[Kept(one)] if isinstance(one, Mapping) else list(one) for one in made]


@dataclass(frozen=True)
class Score:
    """Adds the column `column`: what `score` says of some records together. A record without a score (None, or not a
    number) is not scorable: it is rejected and counted, never 0.
    """

    name: str
    column: str
    score: Callable[[Sequence[Row]], Sequence[float | None]]
    needs: Sequence[str] = ()

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        return [[scored(row, self.column, value)] for row, value in zip(rows, self.score(rows), strict=True)]


def scored(row: Row, column: str, value: float | None, failure: str = "", **facts: Any) -> Made:
    """A record with its score, or rejected as not scorable."""
    if value is None or math.isnan(value):
        return Rejected(row, f"{NOT_SCORABLE}: {failure}" if failure else NOT_SCORABLE, facts)
    return Kept({**row, column: value}, {"score": value, **facts})


@dataclass(frozen=True)
class Above:
    """Keeps the records whose `column` is strictly above a threshold."""

    name: str
    column: str
    threshold: float

    @property
    def needs(self) -> Sequence[str]:
        return (self.column,)

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        why = f"{self.column} not above {self.threshold:g}"
        return [[Kept(row) if row[self.column] > self.threshold else Rejected(row, why)] for row in rows]


@dataclass
class Distinct:
    """Keeps the first of the records that have the same key. 16 bytes of each key are remembered."""

    name: str
    key: Callable[[Row], str]
    needs: Sequence[str] = ()
    full: bool = field(default=False, init=False)
    _seen: set[bytes] = field(default_factory=set, init=False)

    def look(self, row: Row) -> Made:
        return Rejected(row, "seen before") if self._digest(row) in self._seen else Kept(row)

    def remember(self, row: Row) -> None:
        self._seen.add(self._digest(row))

    def _digest(self, row: Row) -> bytes:
        return hashlib.blake2b(self.key(row).encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass
class Novel:
    """Keeps the records whose text has ROUGE-L F of at most `most` with each text known and kept before.

    Args:
        known: texts to be unlike, that are no records.
    """

    name: str
    text: Callable[[Row], str]
    most: float
    known: Sequence[str] = ()
    needs: Sequence[str] = ()
    full: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._pool = NoveltyPool(self.known)

    def look(self, row: Row) -> Made:
        overlap = self._pool.overlap(self.text(row), at_least=self.most)
        if overlap > self.most:
            return Rejected(row, f"ROUGE-L above {self.most:g}", {"score": round(overlap, 6)})
        return Kept(row)

    def remember(self, row: Row) -> None:
        self._pool.add(self.text(row))


@dataclass
class Untemplated:
    """Keeps the records whose text comes of no template of a text that was kept before.

    Args:
        threshold: share of the words of the longer text, in order, from which on two have one template.
    """

    name: str
    text: Callable[[Row], str]
    threshold: float
    needs: Sequence[str] = ()
    full: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._pool = TemplatePool(self.threshold)

    def look(self, row: Row) -> Made:
        similarity = self._pool.nearest(self.text(row))
        if similarity:
            return Rejected(
                row, f"shares a template ({self.threshold:g} of the words)", {"score": round(similarity, 6)}
            )
        return Kept(row)

    def remember(self, row: Row) -> None:
        self._pool.add(self.text(row))


@dataclass
class Take:
    """Keeps the first `most` records; then nothing more is asked for."""

    name: str
    most: int
    needs: Sequence[str] = ()
    _count: int = field(default=0, init=False)

    @property
    def full(self) -> bool:
        return self._count >= self.most

    def look(self, row: Row) -> Made:
        return Rejected(row, f"beyond the first {self.most}") if self.full else Kept(row)

    def remember(self, row: Row) -> None:
        self._count += 1
