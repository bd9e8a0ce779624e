"""Rows of answers: one schema for whatever samples responses to prompts, kept one by one and continued after a kill.

A row is one prompt: `index` (its place among the prompts), `id`, `prompt` (messages), and of the n responses to it
`responses` (texts), `finish_reasons` (`stop` or `length`) and `tokens` (null where a back end does not say). With
log-probabilities it has also `logprobs`, or `token_texts` and `top_logprobs`. Whoever judges adds columns. Every
command that reads prompts, responses or answers reads such a file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from coalign.core.engines.row_file import RowFile
from coalign.core.errors import DataError, PromptError
from coalign.core.files import append_rows, read_rows, write_rows
from coalign.core.runs import is_main_process
from coalign.data.media.conversations import showing
from coalign.data.records import Record
from coalign.data.writers import prompt_columns
from coalign.models.backends.workers import PromptsFailedError
from coalign.models.generation.rows import row_of
from coalign.models.types import Prompts
from coalign.training.processes import own_share, process_count, process_index, wait_for_all

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.models.tools.agent import Agent
    from coalign.models.types import Generation, Generator, Sampling

Row = dict[str, Any]
Keep = Callable[[Mapping[int, Row]], None]
"""Takes finished rows by their places; they are on disk when it returns."""
_TEXT = ("text", "output", "answer", "response")
"""Names under which rows of earlier versions held the text of their only response."""


class Prompted(Protocol):
    """Anything with an id and a prompt: a record, a question, a task."""

    @property
    def id(self) -> str: ...

    @property
    def prompt(self) -> Messages: ...


def row_id(place: int, prompt: Messages) -> str:
    """An id that changes with the prompt, so that rows kept for other data are not taken for a task's own."""
    digest = hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode()).hexdigest()
    return f"{place}-{digest[:12]}"


def with_column(rows: Sequence[Row], name: str, values: Sequence[Sequence[float]]) -> list[Row]:
    """The rows with what a judge gives each response; what is not a finite number is null.

    Args:
        values: `[prompts][responses]`.
    """
    return [
        {**row, name: [one if math.isfinite(one) else None for one in each]}
        for row, each in zip(rows, values, strict=True)
    ]


def answer_rows(
    path: Path,
    tasks: Sequence[Prompted],
    generator: Callable[[], Generator],
    sampling: Sampling,
    *,
    label: str,
    asked: Prompts | None = None,
    beside: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Sample responses to every task and keep one row a task in `path`.

    A killed run goes on at the first batch with a missing row; batches are composed from all tasks, so the text is
    that of an undisturbed run.

    Args:
        generator: opens what answers; called only where a row is missing.
        asked: what is put before the generator, where it is not the prompts as they are.
        beside: columns of every row, besides those of the schema.

    Returns:
        The rows in the order of the tasks, as they then lie in `path`.

    Raises:
        DataError: a prompt that the generator cannot use, by file and line where the task is a record.
    """
    work = _answering(tasks, generator, sampling, label, asked, beside or {})
    return fill_rows(path, [one.id for one in tasks], work)


def answer_file(
    path: Path,
    tasks: Sequence[Prompted],
    generator: Callable[[], Generator],
    sampling: Sampling,
    *,
    label: str,
    asked: Prompts | None = None,
) -> RowFile:
    """`answer_rows` for rows that are not held in memory. They lie in `path` in the order in which they came, and are read in
    that of the tasks.

    Where workers answer (`SpreadGenerator`), a prompt that failed has no responses and the column `error`; it is asked again
    the next time.

    Raises:
        DataError: as `answer_rows`.
    """
    rows = RowFile(path, [one.id for one in tasks])
    if rows.missing:
        _answering(tasks, generator, sampling, label, asked, {})(list(rows.done), rows.add)
    return rows


def _answering(
    tasks: Sequence[Prompted],
    generator: Callable[[], Generator],
    sampling: Sampling,
    label: str,
    asked: Prompts | None,
    beside: Mapping[str, Any],
) -> Callable[[list[int], Keep], None]:
    """What makes the rows that are missing."""

    def work(done: list[int], keep: Keep) -> None:
        def keep_batch(found: Mapping[int, list[Generation]]) -> None:
            keep({index: {**_asked(tasks[index]), **row_of(mine), **beside} for index, mine in found.items()})

        prompts = [prompt_of(one) for one in tasks] if asked is None else asked
        try:
            generator().generate(prompts, sampling, done=done, on_batch=keep_batch, label=label)
        except PromptsFailedError as error:
            empty = {"responses": [], "finish_reasons": [], "tokens": []}
            keep(
                {
                    index: {**_asked(tasks[index]), **empty, "error": message}
                    for index, message in error.failed.items()
                }
            )
        except PromptError as error:
            task = tasks[error.index] if error.index < len(tasks) else None
            if not isinstance(task, Record) or error.prompt is not prompts[error.index]:
                raise
            problem = task.problem(error.field, error.problem, error.expected)
            raise DataError("A prompt cannot be used.", [problem], error.hint) from error

    return work


def prompt_of(task: Prompted) -> Messages:
    """What a generator is given of a task: its messages, which hold the pictures of a record."""
    return showing(task.prompt, task.pictures) if isinstance(task, Record) else task.prompt


def _asked(task: Prompted) -> Row:
    """The columns of a prompt: `prompt`, and `images` where it has pictures."""
    if isinstance(task, Record) and task.pictures:
        return prompt_columns(task)
    return {"prompt": task.prompt}


TOGETHER = 32
"""Conversations with tools whose turns are decoded together, and kept when all have ended."""


def trajectory_rows(path: Path, tasks: Sequence[Prompted], agent: Agent, sampling: Sampling) -> list[Row]:
    """Let an agent work on every task and keep one row a trajectory in `path`: `messages` (the prompt's first) and `tools`,
    as training reads them, `ending` (`Trajectory.ending`), and `tokens`, sampled in all turns.

    With several samples a task their ids end in `/1`, `/2` and so on. A killed run goes on at the first group of `TOGETHER`
    with a missing row; groups are composed from all tasks, so the text is that of an undisturbed run.

    Returns:
        The rows in the order of the tasks and samples.
    """
    asked = [(one, sample) for one in tasks for sample in range(sampling.n)]
    ids = [one.id if sampling.n == 1 else f"{one.id}/{sample + 1}" for one, sample in asked]

    def work(done: list[int], keep: Keep) -> None:
        for start in range(0, len(asked), TOGETHER):
            places = range(start, min(start + TOGETHER, len(asked)))
            if set(places) <= set(done):
                continue
            seeded = replace(sampling, seed=sampling.seed + start)
            found = agent.run([asked[one][0].prompt for one in places], seeded)
            keep(
                {
                    place: {
                        "messages": [*asked[place][0].prompt, *one.messages],
                        "tools": agent.toolbox.schemas,
                        "ending": one.ending,
                        "tokens": one.tokens or None,
                    }
                    for place, one in zip(places, found, strict=True)
                }
            )

    return fill_rows(path, ids, work)


def fill_rows(path: Path, ids: Sequence[str], work: Callable[[list[int], Keep], None]) -> list[Row]:
    """The rows of `path`, one an id and in their order; those that are missing are made.

    Args:
        path: rows have an `index` or an `id`; lines with neither (settings) stay before them.
        work: called, where something is missing, with the places that are there and with what keeps new rows. It
            may hand over rows that are there: the first one stays.
    """
    found = read_answers(path)
    kept = kept_rows(found, ids)

    def keep(made: Mapping[int, Row]) -> None:
        new = {
            place: {"index": place, "id": ids[place], **row}
            for place, row in made.items()
            if place not in kept
        }
        append_rows(path, new.values())
        kept.update(new)
        found.extend(new.values())

    if len(kept) < len(ids):
        work(sorted(kept), keep)
    rows = [kept[place] for place in range(len(ids))]
    whole = [*(row for row in found if not _is_of_a_task(row)), *rows]
    if whole != found:  # batches finish in order of length
        write_rows(path, whole)
    return rows


def fill_rows_together(path: Path, ids: Sequence[str], work: Callable[[list[int], Keep], None]) -> list[Row]:
    """`fill_rows` by all processes of a launcher, to be called by each of them: `work` is called with the places that are not
    its own, and what it makes lies in a file beside `path` until the first process takes it over, after a kill too. All
    processes have to see one folder. Without a launcher it is `fill_rows`.
    """
    if process_count() == 1:
        return fill_rows(path, ids, work)
    if is_main_process():
        _take_parts(path)
    wait_for_all()
    missing = sorted({*range(len(ids))} - kept_rows(read_answers(path), ids).keys())
    own = {missing[one] for one in own_share(len(missing))}
    part = path.with_name(f"{path.stem}-part-{process_index()}.jsonl")

    def keep(made: Mapping[int, Row]) -> None:
        new = {place: row for place, row in made.items() if place in own}
        append_rows(part, [{"index": place, "id": ids[place], **row} for place, row in new.items()])

    if own:
        work([place for place in range(len(ids)) if place not in own], keep)
    wait_for_all()
    if is_main_process():
        _take_parts(path)
        fill_rows(path, ids, work)  # all are there: in their order
    wait_for_all()
    return fill_rows(path, ids, work)


def _take_parts(path: Path) -> None:
    """The rows that processes made for `path`, appended to it; the first of equals counts."""
    for part in sorted(path.parent.glob(f"{path.stem}-part-*.jsonl")):
        append_rows(path, read_rows(part, repair=True))
        part.unlink()


def kept_rows(rows: Sequence[Row], ids: Sequence[str]) -> dict[int, Row]:
    """The rows that belong to these ids, by place; the first of equals counts."""
    places = {name: place for place, name in reversed(list(enumerate(ids)))}
    kept: dict[int, Row] = {}
    for row in filter(_is_of_a_task, rows):
        place = row.get("index", row.get("place", places.get(row.get("id", ""))))
        if place is not None and place < len(ids) and row.get("id", ids[place]) == ids[place]:
            kept.setdefault(place, row)
    return kept


def read_answers(path: Path) -> list[Row]:
    """The rows that a file has so far, in the schema of today; a line torn by a kill is cut off."""
    return [current(row) for row in read_rows(path, repair=True)]


def current(row: Row) -> Row:
    """A row in the schema of today. Earlier versions wrote a mapping a response, or one response under its own name;
    what they did not keep is null.
    """
    responses = row.get("responses")
    if responses and isinstance(responses[0], dict):
        return {**row, **_columns(responses, "text")}
    name = next((one for one in _TEXT if one in row), None)
    if name is None or not (row.keys() & {"finish_reason", "stop_reason"} or row.keys() == {"index", "text"}):
        return row
    used = (name, "finish_reason", "tokens", "fine")
    samples = [row, *row.get("samples", ())]
    first, *rest = ({key: value for key, value in one.items() if key not in used} for one in samples)
    if rest:
        first["samples"] = rest
    if "fine" in row:
        first |= {"label": row["fine"], "judgment": row["judgment"] or None}
    return {**first, **_columns(samples, name)}


def _columns(responses: Sequence[Row], name: str) -> Row:
    return {
        "responses": [one[name] for one in responses],
        "finish_reasons": [one.get("finish_reason") for one in responses],
        "tokens": [one.get("tokens") for one in responses],
    }


def _is_of_a_task(row: Row) -> bool:
    return "index" in row or "id" in row
