"""Rows that pair a source text with a text that should follow from it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from coalign.core.engines.spool import Spool, View
from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.core.progress import counted
from coalign.data.messages import FieldError, describe
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each

CONTEXT_NAMES = ("context", "source", "document", "article", "premise", "passage", "text_a")
CLAIM_NAMES = ("claim", "summary", "hypothesis", "answer", "response", "generated", "output", "text_b")
LABEL_NAMES = ("label", "human_score", "consistent")
_TRUE = ("true", "yes", "consistent", "factual", "supported", "1")
_FALSE = ("false", "no", "inconsistent", "hallucinated", "unsupported", "0")


@dataclass(frozen=True)
class TextPair:
    """A source text, a claim, and what a person said of the claim where the file has that.

    Attributes:
        label: a number; higher is better supported. True and false are 1 and 0.
    """

    id: str
    context: str
    claim: str
    label: float | None = None


@dataclass(frozen=True)
class PairSet:
    """Pairs of a file, which lie on disk, and the rows that could not be used."""

    pairs: Sequence[TextPair]
    problems: list[RecordProblem]
    columns: tuple[str, str, str | None]

    @property
    def items(self) -> Sequence[TextPair]:
        return self.pairs

    @property
    def ids(self) -> Sequence[str]:
        return View(self.pairs, attrgetter("id"))


def read_pairs(
    source: str,
    *,
    context: str | None = None,
    claim: str | None = None,
    label: str | None = None,
    split: str = "test",
    on_bad_record: Literal["fail", "skip"] = "fail",
    limit: int | None = None,
) -> PairSet:
    """Read pairs from anything that `coalign.data.rows.iter_rows` reads: twice, since a column may begin in the last row.

    Args:
        context, claim, label: columns; by default the first known name that the file has (`CONTEXT_NAMES`, ...). A
            label is optional unless it is named here.
        on_bad_record: stop at a row without text in either column, with an empty claim or an unreadable label, or
            leave it out and count it. An empty context is allowed: nothing is then supported by it.

    Raises:
        DataError: the source cannot be read, has no such columns, or has bad rows under `fail`.
    """
    name = "<stdin>" if source == "-" else source
    known: set[str] = set()

    def noted(row: Row) -> Row:
        known.update(row.value or ())
        return row

    given = counted(itertools.islice(iter_rows(source, split), limit), f"Reading {Path(name).name}")
    rows = Spool(map(noted, given))
    columns = (
        _column(name, known, "context", context, CONTEXT_NAMES),
        _column(name, known, "claim", claim, CLAIM_NAMES),
        None
        if label is None and not known.intersection(LABEL_NAMES)
        else _column(name, known, "label", label, LABEL_NAMES),
    )
    problems: list[RecordProblem] = []
    pairs = Spool(parse_each(rows, name, lambda row: _pair(row, columns), problems))
    bad = rows_with(problems)
    if problems and on_bad_record == "fail":
        raise DataError(
            f"{name}: {bad} of {len(rows)} rows cannot be used.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip (they are counted).",
        )
    if not pairs:
        raise DataError(f"{name}: no row can be used.", problems)
    found = PairSet(pairs, problems, columns)
    assert_unique(found.ids, name)
    return found


def _column(name: str, known: set[str], what: str, given: str | None, usual: tuple[str, ...]) -> str:
    wanted = usual if given is None else (given,)
    found = next((one for one in wanted if one in known), None)
    if found is None:
        raise DataError(
            f"{name}: no column for the {what}: found {', '.join(sorted(known)) or 'none'}, expected "
            f"{' or '.join(wanted)}.",
            hint=f"Name it with --{what}-column.",
        )
    return found


def _pair(row: Row, columns: tuple[str, str, str | None]) -> TextPair:
    value = row.value or {}
    wrong: list[FieldError] = []
    for column, may_be_empty in ((columns[0], True), (columns[1], False)):
        text = value.get(column)
        if not isinstance(text, str):
            wrong.append(FieldError(describe(text), "text", column))
        elif not text.strip() and not may_be_empty:
            wrong.append(FieldError("is empty", "a text to score", column))
    label = _label(value, columns[2]) if columns[2] is not None else None
    if isinstance(label, str):
        wrong.append(FieldError(label, "a number, or true or false", columns[2]))
    if wrong or isinstance(label, str):
        raise ExceptionGroup("a pair that cannot be used", wrong)
    return TextPair(str(value.get("id", row.index)), value[columns[0]], value[columns[1]], label)


def _label(value: Mapping[str, Any], column: str) -> float | str | None:
    found = value.get(column)
    if found is None or found == "":
        return None
    if isinstance(found, str) and found.strip().lower() in (*_TRUE, *_FALSE):
        return float(found.strip().lower() in _TRUE)
    try:
        number = float(found)
    except (TypeError, ValueError, OverflowError):
        return describe(found)
    return number if number == number and abs(number) != float("inf") else describe(found)
