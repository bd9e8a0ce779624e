"""Steps that see a sketch of every record before they choose: best share, duplicates, near duplicates, mixtures, pairs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import CoalignError
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Kept, Made, Picks
from coalign.measures.texts.minhash import BANDS, PERMUTATIONS, connected, signatures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ID_BYTES = 64
_ROUNDING = 1e-6
"""What a share of whole records may be off by in floating point."""


@dataclass(frozen=True)
class Exact:
    """Keeps one of the records that have the same key: that of the smallest id. 80 bytes a record.

    Ids are compared by their length and then by their characters, so that 9 comes before 10.

    """

    name: str
    key: Callable[[Row], str]
    needs: Sequence[str] = ()

    def sketch(self, rows: Sequence[Row]) -> NDArray[Any]:
        import numpy as np

        found = np.empty(len(rows), dtype=[("id", f"S{_ID_BYTES}"), ("digest", "u8", 2)])
        found["id"] = ids_in_order(rows)
        found["digest"] = np.frombuffer(
            b"".join([_digest(self.key(row), 16) for row in rows]), dtype=np.uint64
        ).reshape(-1, 2)
        return found

    def choose(self, sketches: NDArray[Any]) -> Picks:
        import numpy as np

        if not len(sketches):
            return Picks([], "")
        digests = np.ascontiguousarray(sketches["digest"])
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        ordered = digests[order]
        begins = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
        group = np.empty(len(digests), dtype=np.int64)
        group[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        first = represented(group, sketches["id"])
        return Picks(np.flatnonzero(first == np.arange(len(first))), "the same as another", of=first)


@dataclass(frozen=True)
class Near:
    """Keeps one of the records whose texts are nearly the same: that of the smallest id, as `Exact` has it.

    Two texts are near when their MinHash signatures agree in at least `threshold` of the places, an estimate of the Jaccard
    similarity of their n-grams of words, whose standard error is at most 0.5 / sqrt(permutations); texts that are joined
    by others between them are near, too. Pairs are looked for among signatures that are the same in one of `bands` parts
    (Broder 1997; Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, section 3.4). What is kept depends neither on
    batches nor on the order of the records. Needs the extra `overlap`.

    Args:
        threshold: at 0.8 a pair at the threshold is looked at with a probability above 0.999, one at 0.7 with 0.98.
        n: words of an n-gram; a text of fewer words is one.
    """

    name: str
    text: Callable[[Row], str]
    threshold: float = 0.8
    n: int = 3
    permutations: int = PERMUTATIONS
    bands: int = BANDS
    needs: Sequence[str] = ()

    def sketch(self, rows: Sequence[Row]) -> NDArray[Any]:
        import numpy as np

        found = np.empty(len(rows), dtype=[("id", f"S{_ID_BYTES}"), ("signature", "u4", self.permutations)])
        found["id"] = ids_in_order(rows)
        found["signature"] = signatures(
            [self.text(row) for row in rows], n=self.n, permutations=self.permutations
        )
        return found

    def choose(self, sketches: NDArray[Any]) -> Picks:
        import numpy as np

        if not len(sketches):
            return Picks([], "")
        marks = sketches["signature"]
        first = represented(connected(marks, self.threshold, bands=self.bands), sketches["id"])
        scores = np.ones(len(first))
        for start in range(0, len(first), 65_536):
            part = slice(start, start + 65_536)
            moved = np.flatnonzero(first[part] != np.arange(len(first))[part]) + start
            scores[moved] = (marks[moved] == marks[first[moved]]).mean(axis=1)
        return Picks(
            np.flatnonzero(first == np.arange(len(first))),
            "nearly the same as another",
            of=first,
            scores=scores,
        )


def ids_in_order(rows: Sequence[Row]) -> list[bytes]:
    """[rows] bytes that are ordered as ids are: by length, then by characters; of long ids the end is a digest."""
    found = []
    for row in rows:
        name = str(row["id"]).encode("utf-8", "surrogatepass")
        size = min(len(name), 65_535).to_bytes(2, "big")
        if len(name) > _ID_BYTES - 2:
            name = name[: _ID_BYTES - 18] + hashlib.blake2b(name, digest_size=16).digest()
        found.append(size + name)
    return found


def represented(group: NDArray[np.integer[Any]], ids: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """[records] place of the record with the smallest id in each one's group.

    Args:
        group: [records] the same number for all of a group, the place of one of its records.
        ids: [records] as `ids_in_order` gives them.
    """
    import numpy as np

    places = np.arange(len(group))
    several = np.flatnonzero(np.bincount(group, minlength=len(group))[group] > 1)
    several = several[np.lexsort((several, ids[several], group[several]))]
    labels = group[several]
    begins = np.concatenate([[True], labels[1:] != labels[:-1]]) if len(several) else np.empty(0, bool)
    smallest = places.copy()
    smallest[labels[begins]] = several[begins]
    return smallest[group]


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def numbers(rows: Sequence[Row], column: str) -> NDArray[np.float64]:
    """[rows] a column of numbers.

    Raises:
        CoalignError: a value that is none.
    """
    import numpy as np

    for row in rows:
        value = row[column]
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise CoalignError(f"Record {row['id']}: {column}: {value!r}, expected a number.")
    return np.fromiter((row[column] for row in rows), dtype=np.float64, count=len(rows))


@dataclass(frozen=True)
class Top:
    """Keeps the records with the highest `column`, in their order; of equal ones the first. 8 bytes a record.

    Args:
        k: how many; or else
        share: what share of all,
        rounding: up, or down and at least one.
    """

    name: str
    column: str
    k: int | None = None
    share: float | None = None
    rounding: Literal["up", "down"] = "up"

    def __post_init__(self) -> None:
        if (self.k is None) == (self.share is None):
            raise ValueError(f"{self.name}: give k or share")

    @property
    def needs(self) -> Sequence[str]:
        return (self.column,)

    def sketch(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        return numbers(rows, self.column)

    def choose(self, sketches: NDArray[np.float64]) -> Picks:
        import numpy as np

        wanted = self.k
        if self.share is not None:
            size = self.share * len(
                sketches
            )  # 0.07 of 100 is 7.000000000000001, 0.29 of 100 is 28.999999999999996
            wanted = math.ceil(size - _ROUNDING) if self.rounding == "up" else max(1, int(size + _ROUNDING))
        order = np.argsort(-sketches, kind="stable")
        return Picks(np.sort(order[:wanted]), f"not among the highest {self.column}")


@dataclass(frozen=True)
class Mix:
    """Draws records of several sources in given proportions, in a random order; as many as the scarcest source allows,
    at most `size`. 4 bytes a record.

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

    def sketch(self, rows: Sequence[Row]) -> NDArray[np.int32]:
        import numpy as np

        places = {name: place for place, name in enumerate(self.weights)}
        return np.array([places.get(self.source(row), -1) for row in rows], dtype=np.int32)

    def choose(self, sketches: NDArray[np.int32]) -> Picks:
        import numpy as np

        if not len(sketches):
            return Picks([], "")
        labels, total = sketches, sum(self.weights.values())
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
            draw.permutation(picked),
            lambda place: "more than its source's share" if labels[place] >= 0 else "of no named source",
        )


@dataclass(frozen=True)
class Pair:
    """Makes a record of the best and the worst that share a key, where their scores differ by more than `gap`; the first
    of equal ones counts. Key and score are remembered.

    Args:
        key: what they share (the prompt).
        make: (best, worst) to the record.
        worst: largest score of the worst one; where all score higher there is nothing to learn.
    """

    name: str
    key: Callable[[Row], str]
    column: str
    make: Callable[[Row, Row], Row]
    gap: float = 0.0
    worst: float = math.inf

    @property
    def needs(self) -> Sequence[str]:
        return (self.column,)

    def sketch(self, rows: Sequence[Row]) -> NDArray[Any]:
        import numpy as np

        found = np.empty(len(rows), dtype=[("key", "u8"), ("score", "f8")])
        found["key"] = [int.from_bytes(_digest(self.key(row), 8), "big") for row in rows]
        found["score"] = numbers(rows, self.column)
        return found

    def choose(self, sketches: NDArray[Any]) -> Picks:
        if not len(sketches):
            return Picks([], "")
        keys, scores = sketches["key"].tolist(), sketches["score"].tolist()
        groups: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            groups.setdefault(key, []).append(place)
        pairs: list[tuple[int, ...]] = []
        for places in groups.values():
            best, worst = max(places, key=scores.__getitem__), min(places, key=scores.__getitem__)
            if scores[best] - scores[worst] > self.gap and scores[worst] <= self.worst:
                pairs.append((best, worst))
        paired = {keys[best] for best, _ in pairs}
        alike = "no two scores apart" + (f", or all above {self.worst:g}" if self.worst < math.inf else "")

        def reason(place: int) -> str:
            return "neither best nor worst" if keys[place] in paired else alike

        return Picks(pairs, reason)

    def join(self, rows: Sequence[Row]) -> list[Made]:
        best, worst = rows
        facts = {"score": best[self.column] - worst[self.column]}
        return [Kept(self.make(best, worst), facts)]
