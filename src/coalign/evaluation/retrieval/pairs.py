"""Preference pairs of answers that rest on retrieved passages, by category."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from coalign.core.errors import DataError, RecordProblem
from coalign.data.columns import Layout, recognise
from coalign.data.messages import FieldError, describe
from coalign.data.parse import parse_row
from coalign.data.passages import Passage, parse_passages
from coalign.data.questions import PASSAGE_COLUMNS
from coalign.data.records import Messages, Preference
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each

Category = Literal["helpful", "reason", "citation", "harmless", "abstain", "conflict"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
BLOCKS: dict[str, tuple[Category, ...]] = {
    "helpfulness": ("helpful", "reason", "citation"),
    "harmlessness": ("harmless", "abstain", "conflict"),
}
"""Name of a block to the categories that it pools."""
SOURCES: dict[Category, tuple[str, ...]] = {
    "helpful": ("multifieldqa", "nq", "expertqa", "simpleqa", "bioasq", "freshqa"),
    "reason": ("hotpotqa", "multihoprag", "musique"),
    "citation": ("eli5", "robustqatechnology", "robustqascience"),
    "harmless": ("privacy", "xstest"),
    "abstain": ("popqanoise", "nqnoise", "cragfalsepremise"),
    "conflict": ("triviaqacounterfactual", "popqacounterfactual", "nqcounterfactual"),
}
"""Category to the subsets of RAG-RewardBench that belong to it alone, in letters and digits; ASQA is in two."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prompt with passages, and a better and a worse response to it.

    Attributes:
        prompt: what the answering model read: instruction, passages, question.
        references: the passages, where the file has them apart from the prompt.
        judge_scores, human_scores: scores (chosen, rejected) of each judge, and of people, where the file has them.
    """

    id: str
    prompt: Messages
    chosen: str
    rejected: str
    subset: str
    category: Category
    references: tuple[Passage, ...] = ()
    judge_scores: tuple[tuple[float, float], ...] = ()
    human_scores: tuple[float, float] | None = None

    @property
    def judges_gap(self) -> float | None:
        """How much higher the judges score the chosen response in the mean; None without scores."""
        scores = self.judge_scores
        return sum(chosen - rejected for chosen, rejected in scores) / len(scores) if scores else None


def read_pairs(source: str, categories: Mapping[str, Category], *, limit: int | None = None) -> list[Pair]:
    """Pairs from any file of rows: `prompt`, `chosen`, `rejected` (or `reject`) and `subset` or `category`.

    Args:
        categories: subset to its category, for subsets whose name does not say it (`category_of`).

    Raises:
        DataError: the source cannot be read, or a row cannot be used; every problem is listed.
    """
    rows = [_renamed(row) for row in iter_rows(source)][:limit]
    values = [row.value for row in rows if row.value is not None]
    if not values:
        raise DataError(f"{source}: no row can be read.", [row.problem for row in rows if row.problem])
    layout = recognise(values, source, "preference")
    problems: list[RecordProblem] = []

    def read(row: Row) -> Pair | None:
        return _pair(row, layout, source, categories, problems)

    found = [one for one in parse_each(rows, source, read, problems) if one is not None]
    if problems:
        raise DataError(f"{source}: {len(problems)} problems in the pairs.", problems)
    assert_unique((one.id for one in found), source)
    return found


def as_category(name: object) -> Category | None:
    """The category of this name."""
    for one in CATEGORIES:
        if one == name:
            return one
    return None


def category_of(subset: str, categories: Mapping[str, Category]) -> Category | None:
    """The category of a subset: as `categories` say, by its own name or beginning (`abstain`, `Conflict/NQ`), or the one
    that it belongs to in RAG-RewardBench; None where nothing says it.
    """
    if subset in categories:
        return categories[subset]
    words = re.split(r"[^a-z0-9]+", subset.lower())
    plain = "".join(words)
    for one in CATEGORIES:
        if words[0] in (one, f"{one}ing", f"{one}ful"):
            return one
    for one in CATEGORIES:
        if plain in SOURCES[one]:
            return one
    return None


def parse_categories(given: Sequence[str]) -> dict[str, Category]:
    """SUBSET=CATEGORY, each.

    Raises:
        ValueError: not of that form.
    """
    found: dict[str, Category] = {}
    for one in given:
        subset, _, name = one.rpartition("=")
        category = as_category(name)
        if not subset or category is None:
            raise ValueError(f"categories: {one!r}, expected SUBSET=CATEGORY with {', '.join(CATEGORIES)}")
        found[subset] = category
    return found


def _renamed(row: Row) -> Row:
    """The published names of the rejected response are other ones."""
    value = row.value
    if value is None or "reject" not in value or "rejected" in value:
        return row
    names = {"reject": "rejected", "reject_model": "rejected_model"}
    return Row(
        {names.get(key, key): one for key, one in value.items()},
        row.line,
        row.index,
        file=row.file,
        before=row.before,
    )


def _pair(
    row: Row, layout: Layout, source: str, categories: Mapping[str, Category], problems: list[RecordProblem]
) -> Pair | None:
    value, place = row.value or {}, row.source(source)
    record = parse_row(value, layout, place)
    if not isinstance(record, Preference):
        problems += record if isinstance(record, list) else []
        return None
    stated = value.get("category")
    subset = str(value.get("subset") or stated or "")
    category = as_category(stated) or category_of(subset, categories)
    wrong = []
    if category is None:
        seen = (
            "subset",
            describe(subset or None),
            f"one whose category is known ({', '.join(CATEGORIES)}), a column category, or --categories",
        )
        wrong.append(FieldError(seen[1], seen[2], seen[0]))
    references: tuple[Passage, ...] = ()
    column = next((name for name in PASSAGE_COLUMNS if value.get(name) is not None), None)
    if column:
        try:
            references = parse_passages(value[column])
        except FieldError as error:
            wrong.append(FieldError(error.problem, error.expected, column))
    judges = value.get("judge_scores") or ()
    scores = [*judges, *([value["human_scores"]] if value.get("human_scores") else [])]
    if not all(
        isinstance(one, list | tuple) and len(one) == 2 and all(isinstance(x, int | float) for x in one)
        for one in scores
    ):
        name = "judge_scores" if value.get("judge_scores") else "human_scores"
        wrong.append(
            FieldError(
                describe(value[name]),
                "two numbers, of the chosen and the rejected response (of each judge)",
                name,
            )
        )
    if wrong or category is None:
        raise ExceptionGroup("a pair that cannot be used", wrong)
    human = value.get("human_scores")
    return Pair(
        id=str(value.get("id", row.index)), prompt=record.prompt, chosen=record.chosen, rejected=record.rejected,
        subset=subset, category=category, references=references,
        judge_scores=tuple((float(one[0]), float(one[1])) for one in judges),
        human_scores=(float(human[0]), float(human[1])) if human else None,
    )  # fmt: skip


def pair_row(pair: Pair, **beside: Any) -> dict[str, Any]:
    """A pair as files hold it, under the published names and ours for what they lack."""
    return {
        "id": pair.id, "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected,
        "subset": pair.subset, "category": pair.category,
        "references": [one.to_dict() for one in pair.references],
        "judge_scores": [list(one) for one in pair.judge_scores], **beside,
    }  # fmt: skip
