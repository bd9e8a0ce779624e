"""Conversations about pictures: LLaVA's records in, rows of a pipeline between, LLaVA's records out."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import DataError, RecordProblem
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import Picture
from coalign.data.media.sources import resolve
from coalign.data.messages import FieldError, describe
from coalign.data.rows import Row as FileRow
from coalign.data.rows import iter_rows
from coalign.loops.rows import Row

PLACEHOLDER = "<image>"
"""Where the picture stands in a conversation; only the reader and the writer of records see it."""
HUMAN, MODEL = ("human", "user"), ("gpt", "assistant", "model")
LISTS = ("conversations", "messages", "answers", "questions", "score", "scores")
TYPE_COLUMNS = ("type", "category", "task")
FORM = '{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}]}'


def without_placeholder(text: str) -> str:
    """The text without `<image>` and the white space that the placeholder left."""
    return text.replace(PLACEHOLDER, "").strip()


class Conversations:
    """The conversations of files, folders or globs, as `run_pipeline` takes them.

    A row has `id`, `image` (a path from anywhere, a data URL, None for one without a picture), `type` (of instruction; empty
    where it is not said), `turns` (each a `question` and its candidate `answers`), and `more` (the record's other columns).

    Args:
        image_folder: that relative pictures start from; by default the folder of their file.
        on_bad_record: `fail` at a record that cannot be used, or reject it with its reason.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        image_folder: Path | None = None,
        on_bad_record: Literal["fail", "skip"] = "fail",
        limit: int | None = None,
        single_turns: bool = False,
    ) -> None:
        self.sources = sources
        self.image_folder = image_folder
        self.on_bad_record = on_bad_record
        self.limit = limit
        self.single_turns = single_turns

    def __iter__(self) -> Iterator[Row]:
        """The rows. With `single_turns` every turn is a row of its own, called `id#2`.

        Raises:
            DataError: a record that cannot be used (under `fail`), or an id that appears twice.
        """
        seen: set[str] = set()
        for source in self.sources:
            for count, one in enumerate(iter_rows(source, lists=LISTS)):
                if self.limit is not None and count >= self.limit:
                    break
                row = self._row(one, source)
                if len(self.sources) > 1:
                    row["id"] = f"{source}:{row['id']}"
                if row["id"] in seen:
                    raise DataError(
                        f"{source}: the id {row['id']!r} appears twice.",
                        hint="Give every record its own id, or none.",
                    )
                seen.add(row["id"])
                yield from self._turns(row) if self.single_turns and "turns" in row else [row]

    def _row(self, one: FileRow, source: str) -> Row:
        place = one.source(source)
        problems: list[RecordProblem] = [one.problem] if one.problem else []
        if one.value is not None:
            try:
                return conversation(one.value, str(one.index), self.image_folder or folder_of(place.file))
            except FieldError as error:
                problems = [place.problem(error.field or "row", error.problem, error.expected)]
        if self.on_bad_record == "fail":
            hint = f"A record is {FORM}. --on-bad-record skip leaves such records out."
            raise DataError(f"{source} cannot be used.", problems, hint=hint)
        return {"id": f"{one.index}", "problem": str(problems[0]) if problems else "unreadable"}

    @staticmethod
    def _turns(row: Row) -> Iterator[Row]:
        for number, turn in enumerate(row["turns"], start=1):
            yield {**row, "id": f"{row['id']}#{number}", "turns": [turn]}


def folder_of(path: str) -> Path | None:
    """The folder of a file of records, where there is one."""
    file = Path(path)
    return file.parent if file.is_file() else None


def conversation(value: Mapping[str, Any], number: str, folder: Path | None) -> Row:
    """A record as a row.

    Raises:
        FieldError: no turns, turns out of order, an empty text, or a picture that is not there.
    """
    turns = _turns_of(value)
    used = {"id", "image", "conversations", "messages", "question", "answers", "answer", *TYPE_COLUMNS}
    kind = next((str(value[one]) for one in TYPE_COLUMNS if value.get(one)), "")
    return {
        "id": str(value.get("id", number)),
        "image": portable_picture(value.get("image"), folder),
        "type": kind,
        "turns": turns,
        "more": {name: one for name, one in value.items() if name not in used},
    }


def _turns_of(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    said = value.get("conversations", value.get("messages"))
    if said is None and "question" in value:
        answers = value.get("answers", value.get("answer"))
        said = [{"from": "human", "value": value["question"]}, {"from": "gpt", "value": answers}]
    if not isinstance(said, list) or not said:
        raise FieldError(describe(said), "a list of turns", "conversations")
    turns: list[dict[str, Any]] = []
    for place in range(0, len(said), 2):
        question = _text(said, place, HUMAN)
        answers = _text(said, place + 1, MODEL) if place + 1 < len(said) else None
        if answers is None:
            raise FieldError(
                f"ends with turn {place + 1} of the user", "an answer to every question", "conversations"
            )
        if not isinstance(question, str):
            raise FieldError(describe(question), "one question a turn", f"conversations[{place}]")
        turns.append(
            {
                "question": without_placeholder(question),
                "answers": [answers] if isinstance(answers, str) else answers,
            }
        )
    return turns


def _text(said: list[Any], place: int, roles: Sequence[str]) -> str | list[str]:
    field = f"conversations[{place}]"
    one = said[place]
    if not isinstance(one, Mapping):
        raise FieldError(describe(one), "a mapping with from and value", field)
    role = one.get("from", one.get("role"))
    if role not in roles:
        raise FieldError(f"is said by {role!r}", f"{roles[0]}: user and model take turns", field)
    text = one.get("value", one.get("content"))
    texts = text if isinstance(text, list) else [text]
    if not texts or not all(isinstance(each, str) and without_placeholder(each) for each in texts):
        raise FieldError(describe(text), "text, or a list of candidate answers, none empty", field)
    return text  # type: ignore[return-value]


def portable_picture(image: Any, folder: Path | None) -> str | None:
    """A picture as a row of JSON names it from anywhere: an absolute path, or a data URL.

    Raises:
        FieldError: it is not there, or what is given is no picture.
    """
    if image is None or image == "":
        return None
    if isinstance(image, list) and len(image) == 1:
        return portable_picture(image[0], folder)
    try:
        found, _ = resolve(image, folder=folder)
        Picture(found).info()
    except MediaError as error:
        raise error.of_field("image") from error
    if isinstance(found, Path):
        return str(found.absolute())
    return "data:image/*;base64," + base64.b64encode(found).decode("ascii")


def llava_record(row: Row) -> dict[str, Any]:
    """A row as LLaVA reads it: the picture's placeholder at the head of the first question, and beside the turns `r_Q`, `r_A`,
    `rewritten` and `original` (the turns before rewriting) as far as they are known.
    """
    said = []
    for number, turn in enumerate(row["turns"]):
        question = (
            f"{PLACEHOLDER}\n{turn['question']}"
            if number == 0 and row["image"] is not None
            else turn["question"]
        )
        said += [{"from": "human", "value": question}, {"from": "gpt", "value": turn["answers"][0]}]
    found: dict[str, Any] = {"id": row["id"], **row.get("more", {})}
    if row["image"] is not None:
        found["image"] = row["image"]
    if row["type"]:
        found["type"] = row["type"]
    found["conversations"] = said
    for name in ("r_Q", "r_A"):
        if name in row:
            found[name] = row[name]
    found["rewritten"] = any(turn.get("rewritten") for turn in row["turns"])
    if found["rewritten"]:
        found["original"] = [
            {
                "question": turn.get("original", turn)["question"],
                "answer": turn.get("original", turn)["answers"][0],
            }
            for turn in row["turns"]
        ]
    return found


def questions_text(row: Row) -> str:
    """What stage 1 reads: all questions of a conversation, one a line."""
    return "\n".join(turn["question"] for turn in row["turns"])
