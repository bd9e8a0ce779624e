"""Records scored by comparing each with a few of their kind that stand fast."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coalign.core.errors import CoalignError
from coalign.data.records import Message
from coalign.judging.protocol import JudgeItem, Rubric
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Made
from coalign.loops.steps.usual import scored
from coalign.measures.anchors import anchor_quality

if TYPE_CHECKING:
    from coalign.judging.protocol import Judge

ASKED = "Two requests to an assistant are shown as responses. Which is the better request to learn from?"
CRITERIA = (
    "clarity, practicality, complexity, novelty, and whether a good answer to it can be told from a bad one"
)
_VOTES = {"first": 1, "second": -1, "tie": 0, "inconsistent": 0}


@dataclass
class Anchored:
    """Adds the column `column`: a record's quality among its kind, in [0, 1]: what it wins of the judge's comparisons with the
    anchors of its bucket, ties and orders that disagree counting half. A record that the judge says nothing of is rejected as
    not scorable.

    Args:
        records: everything, read once for the anchors.
        text: of a record.
        anchors: drawn of each bucket by `seed`.
        bucket: column of `records` whose values are buckets of their own; empty: one bucket. A record without it is in a
            bucket with all such.

    Raises:
        CoalignError: when it is first asked, where none of `records` has the column `bucket`.
    """

    name: str
    column: str
    judge: Judge
    records: Callable[[], Iterable[Row]]
    text: Callable[[Row], str]
    anchors: int
    bucket: str = ""
    seed: int = 0
    criteria: str = CRITERIA
    needs: Sequence[str] = ()
    batch: int = 16
    alone: bool = True
    _drawn: dict[str, list[str]] | None = field(default=None, init=False)

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        drawn = self._anchors()
        items, owners = [], []
        for place, row in enumerate(rows):
            said = self.text(row)
            for number, other in enumerate(one for one in drawn.get(self._key(row), ()) if one != said):
                prompt = [Message(role="user", content=ASKED)]
                items.append(JudgeItem(id=f"{row['id']}-{number}", prompt=prompt, responses=(said, other)))
                owners.append(place)
        found = (
            self.judge.compare(items, rubric=Rubric(criteria=self.criteria), label=self.name) if items else []
        )
        votes: list[list[list[int]]] = [[] for _ in rows]
        for owner, verdict in zip(owners, found, strict=True):
            if verdict.outcome in _VOTES:
                votes[owner].append([_VOTES[verdict.outcome]])
        return [
            [scored(row, self.column, anchor_quality(several), comparisons=len(several))]
            for row, several in zip(rows, votes, strict=True)
        ]

    def _key(self, row: Mapping[str, object]) -> str:
        return str(row.get(self.bucket, "")) if self.bucket else ""

    def _anchors(self) -> dict[str, list[str]]:
        """Of each bucket `anchors` texts, each record as likely as another, whatever their number."""
        if self._drawn is None:
            draw = random.Random(f"anchors {self.seed}")
            drawn: dict[str, list[str]] = {}
            seen: dict[str, int] = {}
            known = not self.bucket
            for row in self.records():
                known = known or self.bucket in row
                key = self._key(row)
                seen[key] = seen.get(key, 0) + 1
                several = drawn.setdefault(key, [])
                if len(several) < self.anchors:
                    several.append(self.text(row))
                elif (place := draw.randrange(seen[key])) < self.anchors:
                    several[place] = self.text(row)
            if not known:
                raise CoalignError(
                    f"{self.name}: bucket: no record has a column {self.bucket!r}.",
                    hint="Anchors are of the data as they are read: a run of its own before adds the column.",
                )
            self._drawn = drawn
        return self._drawn

    def close(self) -> None:
        """Let the judge's model go, where it can."""
        close = getattr(self.judge, "close", None)
        if close is not None:
            close()
