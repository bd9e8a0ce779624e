"""Records to train and to evaluate on: which options say so, how they are read, converted and split."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coalign.core.errors import DataError
from coalign.core.files import read_rows, write_rows
from coalign.core.options import Fraction, option, required
from coalign.core.runs import Run, is_main_process
from coalign.data.convert import CONVERSIONS, convert
from coalign.data.readers import RecordSet, read_records, rejected
from coalign.data.records import Kind, Record
from coalign.data.splits import split_records
from coalign.data.usable import assert_contrast, equal_responses
from coalign.data.writers import to_row
from coalign.models.options import ModelOptions
from coalign.training.options import TrainingOptions

HELD_OUT = 0.05
"""Share of the prompts that is held out by default."""


@dataclass(kw_only=True)
class DataOptions:
    """Which records to learn from."""

    __group__ = "Data"

    data: str = required(
        "records to learn from: a file, a hub id, a saved dataset folder, a run folder that made records or - for standard input"
    )
    eval_data: str | None = option(
        None, "records to evaluate on; else --eval-fraction of the prompts is held out"
    )
    split: str = option("train", "split of a hub dataset")
    limit: int | None = option(None, "read only so many records")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail",
        "stop at bad records, or write them to rejects.jsonl in the run folder (eval_rejects.jsonl those of --eval-data) and go on",
    )


@dataclass(kw_only=True)
class LearningOptions(DataOptions, ModelOptions, TrainingOptions):
    """Options of every objective. A subclass adds the constants of one."""

    eval_fraction: Fraction = option(
        HELD_OUT, "share of the prompts held out, where --eval-data gives none", group="Data"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_data is not None:
            self.refuse(["eval_fraction"], "beside eval_data", advice="leave one of them out")


@dataclass(frozen=True)
class Material:
    """Records to train and to evaluate on, and how they came about.

    Attributes:
        notes: what was recognised, converted, skipped: one sentence each, for the plan and the report.
    """

    training: list[Record]
    held_out: list[Record]
    notes: list[str]


def read_material(
    config: LearningOptions, kind: Kind, run: Run | None = None, *, also: Collection[Kind] = ()
) -> Material:
    """Read, convert and split the records; nothing but data is touched.

    Args:
        kind: to convert to.
        also: kinds that are taken as they are, and whose contrast is the caller's to check.

    Raises:
        DataError: bad records under `on_bad_record: fail`, a kind that cannot be converted, nothing to train on, or
            nothing that says what is better (labels of one class, ties throughout).
    """
    notes: list[str] = []
    records = _usable(config, config.data, kind, also, run, notes)
    if config.eval_data is not None:
        held_out = _usable(config, config.eval_data, kind, also, run, notes)
    else:
        records, held_out = split_records(records, config.eval_fraction, config.seed)
    return Material(records, held_out, notes)


def announce(notes: Sequence[str], run: Run) -> None:
    """Print and log what became of the data."""
    for note in notes:
        run.log("data", note=note)
        if is_main_process():
            print(f"Data: {note}", file=sys.stderr, flush=True)


def _usable(
    config: LearningOptions,
    source: str,
    kind: Kind,
    also: Collection[Kind],
    run: Run | None,
    notes: list[str],
) -> list[Record]:
    """The records of one source that can be learnt from; what happened is added to `notes`."""
    rejects: Path | None = None
    if config.on_bad_record == "skip" and run is not None:
        rejects = run.path / ("rejects.jsonl" if source == config.data else "eval_rejects.jsonl")
    found = read_records(
        source,
        split=config.split,
        on_bad_record=config.on_bad_record,
        rejects=rejects,
        limit=config.limit,
        text_alone=False,
    )
    notes.append(f"{source}: {found.recognised}")
    if found.problems:
        notes.append(f"{len(found.problems)} bad records were skipped; the first: {found.problems[0]}")
    notes += [f"warning: {one}" for one in found.warnings]
    kept: Kind = found.kind if found.kind in also else kind
    distinct = found.records
    if kept not in ("demonstration", "prompt"):
        distinct = _distinct(found, config, rejects, notes)
    if (found.kind, kept) == ("feedback", "ranking"):
        assert_contrast(distinct, "feedback", source)
    try:
        records = convert(distinct, found.kind, kept)
    except DataError as error:
        raise DataError(f"{source}: {error.message}", error.problems, hint=error.hint) from error
    converted = []
    if found.kind != kept:
        how = CONVERSIONS.get((found.kind, kept), "the prompts alone")
        told = f"{len(distinct)} {found.kind} records were read as {len(records)} {kept} records: {how}"
        converted.append(told)
    if not records:
        why = "".join(f" {note}." for note in converted)
        raise DataError(
            f"{source}: no record is left to learn from.{why}",
            hint="`coalign data check` shows what is there.",
        )
    notes += converted
    if found.kind not in also:
        assert_contrast(records, kind, source)
    return records


def _distinct(
    found: RecordSet, config: LearningOptions, rejects: Path | None, notes: list[str]
) -> list[Record]:
    """The records that do not set a response against itself; these stop the run, or are skipped, noted and written to
    `rejects`, behind what is there already.
    """
    records = found.records
    problems = equal_responses(records)
    if not problems:
        return records
    if config.on_bad_record == "fail":
        raise DataError(
            f"{len(problems)} of {len(records)} records set a response against itself.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip.",
        )
    notes.append(
        f"{len(problems)} records that set a response against itself were skipped; the first: {problems[0]}"
    )
    named = {(one.line, one.index): one for one in problems}
    if rejects is not None:
        places = [(one, (one.source.line, one.source.index)) for one in records]
        rows = [
            rejected(*place, to_row(one, "standard" if one.plain else "conversational"), [named[place]])
            for one, place in places
            if place in named
        ]
        write_rows(rejects, [*(read_rows(rejects) if found.rejects else ()), *rows])
    return [one for one in records if (one.source.line, one.source.index) not in named]
