"""Records of many tasks as pairs of texts with one label: what an alignment function learns from."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.data.messages import FieldError, describe
from coalign.data.rows import Row, iter_rows, parse_each

Task = Literal[
    "nli",
    "fact_checking",
    "bin_nli",
    "paraphrase",
    "qa",
    "coreference",
    "ir",
    "summarization",
    "multiple_choice_qa",
    "extractive_qa",
    "sts",
]
TASKS: tuple[Task, ...] = get_args(Task)
THREE_WAY = ("nli", "fact_checking")
CHOSEN = ("summarization", "multiple_choice_qa", "extractive_qa")
"""Tasks whose label is drawn: a text of `text_b` is aligned, one of `text_c` is not."""
ALIGNED, NEUTRAL, CONTRADICTING = 0, 1, 2
AUGMENTATION = 0.05


@dataclass(frozen=True)
class TaskRecord:
    """One record of a task (arXiv 2305.16739, section 3.2; the field names of its official data).

    Attributes:
        task: which conversion applies, see `labelled_pair`.
        text_a: what should support the others.
        text_b: one text, or several of which one is drawn.
        text_c: the answer to text_b (`qa`, `coreference`), or texts that are not aligned (tasks of `CHOSEN`).
        label: three-way 0 aligned, 1 neutral, 2 contradicting; two-way 1 aligned; `sts` a number from 0 to 5;
            None for tasks of `CHOSEN`.
        dataset: where it came from, for counts.
    """

    task: Task
    text_a: str
    text_b: tuple[str, ...]
    text_c: tuple[str, ...] = ()
    label: float | None = None
    dataset: str = ""


class LabelledPair(NamedTuple):
    """A pair for one head: `tri` with 0 aligned, 1 neutral, 2 contradicting, `bin` with 1 aligned, `reg` in [0, 1]."""

    text_a: str
    text_b: str
    head: Literal["tri", "bin", "reg"]
    label: float


def labelled_pair(
    record: TaskRecord,
    draw: random.Random,
    *,
    others: Sequence[TaskRecord] = (),
    augmentation: float = AUGMENTATION,
) -> LabelledPair:
    """The pair that a record gives this time.

    Three-way labels and those of `bin_nli`, `paraphrase`, `qa`, `coreference` and `ir` are the record's own; `qa` and
    `coreference` join question and answer. A record of `CHOSEN` is, half of the time each, a text of `text_b` as
    aligned or one of `text_c` as not aligned; without `text_c` the not aligned one is the text of a random other
    record. `sts` scores are divided by 5.

    With probability `augmentation` a three-way or paraphrase record becomes the pair of its first text with itself,
    which is aligned. Else, with the same probability, its texts change places, where that keeps the label true: always
    for a paraphrase, only for a contradiction otherwise.

    Args:
        draw: source of all choices.
        others: records of the same task, for negatives where there is no `text_c`.
    """
    first, second = record.text_a, record.text_b[0]
    task, label = record.task, record.label
    if task in THREE_WAY:
        kind = NEUTRAL if label is None or label < 0 else int(label)
        if draw.random() < augmentation:
            return LabelledPair(first, first, "tri", ALIGNED)
        if draw.random() < augmentation and kind == CONTRADICTING:
            first, second = second, first
        return LabelledPair(first, second, "tri", kind)
    if task == "sts":
        return LabelledPair(first, second, "reg", float(label or 0) / 5)
    if task in CHOSEN:
        if draw.random() < 0.5:
            return LabelledPair(first, draw.choice(record.text_b), "bin", 1)
        return LabelledPair(first, _wrong(record, draw, others), "bin", 0)
    aligned = int(label or 0)
    if task == "paraphrase":
        if draw.random() < augmentation:
            return LabelledPair(first, first, "bin", 1)
        if draw.random() < augmentation:
            first, second = second, first
    elif task in ("qa", "coreference"):
        second = f"{second} {record.text_c[0]}"
    elif task == "ir":
        second = draw.choice(record.text_b)
    return LabelledPair(first, second, "bin", aligned)


def _wrong(record: TaskRecord, draw: random.Random, others: Sequence[TaskRecord]) -> str:
    if record.text_c:
        return draw.choice(record.text_c)
    while True:
        other = draw.choice(others)
        if other is not record:
            return other.text_b[0]


def assert_usable(records: Sequence[TaskRecord]) -> None:
    """Refuse what `labelled_pair` cannot work with.

    Raises:
        DataError: no record, or a lone one of a task of `CHOSEN` without `text_c`: nothing could be its negative.
    """
    if not records:
        raise DataError("There is no record to train on.")
    for task in CHOSEN:
        of_task = [one for one in records if one.task == task]
        if len(of_task) == 1 and not of_task[0].text_c:
            raise DataError(
                f"The only record of {task} has no text_c, so there is no text that it does not support.",
                hint="Give text_c, or more records of the task.",
            )


def parse_record(row: Mapping[str, Any], dataset: str = "") -> TaskRecord:
    """A row with the columns `task`, `text_a`, `text_b`, `text_c`, `orig_label` (or `label`).

    Raises:
        FieldError: a column is missing or does not fit the task.
    """
    task = row.get("task")
    if task not in TASKS:
        raise FieldError(describe(task), f"one of: {', '.join(TASKS)}", "task")
    text_b, text_c = texts(row, "text_b"), texts(row, "text_c")
    if not text_b:
        raise FieldError("is empty", "a text or a list of texts", "text_b")
    if task in ("qa", "coreference") and not text_c:
        raise FieldError("is empty", "the answer", "text_c")
    label = None if task in CHOSEN else _label(row, task)
    return TaskRecord(task, text(row, "text_a"), text_b, text_c, label, dataset)


def text(row: Mapping[str, Any], column: str) -> str:
    """The text of a column.

    Raises:
        FieldError: it is missing, not text or empty.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise FieldError("is empty" if isinstance(value, str) else describe(value), "text", column)
    return value


def texts(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """A text or a list of texts; nothing is an empty tuple."""
    value = row.get(column)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(one, str) for one in values):
        raise FieldError(describe(value), "a text or a list of texts", column)
    return tuple(values)


def _label(row: Mapping[str, Any], task: Task) -> float:
    column = "orig_label" if "orig_label" in row else "label"
    value = row.get(column)
    allowed = (-1, 0, 1, 2) if task in THREE_WAY else (0, 1)
    if isinstance(value, bool) and task not in (*THREE_WAY, "sts"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(describe(value), "a number", column)
    if task == "sts":
        if not 0 <= value <= 5:
            raise FieldError(describe(value), "a score from 0 to 5", column)
    elif value not in allowed:
        raise FieldError(describe(value), f"one of: {', '.join(map(str, allowed))}", column)
    return float(value)


@dataclass(frozen=True)
class RecordSource:
    """Records of one source, and what became of its rows."""

    name: str
    records: list[TaskRecord]
    rows: int
    problems: list[RecordProblem]


def read_task_records(
    source: str,
    *,
    most: int,
    convert: Any = None,
    split: str = "train",
    on_bad_record: Literal["fail", "skip"] = "fail",
    dataset: str = "",
) -> RecordSource:
    """The first `most` records of a source.

    Args:
        convert: from a row to a list of records (none for a row that says nothing), or raises `FieldError`; by default
            rows are records already.

    Raises:
        DataError: the source cannot be read, or a row is bad under `fail`.
    """
    records: list[TaskRecord] = []
    problems: list[RecordProblem] = []
    used = 0

    def parse(row: Row) -> list[TaskRecord]:
        return convert(row.value) if convert else [parse_record(row.value or {}, dataset)]

    for made in parse_each(iter_rows(source, split), source, parse, problems):
        used += 1
        records += made
        if len(records) >= most:
            break
    bad = rows_with(problems)
    if problems and on_bad_record == "fail":
        raise DataError(
            f"{source}: {bad} of {used + bad} rows cannot be used.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip (they are counted).",
        )
    return RecordSource(dataset or source, records[:most], used + bad, problems)
