"""A judge without replies (a reward model, verifiers, a function) whose verdicts are kept as they come, by this process or by a
pool of workers, each of which has a judge of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any, Unpack

from coalign.core.engines.options import EngineOptions
from coalign.core.engines.row_file import Row, RowFile
from coalign.core.engines.spool import View
from coalign.core.engines.spread import fill, item_id
from coalign.judging.protocol import (
    ComparingTerms,
    Cost,
    Judge,
    JudgeItem,
    Opinion,
    PairVerdict,
    Rating,
    RatingTerms,
)


class SpreadJudge:
    """A `Judge` whose verdicts lie on disk. An item that raises in a worker has a verdict that failed, whose reply says why.

    Args:
        name: see `Judge.name`.
        open_judge: called by each worker; it has to be picklable.
        path: where verdicts are kept as they come, by item; an item that raised is judged anew the next time.
    """

    def __init__(self, name: str, open_judge: Callable[[], Judge], engine: EngineOptions, path: Path) -> None:
        self.name, self._open, self._engine, self._path = name, open_judge, engine, path

    def rate(self, items: Sequence[JudgeItem], **terms: Unpack[RatingTerms]) -> list[Rating]:
        """See `coalign.judging.protocol.Judge.rate`."""
        return list(self.ratings(items, **terms))

    def compare(self, items: Sequence[JudgeItem], **terms: Unpack[ComparingTerms]) -> list[PairVerdict]:
        """See `coalign.judging.protocol.Judge.compare`."""
        return list(self.comparisons(items, **terms))

    def ratings(self, items: Sequence[JudgeItem], **terms: Unpack[RatingTerms]) -> Iterator[Rating]:
        """`rate` for verdicts that are not held: they are read as they are asked for."""
        for name, row in self._judged(items, "rate", terms):
            if "error" in row:
                yield Rating(id=name, score=None, failure="error", reply=row["error"])
            else:
                yield Rating(**{**row["verdict"], "cost": Cost(**row["verdict"]["cost"])})

    def comparisons(
        self, items: Sequence[JudgeItem], **terms: Unpack[ComparingTerms]
    ) -> Iterator[PairVerdict]:
        """`compare` for verdicts that are not held."""
        for name, row in self._judged(items, "compare", terms):
            if "error" in row:
                failed = Opinion(choice=None, failure="error", reply=row["error"])
                yield PairVerdict(id=name, opinions=(failed,))
                continue
            said = [
                Opinion(
                    **{**one, "scores": one["scores"] and tuple(one["scores"]), "cost": Cost(**one["cost"])}
                )
                for one in row["verdict"]["opinions"]
            ]
            yield PairVerdict(id=name, opinions=tuple(said))

    def _judged(self, items: Sequence[JudgeItem], verb: str, terms: Any) -> Iterator[tuple[str, Row]]:
        label, names = terms.pop("label", "Judging"), View(items, attrgetter("id"))
        ids = View(range(len(items)), lambda place: item_id(place, [verb, terms, items[place]]))
        rows = RowFile(self._path, ids)
        make = functools.partial(_judging, self._open, verb, terms)
        fill(
            rows, items, make, self._engine, label=label, names=names, row=lambda one: {"verdict": asdict(one)}
        )  # fmt: skip
        return zip(names, rows, strict=True)


def _judging(
    open_judge: Callable[[], Judge], verb: str, terms: Any
) -> Callable[[Sequence[JudgeItem]], list[Any]]:
    judge = open_judge()
    return lambda items: getattr(judge, verb)(items, **terms)
