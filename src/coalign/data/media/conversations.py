"""Pictures within conversations: where a file puts them becomes a mark in the text, and the record holds the pictures.

A file may say it as TRL and the hub do (`images` or `image` beside `messages` or `prompt`, whose parts `{"type": "image"}`
say where), with the picture in the part itself (`{"type": "image", "image": ...}`, `{"type": "image_url", ...}`), as LLaVA
does (`<image>` in the text), or with the column alone: then the pictures stand before the first words of the user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import Picture, picture_hash
from coalign.data.media.sources import resolve
from coalign.data.messages import FieldError
from coalign.data.records import Message, Messages, Record, Shown, responses_of

MARK = "\U0010fffd"
"""Stands for a picture in the text of a message: a character for private use, which no text has."""
PLACEHOLDER = "<image>"
"""What LLaVA's data has in its place."""
SHOWN = "pictures"
"""Key under which a message holds its own pictures."""
_SOURCES = ("image", "url", "path", "base64", "bytes", "image_url")

R = TypeVar("R", bound=Record)


@dataclass
class Taken:
    """The pictures of a row.

    Attributes:
        column: that holds them beside the conversation; empty where there is none.
        given: what it holds.
        parts: column with messages to the pictures of its parts in order, None where a part says only the place.
    """

    column: str = ""
    given: list[Any] = field(default_factory=list)
    parts: dict[str, list[Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.given or any(self.parts.values()))


def take_pictures(row: Mapping[str, Any], column: str | None) -> tuple[Mapping[str, Any], Taken]:
    """A row with marks in place of the pictures in its messages and without the column of pictures, and these.

    Args:
        column: the one with pictures, where there is one.
    """
    taken = Taken()
    if column is not None and row.get(column) is not None:
        value = row[column]
        taken.column = column
        taken.given = (
            [one for one in value if one is not None] if isinstance(value, list | tuple) else [value]
        )
        taken.given = [one for one in taken.given if one != ""]
    marked = {}
    for name, value in row.items():
        if name != column and isinstance(value, list | dict) and _has_picture(value):
            taken.parts[name] = []
            marked[name] = _marked(value, taken.parts[name])
    return {name: marked.get(name, value) for name, value in row.items() if name != column}, taken


def _has_picture(value: Any) -> bool:
    messages = value if isinstance(value, list) else [value]
    return any(
        _is_picture(part)
        for one in messages
        if isinstance(one, dict) and isinstance(one.get("content"), list)
        for part in one["content"]
    )


def _is_picture(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in ("image", "image_url", "input_image")


def _marked(value: Any, found: list[Any]) -> Any:
    """Messages with a mark in place of each picture, which is added to `found`."""
    if isinstance(value, list):
        return [_marked(one, found) for one in value]
    if not isinstance(value, dict) or not isinstance(value.get("content"), list):
        return value
    parts = []
    for part in value["content"]:
        if _is_picture(part):
            found.append(_picture_of(part))
            part = {"type": "text", "text": MARK}
        parts.append(part)
    return {**value, "content": parts}


def _picture_of(part: Mapping[str, Any]) -> Any:
    """What a part holds; None where it says only the place."""
    found = next((part[one] for one in _SOURCES if part.get(one) is not None), None)
    return found.get("url") if isinstance(found, dict) and "url" in found else found


def with_pictures(record: R, taken: Taken, folder: Path | None) -> R:
    """The record with its pictures, as many as there are marks in its prompt.

    Args:
        folder: that relative paths start from.

    Raises:
        FieldError: a picture in a response, another number of pictures than of places, or one that is not there.
    """
    field = taken.column or next(iter(taken.parts), "images")
    if any(MARK in one for one in responses_of(record)):
        raise FieldError("a picture in a response", "pictures in the prompt alone", field)
    shown = {name: one for name, one in taken.parts.items() if one}
    parts = next(iter(shown.values()), [])
    other = next((name for name, one in shown.items() if one != parts), None)
    if other is not None:
        raise FieldError(
            f"other pictures than in {next(iter(shown))}", "the same prompt with the same pictures", other
        )
    if not parts:
        record = _placed(record, len(taken.given), field)
        parts = [None] * len(taken.given)
    marks = sum(one["content"].count(MARK) for one in record.prompt)
    empty = sum(one is None for one in parts)
    if marks != len(parts) or empty != len(taken.given):
        problem = f"{len(taken.given)} pictures for {empty if parts else marks} places in the prompt"
        raise FieldError(problem, "as many of both", field)
    rest = iter(taken.given)
    sources = [next(rest) if one is None else one for one in parts]
    try:
        for one in sources:
            resolve(one, folder=folder)
    except MediaError as error:
        raise error.of_field(field) from error
    return replace(record, pictures=tuple(Picture(one, folder=folder) for one in sources))


def _placed(record: R, count: int, field: str) -> R:
    """The record with marks: where its text has LLaVA's placeholders, else before the first words of the user."""
    held = sum(one["content"].count(PLACEHOLDER) for one in record.prompt)
    if held not in (0, count):
        raise FieldError(
            f"{count} pictures for {held} places ({PLACEHOLDER}) in the prompt", "as many of both", field
        )
    prompt = list(record.prompt)
    if held:
        for place, one in enumerate(prompt):
            text = one["content"].replace(f"{PLACEHOLDER}\n", MARK).replace(PLACEHOLDER, MARK)
            prompt[place] = cast(Message, {**one, "content": text})
        return replace(record, prompt=prompt)
    first = next((place for place, one in enumerate(prompt) if one["role"] == "user"), None)
    if first is None:
        raise FieldError("pictures without a message of the user", "a prompt that they are shown in", field)
    prompt[first] = cast(Message, {**prompt[first], "content": MARK * count + prompt[first]["content"]})
    return replace(record, prompt=prompt)


def showing(messages: Messages, pictures: Sequence[Shown]) -> Messages:
    """Messages that hold their pictures themselves, as generators take them.

    Args:
        messages: with a mark for each picture (`Record.prompt`).
        pictures: of all messages, in order (`Record.pictures`); messages stay as they are where there is none.
    """
    rest, made = list(pictures), []
    for one in messages:
        count = one["content"].count(MARK) if rest else 0
        made.append(cast(Message, {**one, SHOWN: tuple(rest[:count])}) if count else one)
        rest = rest[count:]
    return made


def question_about(picture: Shown, text: str) -> Messages:
    """A question about a picture as a prompt: the picture, then the words."""
    return showing([{"role": "user", "content": MARK + text}], [picture])


def pictures_of(prompt: Messages | str) -> tuple[Shown, ...]:
    """The pictures that messages hold, in order; none of text."""
    if isinstance(prompt, str):
        return ()
    return tuple(picture for one in prompt if MARK in one["content"] for picture in one.get(SHOWN, ()))


def in_parts(message: Message, part: Callable[[Shown], dict[str, Any]]) -> dict[str, Any]:
    """Role and content of a message; the content in parts where it shows pictures.

    Args:
        part: a picture to the part that stands for it.

    Raises:
        FieldError: places without pictures.
    """
    content: Any = message["content"]
    if MARK in content:
        shown = pictures_of([message])
        if len(shown) != content.count(MARK):
            raise FieldError("pictures cannot be used here", "text and messages alone", "images")
        rest = iter(shown)
        content = [part(next(rest)) if one["type"] == "image" else one for one in content_parts(content)]
    return {"role": message["role"], "content": content}


def prompt_key(prompt: Messages | str) -> Any:
    """What tells a prompt from others, as JSON: itself, its pictures by a hash of their pixels.

    Raises:
        MediaError: a picture that cannot be decoded.
        FieldError: places without pictures.
    """
    if isinstance(prompt, str) or not any(MARK in one["content"] for one in prompt):
        return prompt
    return [in_parts(one, lambda shown: {"type": "image", "hash": picture_hash(shown)}) for one in prompt]


def named_pictures(text: str) -> str:
    """A text for people, with a word in place of each mark."""
    return text.replace(MARK, "[picture] ")


def without_pictures(messages: Messages) -> Messages:
    """The messages with the marks alone."""
    return [cast(Message, {key: value for key, value in one.items() if key != SHOWN}) for one in messages]


def content_parts(text: str) -> list[dict[str, str]]:
    """The text of a message as templates of image-text-to-text models take it: parts of text and of pictures."""
    parts: list[dict[str, str]] = []
    for place, piece in enumerate(text.split(MARK)):
        if place:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]
