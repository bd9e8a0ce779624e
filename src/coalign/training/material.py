"""Records to train and to evaluate on: which options say so, how they are read, mixed, converted and split."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import write_rows
from coalign.core.options import Count, CountOrZero, Fraction, OptionGroup, option, required
from coalign.core.runs import Run, is_main_process
from coalign.data.checking.overlap import find_overlap
from coalign.data.checking.usable import assert_contrast
from coalign.data.prepared.many import joined
from coalign.data.prepared.parts import Part, assert_apart, read_part
from coalign.data.records import Kind, Record
from coalign.data.sources import (
    ColumnNames,
    DataSources,
    SourceFigures,
    Sources,
    canonical_columns,
    canonical_sources,
    named,
    sources_of,
)
from coalign.data.splits import FEWEST_PROMPTS, different_prompts, split_parts, weighted
from coalign.models.options import ModelOptions
from coalign.training.options import Batching, TrainingOptions

HELD_OUT = 0.05
"""Share of the prompts that is held out by default."""
MOST_HELD_OUT = 2000
"""Prompts that are held out at that default: more take long to evaluate, and tell little more."""


@dataclass(kw_only=True)
class ReadingOptions(OptionGroup):
    """How records are read."""

    __group__ = "Data"

    split: str = option("train", "split of a hub dataset, or of a folder whose files are named by splits")
    kind: Kind | None = option(None, "what the data holds, where its columns allow more than one kind")
    column: ColumnNames | None = option(
        None,
        "take a column of the data under a name that records have, such as prompt=question; may be given several times",
    )
    limit: Count | None = option(None, "read only so many records, of each source")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail",
        "stop at bad records, or write them to rejects.jsonl in the run folder (eval_rejects.jsonl those of --eval-data) and go on",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.column = canonical_columns(self.column)


@dataclass(kw_only=True)
class DataOptions(ReadingOptions):
    """Which records to learn from."""

    __group__ = "Data"

    data: DataSources = required(
        "records to learn from: a file, a folder or a glob of files, a hub id, a saved dataset folder, a run folder that made "
        "records or - for standard input; given several times they are mixed, each as PATH or PATH,KEY=VALUE,... with the keys weight, max, tag, "
        "split, kind and column.NAME"
    )
    eval_data: DataSources | None = option(
        None, "records to evaluate on, as --data; else --eval-fraction of the prompts is held out"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is not None:  # where a system also runs on something else
            self.data = canonical_sources(self.data, "data")
        if self.eval_data is not None:
            self.eval_data = canonical_sources(self.eval_data, "eval_data", weights=False)


@dataclass(kw_only=True)
class LearningOptions(DataOptions, ModelOptions, TrainingOptions):
    """Options of every objective. A subclass adds the constants of one."""

    eval_fraction: Fraction = option(
        HELD_OUT,
        "share of the prompts held out, where --eval-data gives none; at its default at most 2000 prompts",
        group="Data",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_data is not None:
            self.refuse(["eval_fraction"], "beside eval_data", advice="leave one of them out")


@dataclass(kw_only=True)
class ObjectiveOptions(LearningOptions):
    """Options of a run that learns with one objective, `coalign.training.learning.learn`."""

    show_answers: CountOrZero = option(
        8,
        "held-out prompts that are answered before and after the training, for the report; none under several processes",
        group="Evaluation",
    )
    batching: Batching = option(
        "shuffled",
        "which records share a forward pass: any, or those of like length, so that long texts wait for no short ones",
        source="sorted: LongAlign, arXiv 2401.18058",
        group="Training",
    )


@dataclass(frozen=True)
class Material:
    """Records to train and to evaluate on, and how they came about.

    Attributes:
        notes: what was recognised, converted, skipped: one sentence each, for the plan and the report.
    """

    training: Sequence[Record]
    held_out: Sequence[Record]
    notes: list[str]


def read_material(
    config: LearningOptions, kind: Kind, run: Run | None = None, *, also: Collection[Kind] = ()
) -> Material:
    """Read, mix, convert and split the records; nothing but data is touched.

    Args:
        kind: to convert to.
        also: kinds that are taken as they are, and whose contrast is the caller's to check.

    Raises:
        DataError: bad records under `on_bad_record: fail`, a kind that cannot be converted, nothing to train on, or
            nothing that says what is better (labels of one class, ties throughout).
    """
    notes: list[str] = []
    parts = read_sources(config, config.data, kind, notes, seed=config.seed, also=also, run=run)
    eval_parts: list[Part] = []
    if config.eval_data is None:
        sides = split_and_weigh(parts, _held_out_share(config, parts, notes), config.seed)
    else:
        eval_parts = read_sources(
            config,
            config.eval_data,
            kind,
            notes,
            seed=config.seed,
            also=also,
            run=run,
            rejects="eval_rejects.jsonl",
        )
        sides = split_and_weigh(parts, 0, config.seed)
    training = joined([records for records, _ in sides])
    held_out = joined([*(records for _, records in sides), *(one.records for one in eval_parts)])
    if eval_parts:
        notes.append(overlap_note(training, held_out, run))
    notes += told_of_sources(parts, sides, run)
    notes += told_of_sources(eval_parts, [([], one.records) for one in eval_parts], run, part="held out")
    if not len(training):
        hint = "Raise a weight, or hold out fewer (--eval-fraction)."
        raise DataError(f"{named(config.data)}: no record is left to learn from. {notes[-1]}.", hint=hint)
    return Material(training, held_out, notes)


def read_sources(
    reading: ReadingOptions,
    value: Sources,
    kind: Kind,
    notes: list[str],
    *,
    seed: int = 0,
    also: Collection[Kind] = (),
    run: Run | None = None,
    rejects: str = "rejects.jsonl",
    text_alone: bool = False,
) -> list[Part]:
    """Read every source of an option and convert it to one kind; what happened is added to `notes`.

    Args:
        reading: how they are read, where a source says nothing else.
        value: of the option.
        seed: of what is drawn under a cap.
        also: kinds that are taken as they are.
        run: its folder holds the rejects.
        rejects: their file.
        text_alone: refuse records that texts and messages do not hold (`coalign.data.readers.read_records`).

    Raises:
        DataError: as of `read_material`; a file that two sources have.
        ConfigError: what an option says is no source.
    """
    try:
        sources = sources_of(value)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    assert_apart(sources, reading.split)
    path = run.path / rejects if run is not None and reading.on_bad_record == "skip" else None
    parts = [read_part(reading, one, kind, also, notes, seed, text_alone) for one in sources]
    bad = [row for one in parts for row in one.bad]
    if path is not None and bad:
        write_rows(path, bad)
    assert_contrast(joined([one.records for one in parts if one.kind not in also]), kind, named(value))
    return parts


def overlap_note(training: Sequence[Record], evaluated: Sequence[Record], run: Run | None) -> str:
    """Which evaluation prompts are trained on, in a sentence; the figures are the run's event `overlap`."""
    overlap = find_overlap(training, evaluated)
    if run is not None:
        counts = {"matches": len(overlap.matches), "exact": overlap.exact, "near": overlap.near}
        run.log("overlap", records=overlap.records, **counts)
    return f"warning: {overlap.told()}" if overlap.matches else overlap.told()


def told_of_sources(
    parts: Sequence[Part],
    sides: Sequence[tuple[Sequence[Record], Sequence[Record]]],
    run: Run | None,
    *,
    part: str = "training",
) -> list[str]:
    """A sentence for each source of a mix, or of a source that is capped, weighed or tagged; the figures are the run's
    events `source`.

    Args:
        sides: of each source what is trained on and what is held out.
        part: what the sources are for.
    """
    if not _says_more(parts):
        return []
    whole = max(sum(len(training) for training, _ in sides), 1)
    figures = [
        SourceFigures(
            tag=one.source.tag or one.source.path,
            path=one.source.path,
            part=part,
            weight=one.source.weight,
            read=one.read,
            rejected=one.rejected,
            usable=one.usable,
            used=len(one.records),
            held_out=len(held_out),
            in_pass=len(training),
            share=len(training) / whole,
        )
        for one, (training, held_out) in zip(parts, sides, strict=True)
    ]
    if run is not None:
        for one in figures:
            run.log("source", **asdict(one))
    return [one.told() for one in figures]


def split_and_weigh(
    parts: Sequence[Part], eval_fraction: float, seed: int
) -> list[tuple[Sequence[Record], Sequence[Record]]]:
    """For each source what is trained on, as often as its weight says, and what is held out, once each. Prompts are
    held out as by `coalign.data.splits.split_parts`, of each source its share and none on both sides.
    """
    sides = split_parts([one.records for one in parts], eval_fraction, seed)
    return [
        (weighted(records, one.source.weight, f"{seed}/weight/{one.source.tag}"), held_out)
        for (records, held_out), one in zip(sides, parts, strict=True)
    ]


def _held_out_share(config: LearningOptions, parts: Sequence[Part], notes: list[str]) -> float:
    """`eval_fraction`; at its default nothing where there are too few prompts to hold out any, and no more than
    `MOST_HELD_OUT` where there are many: both are said.
    """
    n = different_prompts([one.records for one in parts], config.seed)
    if config.eval_fraction != HELD_OUT or FEWEST_PROMPTS <= n <= MOST_HELD_OUT / HELD_OUT:
        return config.eval_fraction
    if n >= FEWEST_PROMPTS:
        notes.append(
            f"{MOST_HELD_OUT:,} of {n:,} different prompts are held out, enough to tell; --eval-fraction says another share"
        )
        return MOST_HELD_OUT / n
    notes.append(
        f"nothing is held out of {n} different prompt{'s' * (n != 1)}; --eval-data gives records to evaluate on"
    )
    return 0.0


def announce(notes: Sequence[str], run: Run) -> None:
    """Print and log what became of the data."""
    for note in notes:
        run.log("data", note=note)
        if is_main_process():
            print(f"Data: {note}", file=sys.stderr, flush=True)


def _says_more(parts: Sequence[Part]) -> bool:
    """Whether there is a mix, or a source of which more is said than where it is."""
    return len(parts) > 1 or any(
        (one.source.weight, one.source.max, one.source.tag) != (1, None, "") for one in parts
    )
