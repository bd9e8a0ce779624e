"""`write_records`: records as JSON Lines or Parquet, in the column names that TRL and the hub use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, cast

from coalign.core.errors import DataError
from coalign.core.files import write_rows
from coalign.data.files.written import write_parquet
from coalign.data.media.conversations import MARK, PLACEHOLDER, content_parts
from coalign.data.records import Message, Messages, Record, fields_of, message_of, steps_of

Form = Literal["standard", "conversational"]
_COLUMNS = {"chosen_score": "score_chosen", "rejected_score": "score_rejected"}
"""Fields of records whose columns have other names."""


def write_records(path: Path, records: Sequence[Record], *, form: Form = "standard") -> None:
    """Write `records` to `path` (`.jsonl` or `.parquet`), atomically; `read_records` reads them back.

    Args:
        form: `standard` writes prompts and responses as text, `conversational` as lists of messages.
            A record without a prompt is text in both. Columns of `Record.extra` are written beside them.

    Raises:
        DataError: unknown suffix, records of several kinds, or a prompt that text cannot hold (more than one message).
    """
    kinds = sorted({type(record).__name__ for record in records})
    if len(kinds) > 1:
        raise DataError(
            f"{path}: records of several kinds ({', '.join(kinds)}).", hint="Write one file a kind."
        )
    rows = [to_row(record, form) for record in records]
    if path.suffix == ".jsonl":
        write_rows(path, rows)
    elif path.suffix == ".parquet":
        write_parquet(path, rows)
    else:
        raise DataError(f"{path}: cannot write this format.", hint="Name it .jsonl or .parquet.")


def to_row(record: Record, form: Form = "standard") -> dict[str, Any]:
    """The columns of one record.

    Raises:
        DataError: `form` is `standard` and the prompt is more than one user message.
    """
    form = form if record.prompt else "standard"
    if type(record) is Record:
        raise DataError("Record: not a kind of record that files hold.")
    row = prompt_columns(record, form)
    for name in (one.name for one in fields(record) if one.name not in Record.__dataclass_fields__):
        value = getattr(record, name)
        if name in ("chosen", "rejected", "completion"):
            value = _reply(value, form)
        if value is not None and not (name == "absolute" and value):
            row[_COLUMNS.get(name, name)] = list(value) if isinstance(value, tuple) else value
    given = {"tools": record.tools, "chat_template_kwargs": record.template_kwargs}
    row |= {name: value for name, value in given.items() if value}
    return row | {name: value for name, value in record.extra.items() if name not in row}


def prompt_columns(record: Record, form: Form = "conversational") -> dict[str, Any]:
    """The columns of a record's prompt: `prompt`, and `images` where it has pictures.

    Raises:
        DataError: as `to_row`.
    """
    images = {"images": [one.written() for one in record.pictures]} if record.pictures else {}
    return {"prompt": _prompt(record, form), **images}


def _prompt(record: Record, form: Form) -> str | Messages:
    if form == "conversational" and record.pictures:
        return [cast(Message, {**one, "content": content_parts(one["content"])}) for one in record.prompt]
    if form == "conversational":
        return record.prompt
    if not record.prompt:
        return ""
    if len(record.prompt) > 1 or record.prompt[0]["role"] != "user":
        raise DataError(
            f"record {record.id}: its prompt has {len(record.prompt)} messages, which the standard form cannot hold.",
            hint="Write the conversational form.",
        )
    text = record.prompt[0]["content"]
    return text.replace(MARK, PLACEHOLDER) if record.pictures else text


def _reply(text: str, form: Form) -> str | Messages:
    beside = [*fields_of(text), *(["steps"] if steps_of(text) else [])]
    if form == "standard" and beside:
        raise DataError(
            f"a reply has {', '.join(beside)} beside its text, which the standard form cannot hold.",
            hint="Write the conversational form.",
        )
    return text if form == "standard" else [*steps_of(text), message_of(text)]
