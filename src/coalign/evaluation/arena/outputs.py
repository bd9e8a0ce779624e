"""Outputs of several models to the same prompts, from one file with a column that names the model or from a file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.data.columns import PARTS, Layout, recognise
from coalign.data.messages import FieldError, describe, parse_text
from coalign.data.parse import parse_row
from coalign.data.records import Messages, PromptRecord, Record
from coalign.data.rows import Row, iter_rows, parse_each
from coalign.judging.prompts import question_text

MODEL_COLUMNS = ("model", "model_name", "generator", "model_id")


@dataclass(frozen=True)
class Outputs:
    """Who wrote what.

    Attributes:
        models: names, in order of first appearance.
        ids: of the prompts that every model answered.
        prompts: the same, as messages.
        texts: `[prompts][models]` outputs.
        incomplete: ids of prompts that some model did not answer; they are left out.
        references: for each prompt an answer known to be good, where the file has one.
        extras: for each prompt the other columns of its first row (`constraints`).
    """

    models: tuple[str, ...]
    ids: tuple[str, ...]
    prompts: tuple[Messages, ...]
    texts: tuple[tuple[str, ...], ...]
    incomplete: tuple[str, ...] = ()
    references: tuple[str | None, ...] = field(default=())
    extras: tuple[Mapping[str, Any], ...] = field(default=())


def read_outputs(sources: Sequence[str], *, model_column: str | None = None) -> Outputs:
    """Read outputs.

    Args:
        sources: one file with a column that names the model, or one file a model, then called by the file's name.
            Rows hold a prompt and `response`, `output`, `completion`, `answer`, or `responses` (the first counts, as
            `coalign generate` writes it). Prompts are told apart by `id` where every file has it, else by their text.
        model_column: name of that column, where it is not among `MODEL_COLUMNS`.

    Raises:
        DataError: a row that cannot be used, a model that answers a prompt twice, fewer than two models, or no prompt
            that all of them answered.
    """
    answers: dict[str, dict[str, str]] = {}
    first: dict[str, PromptRecord] = {}
    models: dict[str, None] = {}
    read_rows = {source: list(iter_rows(source)) for source in sources}
    with_ids = all("id" in row.value for rows in read_rows.values() for row in rows if row.value is not None)
    for source, rows in read_rows.items():
        values = [row.value for row in rows if row.value is not None]
        if not values:
            raise DataError(f"{source}: no row can be read.", [row.problem for row in rows if row.problem])
        column = _model_column(values, source, model_column, single=len(sources) == 1)
        layout = recognise(values[:100], source, "prompt")
        problems: list[RecordProblem] = []
        read = partial(_read, source=source, layout=layout, column=column)
        for record, model, text in parse_each(rows, source, read, problems):
            key = str(record.extra.get("id")) if with_ids else question_text(record.prompt)
            if first.setdefault(key, record).prompt != record.prompt:
                wrong = ("prompt", f"another prompt than that of {key!r} before", "one prompt an id")
            elif model in answers.setdefault(key, {}):
                wrong = (column or "row", f"{model} answers {key[:60]!r} twice", "one answer")
            else:
                answers[key][model] = text
                models.setdefault(model)
                continue
            problems.append(record.problem(*wrong))
        if problems:
            raise DataError(f"{source}: {rows_with(problems)} rows cannot be used.", problems)
    names = tuple(models)
    if len(names) < 2:
        raise DataError(
            f"Only {', '.join(names) or 'no model'} answers; a tournament needs two models or more.",
            hint="Give one file with a column `model`, or a file a model.",
        )
    whole = [key for key in answers if len(answers[key]) == len(names)]
    if not whole:
        raise DataError(
            "No prompt is answered by every model.", hint="Models must have the same prompts (and ids)."
        )
    return Outputs(
        models=names,
        ids=tuple(whole),
        prompts=tuple(first[key].prompt for key in whole),
        texts=tuple(tuple(answers[key][name] for name in names) for key in whole),
        incomplete=tuple(key for key in answers if len(answers[key]) < len(names)),
        references=tuple(first[key].extra.get("reference") for key in whole),
        extras=tuple(first[key].extra for key in whole),
    )


def _model_column(
    rows: Sequence[Mapping[str, Any]], source: str, wanted: str | None, *, single: bool
) -> str | None:
    names = {name for row in rows for name in row}
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"{source}: no column {wanted!r}.", hint=f"Columns: {', '.join(sorted(names))}.")
        return wanted
    found = next((name for name in MODEL_COLUMNS if name in names), None)
    if found is None and single:
        raise DataError(
            f"{source}: no column that names the model ({', '.join(MODEL_COLUMNS)}).",
            hint="Name it with --model-column, or give a file a model.",
        )
    return found


def _read(row: Row, *, source: str, layout: Layout, column: str | None) -> tuple[PromptRecord, str, str]:
    """The prompt, who answers (by default the file's name) and the answer."""
    value = row.value or {}
    record = parse_row(value, layout, row.source(source))
    if not isinstance(record, Record):
        raise ExceptionGroup(
            "no prompt", [FieldError(one.problem, one.expected, one.field) for one in record]
        )
    assert isinstance(record, PromptRecord)
    name = next((one for one in (*PARTS["completion"], "responses") if one in value), "response")
    given = value.get(name)
    try:
        if name == "responses" and isinstance(given, list) and given:
            given = given[0]
        text = parse_text(given, allow_empty=True)
    except FieldError as error:
        raise FieldError(error.problem, error.expected, name) from error
    model = value.get(column) if column else ""
    if not isinstance(model, str):
        raise FieldError(describe(model), "the model's name", column)
    return record, model or Path(source).name.split(".")[0], text
