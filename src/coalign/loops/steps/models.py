"""Steps that ask a model: a generator writes, a judge rates. Each begins a pass of its own and lets its model go after it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from coalign.judging.protocol import Judge, JudgeItem, Rating, Rubric, Scale
from coalign.judging.store import Deferred, content_hash
from coalign.loops.rows import Row
from coalign.loops.steps.kinds import Kept, Made, Rejected
from coalign.loops.steps.usual import scored

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.models.types import Generation, Generator, Sampling


class Ask:
    """Has a model answer something about every record.

    Args:
        open_model: opens what answers; called when the first answer is missing.
        prompt: what is asked.
        read: a record and the samples to its prompt, to what becomes of it.
        sampling: how. Every batch has a seed of its own, from this one's and the id of its first record.
        batch: records at a time; what a kill may cost.
        only: which records are asked about; the others go on as they are.
        note: facts of the manifest, beside the hash of the prompt (the model's name).
    """

    alone = True

    def __init__(
        self,
        name: str,
        open_model: Callable[[], Generator],
        prompt: Callable[[Row], Messages | str],
        read: Callable[[Row, Sequence[Generation]], Sequence[Made]],
        sampling: Sampling,
        *,
        batch: int = 64,
        needs: Sequence[str] = (),
        only: Callable[[Row], bool] | None = None,
        **note: Any,
    ) -> None:
        self.name, self.needs, self.batch, self._only = name, needs, batch, only
        self._model = Deferred(open_model)
        self._prompt, self._read, self._sampling, self._note = prompt, read, sampling, note

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        asked = [row for row in rows if self._only is None or self._only(row)]
        made = {row["id"]: one for row, one in zip(asked, self._answered(asked), strict=True)}
        return [made.get(row["id"], [Kept(row)]) for row in rows]

    def _answered(self, rows: Sequence[Row]) -> list[list[Made]]:
        if not rows:
            return []
        prompts = [self._prompt(row) for row in rows]
        seed = zlib.crc32(f"{self._sampling.seed}/{self.name}/{rows[0]['id']}".encode())
        samples = self._model.generate(prompts, replace(self._sampling, seed=seed), label=self.name)
        made = []
        for row, prompt, several in zip(rows, prompts, samples, strict=True):
            written = sum(one.length or 0 for one in several)
            facts = {
                "prompt_hash": content_hash(prompt),
                **self._note,
                **({"tokens": written} if written else {}),
            }
            made.append([replace(one, facts={**facts, **one.facts}) for one in self._read(row, several)])
        return made

    def close(self) -> None:
        """Let the model go: another one may be next."""
        self._model.close()


@dataclass
class Rate:
    """Adds the column `column`: a judge's score of a record. One that the judge fails on is not scorable: rejected and
    counted by kind of failure.

    Args:
        item: of a record; None where it has no response.
    """

    name: str
    column: str
    judge: Judge
    item: Callable[[Row], JudgeItem | None]
    rubric: Rubric | None = None
    scale: Scale | None = None
    needs: Sequence[str] = ()
    batch: int = 64
    alone: bool = True

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        items = [self.item(row) for row in rows]
        asked = [one for one in items if one is not None]
        ratings = iter(
            self.judge.rate(asked, rubric=self.rubric, scale=self.scale, label=self.name) if asked else ()
        )
        return [
            [self._made(row, None if item is None else next(ratings))]
            for row, item in zip(rows, items, strict=True)
        ]

    def _made(self, row: Row, rating: Rating | None) -> Made:
        if rating is None:
            return Rejected(row, "no response")
        facts: dict[str, Any] = {"judge": self.judge.name, "prompt_hash": rating.prompt_hash}
        if rating.cost.calls:
            facts |= {"tokens": rating.cost.tokens, "prompt_tokens": rating.cost.prompt_tokens}
        return scored(row, self.column, rating.score, rating.failure or "", **facts)

    def close(self) -> None:
        """Let the judge's model go, where it can."""
        close: Any = getattr(self.judge, "close", None)
        if close is not None:
            close()
