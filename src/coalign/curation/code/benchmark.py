"""A benchmark of preferences: greedy answers under a principle, each graded by a judge against a reference (CODAL-Bench's form)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import DataError, RecordProblem
from coalign.curation.code.preferences import CodingPreference, with_principle
from coalign.data.readers import read_records
from coalign.judging.protocol import Judge, JudgeItem, Rating, Rubric, Scale, check_failures
from coalign.loops.rows import Row, answer_rows, fill_rows

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.models.types import Generator, Sampling

SCALE = Scale(low=1, high=10)
REFERENCES = ("reference", "reference_answer", "completion", "response", "answer")


@dataclass(frozen=True, kw_only=True)
class BenchmarkItem:
    """A request of the benchmark."""

    id: str
    prompt: Messages
    preference: str
    reference: str | None


def read_benchmark(
    source: str, preferences: Mapping[str, CodingPreference], limit: int | None = None
) -> list[BenchmarkItem]:
    """Requests with `preference` and, where there is one, a reference answer (`reference`, or another of `REFERENCES`).

    Raises:
        DataError: rows without a preference that is known; each is listed.
    """
    items: list[BenchmarkItem] = []
    problems: list[RecordProblem] = []
    for record in read_records(source, kind="prompt", limit=limit).records:
        name = str(record.extra.get("preference"))
        if name not in preferences:
            problems.append(record.problem("preference", f"{name!r} is none", " or ".join(preferences)))
            continue
        reference = next(
            (record.extra[one] for one in REFERENCES if isinstance(record.extra.get(one), str)), None
        )
        items.append(BenchmarkItem(id=record.id, prompt=record.prompt, preference=name, reference=reference))
    if problems:
        raise DataError(f"{len(problems)} of {len(items) + len(problems)} requests cannot be used.", problems)
    return items


def preference_scores(
    ratings: Sequence[float | None],
    preferences: Sequence[str],
    *,
    missing: Literal["leave out", "zero"] = "leave out",
) -> tuple[dict[str, float], float]:
    """(mean of each preference, mean of these means).

    Args:
        ratings: [items]; None: not scorable.
        missing: whether what is not scorable is left out, or counts 0 as in the official code. A preference without any rating
            is NaN and in no mean.
    """
    groups: dict[str, list[float]] = {}
    for one, name in zip(ratings, preferences, strict=True):
        known = groups.setdefault(name, [])
        if one is not None or missing == "zero":
            known.append(one or 0.0)
    means = {name: math.fsum(values) / len(values) if values else math.nan for name, values in groups.items()}
    measured = [one for one in means.values() if not math.isnan(one)]
    return means, math.fsum(measured) / len(measured) if measured else math.nan


def grade(
    folder: Path,
    items: Sequence[BenchmarkItem],
    preferences: Mapping[str, CodingPreference],
    open_model: Callable[[], Generator],
    judge: Judge,
    sampling: Sampling,
    *,
    system: bool,
    scale: Scale | None,
    max_failures: float,
) -> list[Row]:
    """Rows with the model's answer and its `rating` (null: not scorable), in the order of the items.

    Args:
        folder: holds `answers.jsonl` and `graded.jsonl`.
        system: whether the principle stands in a system message.
        scale: of the ratings; None: the judge's own.

    Raises:
        CoalignError: too many ratings are missing.
    """
    asked = [
        with_principle(one.prompt, preferences[one.preference].principles[0], system=system) for one in items
    ]
    rows = answer_rows(
        folder / "answers.jsonl", items, open_model, sampling, label="Answering the benchmark", asked=asked
    )

    def work(done: list[int], keep: Callable[[Mapping[int, Row]], None]) -> None:
        left = [place for place in range(len(items)) if place not in {*done}]
        found = judge.rate(
            [_item(items[place], rows[place], preferences) for place in left], scale=scale, label="Grading"
        )
        check_failures(found, limit=max_failures)
        keep({place: _graded(one) for place, one in zip(left, found, strict=True)})

    graded = fill_rows(folder / "graded.jsonl", [one.id for one in items], work)
    return [
        {**row, "preference": item.preference, "rating": one["rating"], "failure": one["failure"]}
        for item, row, one in zip(items, rows, graded, strict=True)
    ]


def _item(one: BenchmarkItem, row: Row, preferences: Mapping[str, CodingPreference]) -> JudgeItem:
    return JudgeItem(
        id=one.id,
        prompt=one.prompt,
        responses=(row["responses"][0],),
        reference=one.reference,
        rubric=Rubric(criteria=preferences[one.preference].rubric.criteria),
    )


def _graded(one: Rating) -> dict[str, Any]:
    known = one.score is not None and math.isfinite(
        one.score
    )  # a reward says of what it cannot score that it is no number
    return {"rating": one.score if known else None, "failure": one.failure, "reply": one.reply}
