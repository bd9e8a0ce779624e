"""The usual steps without a model: filter, rewrite, select, best share, duplicates, novelty, a fixed number, pairs, mixtures.

Functions that a step is given see the record alone; where several processes share the work they must be picklable.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coalign.core.errors import CoalignError
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Kept, Made, Picks, Rejected
from coalign.measures.novelty import NoveltyPool

Groups = Sequence[int] | Sequence[tuple[int, ...]]


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
        made = map(self.rewrite, rows)
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
        return Rejected(row, f"not scorable: {failure}" if failure else "not scorable", facts)
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


class _Single:
    """A choice of records one by one: what is picked stays as it is."""

    def join(self, rows: Sequence[Row]) -> list[Made]:
        return [Kept(row) for row in rows]


@dataclass(frozen=True)
class Top(_Single):
    """Keeps the records with the highest `column`, in their order; of equal ones the first. 8 bytes a record.

    Args:
        k: how many; or else
        share: what share of all, rounded up.
    """

    name: str
    column: str
    k: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.share is None):
            raise ValueError(f"{self.name}: give k or share")

    @property
    def needs(self) -> Sequence[str]:
        return (self.column,)

    def sketch(self, rows: Sequence[Row]) -> array[float]:
        return array("d", (row[self.column] for row in rows))

    def choose(self, sketches: Sequence[float]) -> Picks:
        import numpy as np

        wanted = math.ceil(self.share * len(sketches)) if self.share is not None else self.k
        order = np.argsort(-np.asarray(sketches, dtype=np.float64), kind="stable")
        return Picks(np.sort(order[:wanted]).tolist(), lambda _: f"not among the highest {self.column}")


@dataclass(frozen=True)
class Mix(_Single):
    """Draws records of several sources in given proportions, in a random order; as many as the scarcest source allows,
    at most `size`. 8 bytes a record.

    Args:
        source: names a record's source.
        weights: source to its share; they need not sum to one.
    """

    name: str
    source: Callable[[Row], str]
    weights: Mapping[str, float]
    size: int | None = None
    seed: int = 0
    needs: Sequence[str] = ()

    def sketch(self, rows: Sequence[Row]) -> list[int]:
        places = {name: place for place, name in enumerate(self.weights)}
        return [places.get(self.source(row), -1) for row in rows]

    def choose(self, sketches: Sequence[int]) -> Picks:
        import numpy as np

        labels, total = np.asarray(sketches), sum(self.weights.values())
        draw = np.random.default_rng(self.seed)
        size, members = float(self.size or len(labels)), []
        for place, (name, weight) in enumerate(self.weights.items()):
            found = draw.permutation(np.flatnonzero(labels == place))
            if weight and not len(found):
                raise CoalignError(f"{self.name}: no record is of the source {name!r}.")
            size = min(size, len(found) * total / weight) if weight else size
            members.append(found)
        shares = [int(size * weight / total + 1e-9) for weight in self.weights.values()]
        picked = np.concatenate([found[:n] for found, n in zip(members, shares, strict=True)])
        return Picks(
            draw.permutation(picked).tolist(),
            lambda place: "more than its source's share" if labels[place] >= 0 else "of no named source",
        )


@dataclass(frozen=True)
class Pair:
    """Makes a record of the best and the worst that share a key, where their scores differ by more than `gap`; the first
    of equal ones counts. Key and score are remembered.

    Args:
        key: what they share (the prompt).
        make: (best, worst) to the record.
    """

    name: str
    key: Callable[[Row], str]
    column: str
    make: Callable[[Row, Row], Row]
    gap: float = 0.0

    @property
    def needs(self) -> Sequence[str]:
        return (self.column,)

    def sketch(self, rows: Sequence[Row]) -> list[tuple[int, float]]:
        keys = (self.key(row).encode("utf-8", "surrogatepass") for row in rows)
        digests = (int.from_bytes(hashlib.blake2b(one, digest_size=8).digest()) for one in keys)
        return [(digest, row[self.column]) for digest, row in zip(digests, rows, strict=True)]

    def choose(self, sketches: Sequence[tuple[int, float]]) -> Picks:
        groups: dict[int, list[int]] = {}
        for place, (key, _) in enumerate(sketches):
            groups.setdefault(key, []).append(place)
        pairs: list[tuple[int, ...]] = []
        for places in groups.values():
            best = max(places, key=lambda place: sketches[place][1])
            worst = min(places, key=lambda place: sketches[place][1])
            if sketches[best][1] - sketches[worst][1] > self.gap:
                pairs.append((best, worst))
        paired = {key for pair in pairs for key in (sketches[pair[0]][0],)}

        def reason(place: int) -> str:
            return "neither best nor worst" if sketches[place][0] in paired else "no two scores apart"

        return Picks(pairs, reason)

    def join(self, rows: Sequence[Row]) -> list[Made]:
        best, worst = rows
        facts = {"score": best[self.column] - worst[self.column]}
        return [Kept(self.make(best, worst), facts)]
