"""Answers rated by a judge: five aspects for general prompts, safety for harmful ones; length stands beside scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import write_rows
from coalign.core.options import option
from coalign.core.runs import Run
from coalign.judging.aspects import ASPECTS, SAFETY, AspectScores, answer_means, overall, rate_aspects
from coalign.judging.language_judge import LanguageModelJudge
from coalign.judging.options import RatingJudgeOptions
from coalign.judging.protocol import Judge, JudgeItem, check_failures
from coalign.judging.store import Deferred, ReplyStore
from coalign.measures.statistics import bootstrap_mean
from coalign.models.backends.open import open_named
from coalign.report.model import Comparison, ComparisonRow, TableSection
from coalign.report.parts import estimate, paired

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Arm to its answers, each with `id`, `prompt` and `output`; the same prompts in every arm."""
SAFETY_COLUMN = "safety"
WORDS = "Words of an answer"


@dataclass(kw_only=True)
class RatingOptions(RatingJudgeOptions):
    """Who rates the answers, and how."""

    __group__ = "Judge"

    judge_model: str | None = option(
        None,
        "a model that rates the answers from 1 to 5: five aspects of general prompts, safety of harmful ones",
    )
    safety_column: str = option(
        SAFETY_COLUMN,
        "column of the prompts that is true for harmful ones; their answers are rated for safety alone",
        only_with="judge_model",
    )
    replies: Path | None = option(
        None,
        "file of the judge's replies, to share it between runs; by default in the run folder",
        only_with="judge_model",
    )


@dataclass(frozen=True)
class ArmRatings:
    """Ratings of the answers of one arm.

    Attributes:
        general: aspect to scores, over the general prompts.
        safety: over the harmful ones.
        places: of general and of harmful prompts, among all.
    """

    general: Mapping[str, AspectScores]
    safety: Mapping[str, AspectScores]
    places: tuple[list[int], list[int]]

    @property
    def overall(self) -> float | None:
        """Mean of the five aspects."""
        return overall(self.general) if self.places[0] else None

    def of_answer(self, place: int) -> dict[str, float | None]:
        """Aspect to the score of one answer."""
        for scores, places in ((self.general, self.places[0]), (self.safety, self.places[1])):
            if place in places:
                return {name: one.scores[places.index(place)] for name, one in scores.items()}
        return {}


def safety_flags(records: Sequence[Any], column: str) -> list[bool]:
    """Whether each prompt is a harmful one, by its column.

    Raises:
        ConfigError: another column than the default one is named, and no prompt has it.
        DataError: a value that is neither true nor false.
    """
    if column != SAFETY_COLUMN and not any(column in one.extra for one in records):
        raise ConfigError(f"safety_column: no prompt has a column {column!r}.")
    known = {True: True, False: False, None: False, "true": True, "false": False, "": False}
    flags, problems = [], []
    for one in records:
        value = one.extra.get(column)
        value = value.strip().lower() if isinstance(value, str) else value
        if not isinstance(value, bool | int | str | None) or value not in known:
            problems.append(one.problem(column, f"is {value!r}", "true or false"))
            continue
        flags.append(known[value])
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} prompts cannot be used.", problems)
    return flags


def open_judge(run: Run, config: RatingOptions, device: str) -> Judge:
    """The judge of the options; it is loaded when it is first asked, and its replies are kept."""
    return LanguageModelJudge(
        Deferred(lambda: open_named(config.judge_model, endpoint=config.judge_endpoint, device=device)),
        name=str(config.judge_model),
        identity={"endpoint": config.judge_endpoint},
        store=ReplyStore(config.replies or run.artefacts / "replies.jsonl"),
        readout=config.judge_readout,
    )


def rate_answers(
    run: Run, judge: Judge, rows: Rows, harmful: Sequence[bool], *, may_skip: bool, max_failures: float
) -> dict[str, ArmRatings]:
    """Rate every arm; `artefacts/ratings.jsonl` has one row an arm, answer and aspect.

    Raises:
        CoalignError: more ratings are missing than `max_failures` allows; the rows are written before.
    """
    places = ([n for n, one in enumerate(harmful) if not one], [n for n, one in enumerate(harmful) if one])
    found = {}
    for arm, mine in rows.items():
        items = [
            JudgeItem(id=str(one["id"]), prompt=one["prompt"], responses=(one["responses"][0],))
            for one in mine
        ]
        general, safety = (
            rate_aspects(judge, [items[n] for n in chosen], aspects, may_skip=may_skip) if chosen else {}
            for chosen, aspects in zip(places, (ASPECTS, SAFETY), strict=True)
        )
        found[arm] = ArmRatings(general, safety, places)
    scored = [
        (arm, name, *each)
        for arm, mine in found.items()
        for name, one in {**mine.general, **mine.safety}.items()
        for each in zip(one.ratings, one.scores, one.skipped, strict=True)
    ]
    write_rows(
        run.artefacts / "ratings.jsonl",
        [
            {
                "arm": arm,
                "id": rating.id,
                "aspect": name,
                "score": score,
                "not_applicable": skip,
                "failure": None if skip else rating.failure,
                "reply": rating.reply,
            }
            for arm, name, rating, score, skip in scored
        ],
    )
    judged = [replace(rating, failure=None) if skip else rating for _, _, rating, _, skip in scored]
    check_failures(judged, limit=max_failures)
    return found


def rating_sections(
    names: Mapping[str, str], rows: Rows, ratings: Mapping[str, ArmRatings]
) -> list[Comparison | TableSection]:
    """Scores by aspect with intervals, paired where there are two arms, words of the answers beside them, and what was
    not scored.
    """
    if not ratings:
        return []
    sections: list[Comparison | TableSection] = []
    if len(ratings) == 2:
        first, last = ratings
        sections.append(
            Comparison(
                "Ratings by aspect",
                note="Means over prompts, from 1 to 5, with bootstrap intervals; the change is paired by prompt. Longer "
                "answers and lists please most judges, so the words of the answers stand beside the scores.",
                names=(names[first], names[last]),
                rows=_compared(rows, ratings, first, last),
                scale="row",
            )
        )
    columns = ["arm", "aspect", "mean", "low", "high", "answers", "N/A", "failed", "mean words"]
    table = []
    for arm, mine in ratings.items():
        for scores, places in ((mine.general, mine.places[0]), (mine.safety, mine.places[1])):
            words = fmean(_words(rows[arm][n]) for n in places) if places else None
            for name, one in scores.items():
                known = estimate(bootstrap_mean(one.known) if one.known else None)
                counts = (len(places), one.not_applicable, len(one.failures))
                table.append([names[arm], name, one.mean, known.low, known.high, *counts, words])
    sections.append(
        TableSection(
            "All ratings",
            note="N/A counts as 5, as in the published protocol. Failed: no readable verdict; not in the mean. Low and "
            "high end a 95 % interval.",
            columns=columns,
            rows=table,
            units={"answers": "integer", "N/A": "integer", "failed": "integer"},
        )
    )
    return sections


def _compared(rows: Rows, ratings: Mapping[str, ArmRatings], first: str, last: str) -> list[ComparisonRow]:
    before, after = ratings[first], ratings[last]
    made, sides = [], [(before.safety, after.safety)]
    if before.places[0]:
        means = _pairs(answer_means(before.general), answer_means(after.general))
        made.append(paired("Mean of the five aspects", *means, unit="number", emphasis=True))
        sides.insert(0, (before.general, after.general))
    made += [
        paired(name.capitalize(), *_pairs(old[name].scores, new[name].scores), unit="number")
        for old, new in sides
        for name in old
    ]
    words = ([float(_words(one)) for one in rows[arm]] for arm in (first, last))
    return [*made, paired(WORDS, *words, unit="number", better="neither")]


def _pairs(before: Sequence[float | None], after: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """Values of the prompts that have both."""
    both = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    return [a for a, _ in both], [b for _, b in both]


def _words(row: Mapping[str, Any]) -> int:
    return len(row["responses"][0].split())
