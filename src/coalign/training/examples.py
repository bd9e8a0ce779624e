"""From records to training examples, before any weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from coalign.core.errors import ConfigError, DataError, RecordProblem
from coalign.core.limits import is_number
from coalign.data.checking.usable import compares_nothing
from coalign.data.encoding import EncodedRecord, encode_records
from coalign.data.records import Record
from coalign.training.batches import Example, Prepared
from coalign.training.job import Job
from coalign.training.objective import Column, Objective
from coalign.training.options import TrainingOptions


def texts_of(parts: Sequence[Prepared | tuple[()]]) -> Iterator[list[int]]:
    """Token ids of every prompt with each of its responses."""
    for part in parts:
        for example in part.examples if isinstance(part, Prepared) else ():
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
    if same and same == len(encoded.records):
        raise DataError(
            f"In all {same} {what} records the responses that are compared are the same tokens"
            + (", once they are cut." if encoded.n_truncated_responses else "."),
            hint="Raise --max-length, or look at `coalign data check FILE --model MODEL --max-length N`.",
        )
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
    if not examples:
        raise DataError(
            f"No {what} record is left: the prompts of all {len(records)} leave no room for a response.",
            encoded.dropped,
            hint="Raise --max-length, or cut the beginning of prompts with --max-prompt-length.",
        )
    return Prepared(
        examples, encoded.n_truncated_prompts, encoded.n_truncated_responses, tuple(encoded.dropped), same
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
    wanted = [Column(one) if isinstance(one, str) else one for one in objective.columns]
    problems: list[RecordProblem] = []
    found = [{one.name: _column(record, one, problems) for one in wanted} for record in records]
    if problems:
        names = ", ".join(dict.fromkeys(repr(one.field) for one in problems))
        raise DataError(f"{objective.name} cannot read the column {names} of these records.", problems)
    return found


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
