"""Files of pairs or responses as items to judge, with the verdicts of people where the file has them."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, Literal

from coalign.core.engines.spool import Spool, View
from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.core.files import write_rows
from coalign.core.progress import counted
from coalign.data.checking.usable import undecodable
from coalign.data.columns import PARTS, Layout, are_single, recognise, usual_columns
from coalign.data.media.conversations import showing
from coalign.data.messages import FieldError, describe, parse_text
from coalign.data.parse import parse_row
from coalign.data.records import Preference, PromptRecord, Record, responses_of
from coalign.data.rows import Row, assert_unique, iter_rows
from coalign.judging.protocol import Choice, JudgeItem, Rubric

PAIR_COLUMNS = (
    ("response_a", "response_b"), ("response_1", "response_2"), ("response1", "response2"),
    ("answer_a", "answer_b"), ("answer_1", "answer_2"), ("answer1", "answer2"),
    ("output_a", "output_b"), ("output_1", "output_2"), ("output1", "output2"),
)  # fmt: skip
"""Names under which files hold two responses to compare."""
LABEL_COLUMNS = ("label", "winner", "human", "human_verdict")
"""Columns that are read as verdicts of people, beside `annotator1`, `annotator2` and so on."""
_CHOICES: dict[str, Choice] = {
    "1": "first", "first": "first", "a": "first", "model_a": "first", "response_1": "first", "response_a": "first",
    "2": "second", "second": "second", "b": "second", "model_b": "second", "response_2": "second",
    "response_b": "second", "0": "tie", "tie": "tie", "c": "tie", "both": "tie", "tie (bothbad)": "tie",
}  # fmt: skip
_FROM_ZERO: dict[str, Choice] = {"0": "first", "1": "second", "2": "tie"}
LABELS_TEXT = "1, A or first; 2, B or second; 0, C or tie"
Zero = Literal["tie", "first"]
"""What a verdict 0 says: a tie (1 and 2 are the responses), or the first response (1 is the second, 2 a tie)."""
_LOOK_AHEAD = 100
_ANNOTATOR = re.compile(r"annotator[ _]?\d+", re.IGNORECASE)

Kind = Literal["pairs", "responses"]


@dataclass(frozen=True)
class ItemSet:
    """What was read.

    Attributes:
        kind: `pairs` to compare or `responses` to rate.
        items: the usable ones, in order; many lie on disk.
        labels: for each item what people said of it; empty where nobody did.
        problems: everything wrong with the other rows.
        recognised: one sentence: what, from which columns.
        source: the file.
    """

    kind: Kind
    items: Sequence[JudgeItem]
    labels: Sequence[tuple[Choice, ...]]
    recognised: str
    source: str
    problems: list[RecordProblem] = field(default_factory=list)

    @property
    def n_bad(self) -> int:
        return rows_with(self.problems)


_Judged = tuple[JudgeItem, tuple[Choice, ...]]


@dataclass(frozen=True)
class _Columns:
    prompt: Layout
    responses: tuple[str, ...]
    labels: tuple[str, ...]
    reference: str | None
    rubric: str | None


def read_items(
    source: str,
    *,
    pair_columns: Sequence[str] = (),
    label_columns: Sequence[str] = (),
    reference_column: str = "reference",
    rubric_column: str = "rubric",
    label_zero: Zero | None = None,
    split: str = "train",
    on_bad_record: Literal["fail", "skip"] = "fail",
    rejects: Path | None = None,
    limit: int | None = None,
    many: bool = False,
) -> ItemSet:
    """Read pairs (a prompt and two responses, or chosen and rejected) or responses (a prompt and one).

    Args:
        source: anything that `coalign.data.readers.read_records` reads.
        pair_columns: the columns of the two responses, where their names are not among `PAIR_COLUMNS`.
        label_columns: columns with verdicts of people; by default those of `LABEL_COLUMNS` and every `annotator1`, `annotator2`, ....
            In a file of chosen and rejected responses, chosen is such a verdict.
        label_zero: what a verdict 0 says; None takes a tie, and refuses a file whose verdicts are all 0 and 1.
        on_bad_record: `skip` leaves bad rows out, counted and, with `rejects`, written to a file.
        many: for callers that need no list: items and labels lie on disk.

    Raises:
        DataError: the file cannot be read, has no such columns, its verdicts may mean two things, or a row is bad
            (under `fail`).
    """
    rows = itertools.islice(iter_rows(source, split), limit)
    first = list(itertools.islice(rows, _LOOK_AHEAD))
    values = [row.value for row in first if row.value is not None]
    if not values:
        raise DataError(f"{source}: no row can be read.", [row.problem for row in first if row.problem])
    columns = _find_columns(values, source, pair_columns, label_columns, reference_column, rubric_column)
    problems: list[RecordProblem] = []
    bad: list[dict[str, Any]] = []
    said: set[str] = set()

    def usable() -> Iterator[_Judged]:
        for row in counted(itertools.chain(first, rows), f"Reading {Path(source).name}"):
            said.update(_number_text((row.value or {}).get(name)) for name in columns.labels)
            found = [row.problem] if row.problem else _read(row, columns, source, label_zero)
            if isinstance(found, tuple):
                yield found
                continue
            problems.extend(found)
            bad.append(
                {
                    "line": row.line,
                    "index": row.index,
                    "row": row.value or row.raw,
                    "problems": list(map(str, found)),
                }
            )

    read: Sequence[_Judged] = Spool(usable()) if many else list(usable())
    items, labels = View(read, itemgetter(0)), View(read, itemgetter(1))
    kind: Kind = "pairs" if len(columns.responses) != 1 else "responses"
    if problems and on_bad_record == "fail":
        raise DataError(
            f"{source}: {len(bad)} of {len(items) + len(bad)} rows cannot be judged.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip (they are counted and kept in a file).",
        )
    if not items:
        raise DataError(f"{source}: no row can be judged.", problems)
    if rejects is not None and bad:
        write_rows(rejects, bad)
    if (
        label_zero is None
        and len(items) > 1
        and len(columns.responses) == 2
        and "0" in said <= {"0", "1", ""}
    ):
        raise DataError(
            f"{source}: the verdicts in {', '.join(columns.labels)} are all 0 and 1: 0 may be a tie or the first response.",
            hint="Say which with --label-zero tie or first, or write first, second and tie.",
        )
    named = ", ".join(columns.responses) or "chosen, rejected"
    people = f"; verdicts of people in {', '.join(columns.labels)}" if columns.labels else ""
    assert_unique(View(items, attrgetter("id")), source)
    if not many:
        items, labels = list(items), list(labels)
    return ItemSet(kind, items, labels, f"{kind} from {named}{people}", source, problems)


def paired_items(first: ItemSet, second: ItemSet) -> ItemSet:
    """Two files of responses as pairs: each response of `first` with the one of `second` to the same prompt.

    Where a prompt comes several times, the first of one file belongs to the first of the other, and so on. Prompts that only
    `second` has are left out.

    Raises:
        DataError: a file holds pairs, or a prompt of `first` has no response in `second`.
    """
    for one in (first, second):
        if one.kind != "responses":
            raise DataError(
                f"{one.source}: it holds pairs already, expected a prompt and one response a row."
            )
    theirs: dict[bytes, array[int]] = {}
    for place, item in enumerate(second.items):
        theirs.setdefault(_asked(item), array("q")).append(place)
    used: Counter[bytes] = Counter()
    others = array("q")
    missing: list[str] = []
    for item in first.items:
        asked = _asked(item)
        places, number = theirs.get(asked, ()), used[asked]
        used[asked] += 1
        if number < len(places):
            others.append(places[number])
        else:
            missing.append(item.id)
    if missing:
        raise DataError(
            f"{second.source}: no response to {len(missing)} of the {len(first.items)} prompts of {first.source} (the first is "
            f"that of {missing[0]}).",
            hint="Let both models answer the same file: `coalign generate --prompts FILE`.",
        )
    recognised = f"pairs of {first.recognised} in {first.source} and {second.source}"
    items = View(range(len(others)), functools.partial(_paired, first.items, second.items, others))
    return ItemSet(
        "pairs", items, first.labels, recognised, first.source, [*first.problems, *second.problems]
    )


def _paired(
    first: Sequence[JudgeItem], second: Sequence[JudgeItem], others: Sequence[int], place: int
) -> JudgeItem:
    mine = first[place]
    return replace(mine, responses=(*mine.responses, *second[others[place]].responses))


def _asked(item: JudgeItem) -> bytes:
    text = json.dumps(item.prompt, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def parse_choice(value: Any, zero: Zero | None = None) -> Choice:
    """A verdict as files write it (`LABELS_TEXT`).

    Raises:
        FieldError: none of these.
    """
    text = "" if isinstance(value, bool) else _number_text(value).lower()
    choices: dict[str, Choice] = {**_CHOICES, **_FROM_ZERO} if zero == "first" else _CHOICES
    if text not in choices:
        raise FieldError(describe(value), LABELS_TEXT)
    return choices[text]


def _number_text(value: Any) -> str:
    """A verdict as text; whole numbers as such."""
    text = "" if value is None else str(value).strip()
    return text.removesuffix(".0")


def parse_rubric(value: Any) -> Rubric | None:
    """A rubric: text, or a mapping with `criteria` and, optionally, `levels` or `score_descriptions` by score.

    Raises:
        FieldError: something else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return Rubric(criteria=value)
    levels = value.get("levels", value.get("score_descriptions", {})) if isinstance(value, Mapping) else None
    if (
        not isinstance(value, Mapping)
        or not isinstance(value.get("criteria"), str)
        or not isinstance(levels, Mapping)
    ):
        raise FieldError(describe(value), "text, or a mapping with criteria and levels")
    try:
        return Rubric(
            criteria=value["criteria"], levels={int(key): str(text) for key, text in levels.items()}
        )
    except ValueError as error:
        raise FieldError("a level that is not a whole number", "whole numbers as levels") from error


def _find_columns(
    rows: Sequence[Mapping[str, Any]],
    source: str,
    pair: Sequence[str],
    labels: Sequence[str],
    reference: str,
    rubric: str,
) -> _Columns:
    names = list(dict.fromkeys(name for row in rows for name in row))
    usual = usual_columns(rows)
    for one in (*pair, *labels):
        if one not in names:
            raise DataError(f"{source}: no column {one!r}.", hint=f"Columns: {', '.join(names)}.")
    if pair and len(pair) != 2:
        raise DataError(f"{len(pair)} columns of responses were named, expected two.")
    people = tuple(labels) or tuple(
        name for name in names if name.lower() in LABEL_COLUMNS or _ANNOTATOR.fullmatch(name)
    )
    common = (people, reference if reference in names else None, rubric if rubric in names else None)
    found = tuple(pair) or next((two for two in PAIR_COLUMNS if set(two) <= set(usual)), ())
    if found:
        return _Columns(recognise(rows, source, "prompt"), (found[0], found[1]), *common)
    if {"chosen", "rejected"} <= set(usual):
        return _Columns(recognise(rows, source, "preference"), (), *common)
    names_of_one = (*PARTS["completion"], *(one for one in PARTS["responses"] if are_single(rows, one)))
    completion = next((name for name in names_of_one if name in usual), None)
    if completion and completion != common[1]:
        return _Columns(recognise(rows, source, "prompt"), (completion,), *common)
    raise DataError(
        f"{source}: nothing to judge in the columns {', '.join(names) or '(none)'}.",
        hint="Needed: prompt and "
        + " or ".join(" + ".join(two) for two in PAIR_COLUMNS[:2])
        + ", or chosen + rejected, or other names given with --pair-columns; or prompt and response, to rate it.",
    )


def _read(
    row: Row, columns: _Columns, source: str, zero: Zero | None
) -> tuple[JudgeItem, tuple[Choice, ...]] | list[RecordProblem]:
    place = row.source(source)
    value = row.value or {}
    record = parse_row(value, columns.prompt, place)
    errors: list[FieldError] = []
    problems = [] if isinstance(record, Record) else list(record)

    def read(name: str, parse: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return parse(value.get(name), *arguments, **options)
        except FieldError as error:
            errors.append(FieldError(error.problem, error.expected, name))
            return None

    responses = tuple(read(name, _parse_response) for name in columns.responses)
    said = tuple(
        read(name, parse_choice, zero) for name in columns.labels if value.get(name) not in (None, "")
    )
    rubric = read(columns.rubric, parse_rubric) if columns.rubric else None
    reference = value.get(columns.reference) if columns.reference else None
    if reference is not None and columns.reference:
        reference = read(columns.reference, parse_text)
    problems += [place.problem(one.field or "row", one.problem, one.expected) for one in errors]
    if problems or not isinstance(record, Record):
        return problems
    if isinstance(record, Preference):
        responses = responses_of(record)
        said = ("first", *said)
    problems = undecodable([record])
    if problems:
        return problems
    prompt = showing(record.prompt, record.pictures)
    if isinstance(record, PromptRecord) and prompt and prompt[-1]["role"] == "assistant":
        prompt = prompt[:-1]
    item = JudgeItem(
        id=str(value.get("id", value.get("idx", row.index))),
        prompt=prompt,
        responses=responses,
        reference=reference,
        rubric=rubric,
        extra={name: one for name, one in record.extra.items() if name not in columns.responses},
    )
    return item, said


def _parse_response(value: Any) -> str:
    """Text, which may be empty, or a list of one."""
    single = isinstance(value, list) and len(value) == 1
    return parse_text(value[0] if single else value, allow_empty=True)
