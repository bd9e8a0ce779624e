"""Answers of several models to instructions, each under a principle of a preference, rated together by a judge.

A row goes through the pipeline (`coalign.loops.pipeline`) with `prompt`, `preference`, `slots` (model and principle of each
response), `responses`, where its record has tests `endings`, then `ratings` (null: not rated), `rationales` and `shown` (the order
in which the judge saw the responses).
"""

from __future__ import annotations

import random
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from coalign.core.errors import DataError
from coalign.curation.code.preferences import CodingPreference, assign, draw_models, with_principle
from coalign.curation.code.programs import passed, run_responses
from coalign.judging.protocol import JudgeItem, Rubric
from coalign.judging.verifiers.programs import CodeTask, tests_of
from coalign.judging.verifiers.registry import ConstraintError
from coalign.loops.pipeline import Kept, Made, Rejected
from coalign.loops.rows import Row

if TYPE_CHECKING:
    from coalign.core.processes.sandbox import SandboxOptions
    from coalign.data.records import Messages, Record
    from coalign.judging.asked.list_ratings import ListRating
    from coalign.models.types import Generation

CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")


class ListRater(Protocol):
    """Rates the responses of an item together."""

    @property
    def name(self) -> str: ...

    def rate_lists(
        self,
        items: Sequence[JudgeItem],
        *,
        rubric: Rubric | None = None,
        seed: int = 0,
        label: str = "Rating",
    ) -> list[ListRating]: ...


def instruction_rows(
    records: Sequence[Record],
    preferences: Mapping[str, CodingPreference],
    models: Sequence[str],
    *,
    responses: int,
    limit: int | None,
    drop_cjk: bool,
    seed: int,
) -> list[Row]:
    """The rows that the pipeline starts with, in their shuffled order.

    Args:
        responses: to each instruction, of different models where there are so many.
        limit: how many instructions are drawn.
        drop_cjk: leave out instructions with Chinese, Japanese or Korean characters, as the official code does.

    Raises:
        DataError: records whose tests cannot be used, or none is left.
    """
    fit = [one for one in records if not (drop_cjk and CJK.search(str(one.prompt)))]
    if not fit:
        raise DataError(
            "No instruction is left.",
            hint="--no-drop-cjk keeps instructions in Chinese, Japanese and Korean.",
        )
    problems, rows = [], []
    for place, name in assign(len(fit), [*preferences], seed)[:limit]:
        record = fit[place]
        draw = random.Random(f"{seed}/{record.id}")
        drawn = draw_models(models, responses, draw)
        slots = [{"model": one, "principle": draw.choice(preferences[name].principles)} for one in drawn]
        row: Row = {"id": record.id, "prompt": record.prompt, "preference": name, "slots": slots}
        try:
            found = tests_of(record.extra)
        except ConstraintError as error:
            problems.append(record.problem(error.field, error.problem, error.expected))
            continue
        if found:
            row |= {"tests": found[0], "entry_point": found[1]}
        rows.append({**row, "responses": [None] * responses})
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} instructions cannot be used.", problems)
    return rows


@dataclass(frozen=True)
class Turn:
    """What one model is asked in one pass: its `number`-th response of a row, counted from 0."""

    model: str
    number: int
    system: bool

    def place(self, row: Row) -> int | None:
        """The slot of the response; None where the row has none for this turn."""
        own = [place for place, slot in enumerate(row["slots"]) if slot["model"] == self.model]
        return own[self.number] if self.number < len(own) else None

    def asks(self, row: Row) -> bool:
        return self.place(row) is not None

    def prompt(self, row: Row) -> Messages:
        place = self.place(row)
        assert place is not None
        return with_principle(row["prompt"], row["slots"][place]["principle"], system=self.system)

    def read(self, row: Row, said: Sequence[Generation]) -> list[Made]:
        place = self.place(row)
        assert place is not None
        responses, slots = [*row["responses"]], [dict(one) for one in row["slots"]]
        responses[place] = said[0].text.strip()
        slots[place]["finish_reason"] = said[0].finish_reason
        return [Kept({**row, "responses": responses, "slots": slots})]


@dataclass
class Execute:
    """Runs every response of the records that have tests; adds `endings`."""

    options: SandboxOptions
    name: str = "tests"
    needs: Sequence[str] = ("responses",)
    batch: int = 16

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        asked = [(task_of(row), text) for row in rows if "tests" in row for text in row["responses"]]
        results = iter(run_responses(asked, self.options) if asked else [])
        made: list[list[Made]] = []
        for row in rows:
            if "tests" not in row:
                made.append([Kept(row)])
                continue
            endings = [next(results).ending for _ in row["responses"]]
            made.append([Kept({**row, "endings": endings}, {"endings": endings})])
        return made


def task_of(row: Row) -> CodeTask:
    """The code task of a row with tests."""
    return CodeTask(
        id=row["id"], prompt=row["prompt"][-1]["content"], tests=row["tests"], entry_point=row["entry_point"]
    )


@dataclass
class RateTogether:
    """Adds `ratings`, `rationales` and `shown`. A record of which the judge's reply cannot be read is not scorable: rejected and
    counted.
    """

    judge: ListRater
    preferences: Mapping[str, CodingPreference]
    seed: int
    name: str = "ratings"
    needs: Sequence[str] = ("responses", "preference")
    batch: int = 32
    alone: bool = True

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        items = [
            JudgeItem(
                id=row["id"],
                prompt=row["prompt"],
                responses=tuple(row["responses"]),
                rubric=self.preferences[row["preference"]].rubric,
            )
            for row in rows
        ]
        return [
            [self._made(row, one)]
            for row, one in zip(
                rows, self.judge.rate_lists(items, seed=self.seed, label="Rating"), strict=True
            )
        ]

    def _made(self, row: Row, rating: ListRating) -> Made:
        facts = {"judge": self.judge.name, "prompt_hash": rating.prompt_hash}
        if rating.failure:
            return Rejected(row, f"not scorable: {rating.failure}", {**facts, "reply": rating.reply[:2000]})
        known = [one for one in rating.ratings if one is not None]
        added = {"ratings": rating.ratings, "rationales": rating.rationales, "shown": rating.shown}
        score = {"score": statistics.fmean(known)} if known else {}
        return Kept({**row, **added}, {**facts, **score})

    def close(self) -> None:
        """Let the judge's model go, where it can."""
        close: Callable[[], None] | None = getattr(getattr(self.judge, "generator", None), "close", None)
        if close is not None:
            close()


Tests = Literal["report", "require"]


def pair_of(row: Row, *, min_gap: float, keep_ties: bool, tests: Tests, seed: int) -> list[Made]:
    """The pair of a rated row: one of the highest ratings over one of the lowest, drawn among equal ones."""
    usable = [one is not None for one in row["ratings"]]
    can_win = [*usable]
    if tests == "require" and "endings" in row:
        can_win = [one and passed(ending) is True for one, ending in zip(usable, row["endings"], strict=True)]
        if not any(can_win):
            return [Rejected(row, "no rated response passes its tests")]
    found = extremes(row["ratings"], can_win=can_win)
    if found is None:
        return [Rejected(row, "fewer than two ratings")]
    draw = random.Random(f"{seed}/pair/{row['id']}")
    best, worst = (draw.choice(places) for places in found)
    gap = row["ratings"][best] - row["ratings"][worst]
    if gap < min_gap and not (keep_ties and gap == 0):
        return [Rejected(row, "tied" if gap == 0 else f"gap below {min_gap:g}", {"score": gap})]
    if row["responses"][best].strip() == row["responses"][worst].strip():
        return [Rejected(row, "the same response twice")]
    if not row["responses"][best].strip():
        return [Rejected(row, "an empty response is rated best")]
    pair: dict[str, Any] = {"prompt": row["prompt"], "preference": row["preference"]}
    for side, place in (("chosen", best), ("rejected", worst)):
        pair[side] = row["responses"][place]
        pair[f"rating_{side}"] = row["ratings"][place]
        pair[f"model_{side}"] = row["slots"][place]["model"]
    return [Kept(pair, {"score": gap})]


def extremes(
    ratings: Sequence[float | None], *, can_win: Sequence[bool] | None = None
) -> tuple[list[int], list[int]] | None:
    """(places of the highest rating, places of the lowest) among those that are rated (official `select_responses`); None with
    fewer than two of them. All are in both where they are equal.

    Args:
        can_win: which may be the highest; by default all that are rated.
    """
    known = {place: one for place, one in enumerate(ratings) if one is not None}
    winners = {place: one for place, one in known.items() if can_win is None or can_win[place]}
    if len(known) < 2 or not winners:
        return None
    high, low = max(winners.values()), min(known.values())
    return [place for place, one in winners.items() if one == high], [
        place for place, one in known.items() if one == low
    ]
