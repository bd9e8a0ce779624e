"""From records to training examples, before any weight is loaded."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from coalign.core.cache import hold_limit, use
from coalign.core.errors import ConfigError, DataError, RecordProblem
from coalign.core.files import atomic_path
from coalign.core.limits import is_number
from coalign.data.checking.usable import compares_nothing
from coalign.data.encoding import EncodedRecord, assert_encoded, encode_batches, encode_records
from coalign.data.media.prompts import processor_of
from coalign.data.prepared.blocks import Blocks, spans_of
from coalign.data.prepared.keeping import identity, is_plain
from coalign.data.prepared.kept import in_turn, kept_folder, key_of
from coalign.data.prepared.many import OnDisk, are_many, digest_of, taken
from coalign.data.prepared.tokens import META, TokenStore, TokenWriter, merge, read_meta, told_problems
from coalign.data.records import Record
from coalign.training.batches import Example, Prepared, StoredExamples
from coalign.training.job import Job
from coalign.training.objective import Column, Objective
from coalign.training.options import TrainingOptions

_CORES = 1.5
"""That a process which tokenises keeps busy: one with the tokenizer, half of one with reading, templates and writing."""


def texts_of(parts: Sequence[Prepared | tuple[()]]) -> Iterator[list[int]]:
    """Token ids of every prompt with each of its responses; of stored examples those with the largest id and the longest
    text alone.
    """
    for part in parts:
        examples = part.examples if isinstance(part, Prepared) else ()
        if isinstance(examples, StoredExamples):
            examples = [examples[place] for place in examples.store.extremes]
        for example in examples:
            for one in example.contexts:
                for ids in one.response_ids or [[]]:
                    yield [*one.prompt_ids, *ids]


def prepare_examples(
    records: Sequence[Record],
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
    *,
    what: str = "training",
) -> Prepared:
    """Encode records as the objective needs them. Needs the tokenizer alone.

    Args:
        what: how a message calls these records.

    Raises:
        DataError: a column that the objective needs is missing, a record cannot be encoded, or none is left under
            the length limits.
        ConfigError: `reference_logps: live` for an objective that compares with no reference.
    """
    if options.reference_logps == "live" and not objective.reference:
        raise ConfigError(
            f"reference_logps: live has no effect: {objective.name} compares with no reference; leave it out"
        )
    on_disk = isinstance(records, OnDisk) or are_many(records)
    if on_disk and objective.contexts is None and objective.prepare is None:
        stored = _stored(records, objective, tokenizer, options, what)
        if stored is not None:
            return stored
    contexts = [objective.contexts(one) if objective.contexts else (one,) for one in records]
    flat = [one for group in contexts for one in group]
    owners = [index for index, group in enumerate(contexts) for _ in group]
    longest = options.max_length
    encoded = encode_records(
        flat,
        tokenizer,
        max_prompt_length=options.max_prompt_length,
        max_length=longest,
        label="Tokenising",
        pictures=True,
    )
    same = sum(map(compares_nothing, encoded.records))
    _assert_differ(same, len(encoded.records), encoded.n_truncated_responses, what)
    prepared = [replace(one, record_index=owners[one.record_index]) for one in encoded.records]
    if objective.prepare and prepared:
        prepared = objective.prepare(prepared, longest)
    columns = columns_of(records, objective)
    grouped: dict[int, list[EncodedRecord]] = {}
    for one in prepared:
        grouped.setdefault(one.record_index, []).append(one)
    examples = [
        Example(
            tuple(group),
            records[index].id,
            columns[index],
            tag=records[index].source.tag,
        )
        for index, group in grouped.items()
        if len(group) == len(contexts[index])
    ]
    _assert_left(len(examples), len(records), encoded.dropped, what)
    return Prepared(
        examples, encoded.n_truncated_prompts, encoded.n_truncated_responses, tuple(encoded.dropped), same
    )


def _stored(
    records: Sequence[Record],
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
    what: str,
) -> Prepared | None:
    """As `prepare_examples`, with the tokens on disk, kept for the next start under all that they depend on; None for
    records or a tokenizer that cannot be kept so.
    """
    if not is_plain(tokenizer) or processor_of(tokenizer) is not None:
        return None
    limits = (options.max_prompt_length, options.max_length)
    try:
        columns = repr(objective.columns)
        key = key_of("tokens", digest_of(records), identity(tokenizer), limits, columns)
    except ValueError:  # pictures
        return None
    folder = kept_folder("tokens", key)

    def make(span: range, block: Path) -> None:
        _write(block, records, span, objective, tokenizer, options)

    use(folder)
    made = folder / META
    blocks = Blocks(folder.with_name(f".{folder.name}.blocks.tmp"), made, spans_of(len(records)), make)
    with in_turn(made, blocks.work) as first:
        if first:
            blocks.finish(int(torch.get_num_threads() / _CORES) - 1, "Tokenising")
            try:
                told = _told(blocks.paths, len(records), objective, what)
                with atomic_path(folder) as temporary:
                    merge(blocks.paths, temporary, **told)
            finally:
                shutil.rmtree(blocks.folder, ignore_errors=True)
            hold_limit()
    store = TokenStore(folder)
    meta = store.meta
    return Prepared(
        StoredExamples(store), meta["cut_prompts"], meta["cut_responses"], store.problems(), meta["same"]
    )


def _write(
    folder: Path,
    records: Sequence[Record],
    span: range,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
) -> None:
    """Encode the records of a span into a folder, with what is wrong with them."""
    same = prompts = responses = 0
    dropped, unreadable, wrong = (list[RecordProblem]() for _ in range(3))
    batches = encode_batches(
        taken(records, np.arange(span.start, span.stop)),
        tokenizer,
        unreadable,
        max_prompt_length=options.max_prompt_length,
        max_length=options.max_length,
        start=span.start,
    )
    start = span.start
    with TokenWriter(folder) as writer:
        for batch, encoded in batches:
            columns = _columns(batch, objective, wrong)
            for one in encoded.records:
                record = batch[one.record_index - start]
                writer.add(one, record.id, record.source.tag, columns[one.record_index - start])
                same += compares_nothing(one)
            prompts += encoded.n_truncated_prompts
            responses += encoded.n_truncated_responses
            dropped += encoded.dropped
            start += len(batch)
        writer.finish(
            count=writer.count,
            same=same,
            cut_prompts=prompts,
            cut_responses=responses,
            dropped=told_problems(dropped),
            unreadable=told_problems(unreadable),
            wrong=told_problems(wrong),
        )


def _told(blocks: Sequence[Path], count: int, objective: Objective, what: str) -> dict[str, Any]:
    """What is told of all blocks of so many records together; arguments and errors are those of `prepare_examples`."""
    metas = [read_meta(one) for one in blocks]
    left, same, prompts, responses = (
        sum(one[name] for one in metas) for name in ("count", "same", "cut_prompts", "cut_responses")
    )
    dropped, unreadable, wrong = (
        [RecordProblem(**row) for one in metas for row in one[name]]
        for name in ("dropped", "unreadable", "wrong")
    )
    assert_encoded(unreadable, count)
    _assert_differ(same, left, responses, what)
    _assert_columns(wrong, objective)
    _assert_left(left, count, dropped, what)
    return {
        "same": same,
        "cut_prompts": prompts,
        "cut_responses": responses,
        "dropped": told_problems(dropped),
    }


def _assert_differ(same: int, count: int, cut: int, what: str) -> None:
    if same and same == count:
        raise DataError(
            f"In all {same} {what} records the responses that are compared are the same tokens"
            + (", once they are cut." if cut else "."),
            hint="Raise --max-length, or look at `coalign data check FILE --model MODEL --max-length N`.",
        )


def _assert_left(left: int, count: int, dropped: Sequence[RecordProblem], what: str) -> None:
    if not left:
        raise DataError(
            f"No {what} record is left: the prompts of all {count} leave no room for a response.",
            dropped,
            hint="Raise --max-length, or cut the beginning of prompts with --max-prompt-length.",
        )


def prepare_job(job: Job, tokenizer: PreTrainedTokenizerBase) -> tuple[Prepared, Prepared]:
    """The training examples of a job and its held-out ones; what is prepared already is taken as it is.

    Raises:
        DataError, ConfigError: as of `prepare_examples`.
    """

    def examples_of(records: Sequence[Record] | Prepared, what: str) -> Prepared:
        if isinstance(records, Prepared):
            return records
        return prepare_examples(records, job.objective, tokenizer, job.options, what=what)

    training = examples_of(job.records, "training")
    try:
        return training, examples_of(job.held_out, "held-out") if job.held_out else Prepared([])
    except DataError as error:
        raise DataError(
            f"Held-out records: {error.message}",
            error.problems,
            hint="Hold out more prompts (--eval-fraction), or none (--eval-fraction 0).",
        ) from error


def columns_of(records: Sequence[Record], objective: Objective) -> list[dict[str, list[float]]]:
    """What the objective reads of each record's further columns.

    Raises:
        DataError: a column is missing, holds no numbers, or numbers beyond its limits; every such record is named.
    """
    problems: list[RecordProblem] = []
    found = _columns(records, objective, problems)
    _assert_columns(problems, objective)
    return found


def _columns(
    records: Sequence[Record], objective: Objective, problems: list[RecordProblem]
) -> list[dict[str, list[float]]]:
    wanted = [Column(one) if isinstance(one, str) else one for one in objective.columns]
    return [{one.name: _column(record, one, problems) for one in wanted} for record in records]


def _assert_columns(problems: Sequence[RecordProblem], objective: Objective) -> None:
    if problems:
        names = ", ".join(dict.fromkeys(repr(one.field) for one in problems))
        raise DataError(f"{objective.name} cannot read the column {names} of these records.", problems)


def _column(record: Record, column: Column, problems: list[RecordProblem]) -> list[float]:
    value = record.extra.get(column.name, column.default)
    limits = [
        f"{word} {limit:g}"
        for word, limit in (("at least", column.low), ("at most", column.high))
        if math.isfinite(limit)
    ]
    expected = " ".join(["a number or a list of numbers", " and ".join(limits)]).strip()
    values = list(value) if isinstance(value, list | tuple) else [value]
    if value is None:
        problems.append(record.problem(column.name, "is missing", expected))
    elif not all(
        (is_number(one) or isinstance(one, bool)) and column.low <= one <= column.high for one in values
    ):
        problems.append(record.problem(column.name, f"is {str(value)[:60]}", expected))
    else:
        return [float(one) for one in values]
    return []
