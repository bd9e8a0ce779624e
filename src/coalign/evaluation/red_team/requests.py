"""Requests that should be refused, and harmless ones that should not: read from any file of rows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError, describe
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each

COLUMNS = ("goal", "request", "behavior", "prompt", "instruction", "question")
"""Columns that may hold the request, the first that is there counts; capital letters do not matter."""


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        category: as the file has it; empty without.
        part: `train` or `test`, where the file says it.
    """

    id: str
    text: str
    category: str = ""
    part: str | None = None


def read_requests(source: str, *, split: str = "train", limit: int | None = None) -> list[Request]:
    """Requests from a file with a column `goal`, `request`, `behavior`, `prompt`, `instruction` or `question`, such as
    JailbreakBench's list (Goal, Category); `category` and `split` (train, test) are read too.

    Raises:
        DataError: the source cannot be read, a row has no request, or two rows are the same; every problem is listed.
    """
    problems: list[RecordProblem] = []
    found = list(itertools.islice(parse_each(iter_rows(source, split), source, _request, problems), limit))
    if problems:
        raise DataError(f"{source}: {len(problems)} requests cannot be used.", problems)
    assert_unique((one.id for one in found), source)
    return found


def _request(row: Row) -> Request:
    value: dict[str, Any] = {str(name).lower(): one for name, one in (row.value or {}).items()}
    column = next((one for one in COLUMNS if one in value), None)
    if column is None:
        raise FieldError("no request", f"one of the columns {', '.join(COLUMNS)}", COLUMNS[0])
    text = value[column]
    if isinstance(text, list) and len(text) == 1 and isinstance(text[0], dict):
        text = text[0].get("content")  # a chat of one message
    if not isinstance(text, str) or not text.strip():
        raise FieldError(describe(text), "a request as text", column)
    part = value.get("split")
    if part not in (None, "train", "test"):
        raise FieldError(describe(part), "train or test", "split")
    return Request(
        str(value.get("id", value.get("index", row.index))),
        text.strip(),
        str(value.get("category") or ""),
        part,
    )


def halves(requests: Sequence[Request], seed: int) -> tuple[list[Request], list[Request]]:
    """Requests to train a defence on and others to test it on: by their column `split` where all have one, else every
    category is cut in two by the seed.

    Raises:
        DataError: only some have a split, or one half is empty.
    """
    named = [one for one in requests if one.part]
    if named and len(named) < len(requests):
        raise DataError(f"{len(named)} of {len(requests)} requests have a split, expected all or none.")
    order = list(requests)
    random.Random(f"{seed}/halves").shuffle(order)
    order.sort(key=lambda one: one.category)  # stable: shuffled within a category
    chosen = {one.id for one in named if one.part == "train"} or {one.id for one in order[::2] if not named}
    training = [one for one in requests if one.id in chosen]
    test = [one for one in requests if one.id not in chosen]
    if not training or not test:
        raise DataError(
            f"{len(training)} requests to train on and {len(test)} to test on, expected some of both."
        )
    return training, test
