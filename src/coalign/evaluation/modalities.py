"""`coalign score amg`: how well answers in several modalities follow their prompts and fit together.

    coalign score amg answers.jsonl --html page.html

The all-modality score of arXiv 2412.15838: for each pair of text (T), vision (V) and audio (A) half the sum of how well both follow the
prompt (0 to 10) times how well they fit together (0 to 1), weighed by the share of people who chose that pair for the prompt.
A row has `instruction` ({"T": 8, "V": 7}), `synergy` ({"TV": 0.6}) and `votes` ({"TV": 0.4, "TVA": 0.2}), `model` where several
are compared, and `all_three` where an answer with all three scores should not be taken for one. Judges of both kinds of score are
not part of it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from coalign.core.engines.spool import Spool, View
from coalign.core.errors import DataError, RecordProblem
from coalign.core.limits import is_number
from coalign.core.options import Count, OptionGroup, option
from coalign.core.progress import counted
from coalign.data.rows import iter_rows
from coalign.measures.media.modalities import PAIRS, all_modality_terms
from coalign.report import model as doc

_FIELDS = ("instruction", "synergy", "votes")


@dataclass(kw_only=True)
class ScoringOptions(OptionGroup):
    """Options of `coalign score amg`."""

    __group__ = "Scoring"

    split: str = option("test", "split of a hub data set")
    limit: Count | None = option(None, "score only so many rows")
    on_bad_record: Literal["fail", "skip"] = option("fail", "stop at rows that cannot be used, or count them")


@dataclass(frozen=True)
class Answers:
    """The rows that can be scored, which lie on disk, and what is wrong with the others."""

    items: Sequence[dict[str, Any]]
    problems: list[RecordProblem]

    @property
    def ids(self) -> Sequence[str]:
        return View(self.items, itemgetter("id"))


def read(source: str, options: ScoringOptions) -> Answers:
    """The answers that can be scored, each with an `id`.

    Raises:
        DataError: a row that cannot be used, named with its line; or none is left.
    """
    problems: list[RecordProblem] = []
    usable = itertools.islice(_usable(source, options.split, problems), options.limit)
    answers = Answers(Spool(usable), problems)
    if problems and (options.on_bad_record == "fail" or not answers.items):
        raise DataError(f"{len(problems)} rows of {source} cannot be used.", problems)
    if not answers.items:
        raise DataError(f"{source}: no row.")
    return answers


def _usable(source: str, split: str, problems: list[RecordProblem]) -> Iterator[dict[str, Any]]:
    for row in counted(iter_rows(source, split), f"Reading {Path(source).name}"):
        problem = row.problem
        if row.value is not None:
            named = {**row.value, "id": str(row.value.get("id", row.index))}
            try:
                _scored(named)
                yield named
                continue
            except ValueError as error:
                name, _, text = str(error).partition(": ")
                text, _, expected = text.partition(", expected ")
                file, wanted = row.file or source, expected or 'numbers by name, such as {"T": 8}'
                problem = RecordProblem(file, row.line, name, text, wanted, row.index - row.before)
        if problem is not None:
            problems.append(problem)


def scorer(options: ScoringOptions) -> Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]]:
    """What makes a row of each answer: `id`, `model` where there is one, the terms by pair, `score` (their sum, 0 to 10)."""
    return lambda answers: [_scored(one) for one in answers]


def _scored(row: Mapping[str, Any]) -> dict[str, Any]:
    given = [_numbers(row, name) for name in _FIELDS]
    all_three = row.get("all_three", all(given[0].get(one, 0) > 0 for one in "TVA"))
    if not isinstance(all_three, bool):
        raise ValueError(f"all_three: {all_three!r}, expected true or false")
    terms = all_modality_terms(*given, all_three=all_three)
    model = {"model": str(row["model"])} if row.get("model") is not None else {}
    return {"id": row["id"], **model, "terms": terms, "score": math.fsum(terms.values())}


def _numbers(row: Mapping[str, Any], name: str) -> dict[str, float]:
    value = row.get(name)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: {'is missing' if value is None else 'holds no numbers by name'}")
    found = {key: one for key, one in value.items() if one is not None}
    for key, one in found.items():
        if not is_number(one):
            raise ValueError(f"{name}: {key} is {one!r:.60}, no number")
    return {key: float(one) for key, one in found.items()}


def page(found: Answers, rows: Sequence[Mapping[str, Any]], options: ScoringOptions) -> doc.Report:
    """The page of `coalign score amg --html`."""
    names = (*PAIRS, "score")
    numbers: dict[str, list[array[float]]] = {}
    for row in rows:
        mine = numbers.setdefault(row.get("model", ""), [array("d") for _ in names])
        for values, one in zip(mine, [*(row["terms"][pair] for pair in PAIRS), row["score"]], strict=True):
            values.append(one)
    lines = []
    for name, (*terms, scores) in numbers.items():
        means = [statistics.fmean(one) for one in (scores, *terms)]
        lines.append([name or "answers", len(scores), *means])
    lines.sort(key=lambda one: -one[2])
    mean = statistics.fmean(itertools.chain.from_iterable(one[-1] for one in numbers.values()))
    left_out = [doc.Text(title="Left out", paragraphs=[str(one) for one in found.problems])]
    return doc.Report(
        title="Answers in several modalities",
        method="amg",
        arxiv="2412.15838",
        verdict=doc.Headline(
            "neutral",
            f"{len(rows)} answers, {mean:.3g} of 10 in the mean.",
        ),
        sections=[
            doc.TableSection(
                "Means",
                note="AMG is the sum of the three terms; an answer in one modality has 0.",
                columns=["Model", "Answers", "AMG", "Text and vision", "Text and audio", "Vision and audio"],
                rows=lines,
            ),
            *(left_out if found.problems else []),
        ],
    )
