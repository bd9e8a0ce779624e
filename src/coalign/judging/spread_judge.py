"""A judge without replies (a reward model, verifiers, a function) over a pool of workers, each of which has one of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from coalign.core.engines.options import EngineOptions
from coalign.core.engines.row_file import Row, RowFile
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
    """A `Judge` whose items workers judge. One that raises has a verdict that failed, whose reply says why.

    Args:
        name: see `Judge.name`.
        open_judge: called by each worker; it has to be picklable.
        path: where verdicts are kept as they come, by item; an item that raised is judged anew the next time.
    """

    def __init__(self, name: str, open_judge: Callable[[], Judge], engine: EngineOptions, path: Path) -> None:
        self.name, self._open, self._engine, self._path = name, open_judge, engine, path

    def rate(self, items: Sequence[JudgeItem], **terms: Unpack[RatingTerms]) -> list[Rating]:
        """See `coalign.judging.protocol.Judge.rate`."""

        def rating(name: str, row: Row) -> Rating:
            if "error" in row:
                return Rating(id=name, score=None, failure="error", reply=row["error"])
            return Rating(**{**row["verdict"], "cost": Cost(**row["verdict"]["cost"])})

        return [rating(*one) for one in self._judged(items, "rate", terms)]

    def compare(self, items: Sequence[JudgeItem], **terms: Unpack[ComparingTerms]) -> list[PairVerdict]:
        """See `coalign.judging.protocol.Judge.compare`."""

        def verdict(name: str, row: Row) -> PairVerdict:
            if "error" in row:
                failed = Opinion(choice=None, failure="error", reply=row["error"])
                return PairVerdict(id=name, opinions=(failed,))
            said = [
                Opinion(
                    **{**one, "scores": one["scores"] and tuple(one["scores"]), "cost": Cost(**one["cost"])}
                )
                for one in row["verdict"]["opinions"]
            ]
            return PairVerdict(id=name, opinions=tuple(said))

        return [verdict(*one) for one in self._judged(items, "compare", terms)]

    def _judged(self, items: Sequence[JudgeItem], verb: str, terms: Any) -> list[tuple[str, Row]]:
        label, names = terms.pop("label", "Judging"), [one.id for one in items]
        rows = RowFile(self._path, [item_id(place, [verb, terms, one]) for place, one in enumerate(items)])
        make = functools.partial(_judging, self._open, verb, terms)
        fill(
            rows, items, make, self._engine, label=label, names=names, row=lambda one: {"verdict": asdict(one)}
        )  # fmt: skip
        return [*zip(names, rows, strict=True)]


def _judging(
    open_judge: Callable[[], Judge], verb: str, terms: Any
) -> Callable[[Sequence[JudgeItem]], list[Any]]:
    judge = open_judge()
    return lambda items: getattr(judge, verb)(items, **terms)
