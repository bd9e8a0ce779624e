"""The values of a row's parts: scores, labels, replies, earlier turns, tools; each as what it means, or as what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

from coalign.core.files import parse_json
from coalign.data import messages as chat
from coalign.data.columns import RESPONSE_SCORE, RESPONSE_TEXT
from coalign.data.records import (
    Messages,
)

_LABELS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

LARGEST = 1e30
"""Largest score. Losses are computed in 32 bits, which end at 3e38."""


T = TypeVar("T")


def parse_history(value: Any) -> Messages:
    """Earlier turns: pairs of question and answer, or messages."""
    value = chat.from_text(value)
    pairs = isinstance(value, list) and all(isinstance(one, list | tuple) and len(one) == 2 for one in value)
    if not pairs:
        return chat.parse_messages(value)
    roles = ("user", "assistant")
    return [
        {"role": role, "content": chat.parse_text(text)}
        for pair in value
        for role, text in zip(roles, pair, strict=True)
    ]


def parse_tools(value: Any) -> list[Any]:
    """Tools as templates take them: mappings, also as JSON text, singly or as a whole."""
    found = _from_json(value)
    if not isinstance(found, list) or not all(isinstance(_from_json(one), dict) for one in found):
        raise chat.FieldError(chat.describe(value), "a list of JSON schemas of functions")
    return [_from_json(one) for one in found]


def parse_mapping(value: Any) -> dict[str, Any]:
    """A mapping, also as JSON text; keys without a value are left out."""
    found = _from_json(value)
    if not isinstance(found, dict):
        raise chat.FieldError(chat.describe(value), "a mapping")
    return {name: one for name, one in found.items() if one is not None}


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return value


def reply_to(prompt: Messages, text: str) -> str:
    """A reply given as text beside a prompt column: without the cue of a transcript, or, where it is a transcript
    that holds the prompt, its last turn.
    """
    if not chat.is_transcript(text):
        return text
    turns = chat.parse_transcript(text)
    if len(turns) == 1:
        return turns[0]["content"]
    asked = [one["content"].strip() for one in prompt if one["role"] == "user"][-1:]
    before = [one["content"].strip() for one in turns[:-1] if one["role"] == "user"][-1:]
    return turns[-1]["content"] if asked == before and turns[-1]["role"] == "assistant" else text


def user(text: str) -> Messages:
    """One user turn; nothing for empty text."""
    return [{"role": "user", "content": text}] if text else []


def is_reply(messages: Messages) -> bool:
    """Whether only the assistant speaks."""
    return all(one["role"] == "assistant" for one in messages)


def without_cue(messages: Messages) -> Messages:
    """A transcript without the empty `Assistant:` that asks for the reply."""
    last = messages[-1]
    return messages[:-1] if last["role"] == "assistant" and not last["content"] else messages


def matching_text(other: Any) -> Callable[[Any], str]:
    """Text, told apart from a rejected response that is merely in another form than the chosen one."""

    def parse(value: Any) -> str:
        if isinstance(value, list) and isinstance(other, str):
            raise chat.FieldError("a list while chosen is text", "both as text or both as messages")
        return chat.parse_text(value)

    return parse


def reply_text(value: Any) -> str:
    """A response as text: a string, the assistant's message(s), a mapping that holds the text, or a list of one text."""
    value = chat.from_text(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return chat.parse_text(value[0])
    if isinstance(value, list):
        messages = chat.parse_messages(value)
        if chat.uses_tools(messages) and messages[-1]["role"] == "assistant":
            return chat.reply_of(messages[-1], messages[:-1])
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise chat.FieldError(
                f"{len(messages)} messages, last from the {messages[-1]['role']}",
                "one message of the assistant",
            )
        return chat.reply_of(messages[0])
    if chat.are_messages(value):
        return reply_text([value])
    if isinstance(value, dict):
        name = next((one for one in RESPONSE_TEXT if one in value), None)
        if name is None:
            raise chat.FieldError(
                f"a mapping with {', '.join(value) or 'nothing'}", f"one of: {', '.join(RESPONSE_TEXT)}"
            )
        return chat.parse_text(value[name])
    return chat.parse_text(value)


def each(position: int, parse: Callable[[Any], T], value: Any) -> T:
    """`parse(value)`, an error of which names the position in the list."""
    try:
        return parse(value)
    except chat.FieldError as error:
        raise chat.FieldError(error.problem, error.expected, error.field, position) from error


def dict_score(value: Any, position: int) -> float:
    """The score that a response given as a mapping carries."""
    name = next((one for one in RESPONSE_SCORE if isinstance(value, dict) and one in value), None)
    if name is None:
        return each(position, lambda _: parse_score(None), value)
    score = each(position, parse_score, value[name])
    return -score if name == "rank" else score


def other_fields(responses: list[Any]) -> list[dict[str, Any]] | None:
    """What scored responses say besides text and score (`model`, ...), when they do."""
    rest = []
    for one in responses:
        used = {
            next((name for name in RESPONSE_TEXT if name in one), None),
            next((name for name in RESPONSE_SCORE if name in one), None),
        }
        rest.append({name: value for name, value in one.items() if name not in used})
    return rest if any(rest) else None


def parse_scores(value: Any) -> list[float]:
    """Numbers, one a response."""
    if not isinstance(value, list | tuple):
        raise chat.FieldError(chat.describe(value), "a list of numbers, one a response")
    return [each(position, parse_score, one) for position, one in enumerate(value)]


def parse_ranks(value: Any) -> list[float]:
    """Ranks as scores: 1 is best."""
    return [-rank for rank in parse_scores(value)]


def parse_score(value: Any) -> float:
    """A finite number, also as text or Decimal."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise chat.FieldError(chat.describe(value), "a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise chat.FieldError(chat.describe(value), "a number") from error
    if not math.isfinite(number):
        raise chat.FieldError(f"not finite ({number})", "a finite number")
    if abs(number) > LARGEST:
        raise chat.FieldError(f"too large ({number:g})", f"a number of at most {LARGEST:g} in size")
    return number


def parse_label(value: Any) -> bool:
    """Thumbs up or down in any of the usual writings."""
    if isinstance(value, float) and value in (0.0, 1.0):  # what pandas makes of a column with a gap
        return value == 1.0
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    if text in _LABELS:
        return _LABELS[text]
    raise chat.FieldError(chat.describe(value), "true or false (also 1 and 0, yes and no)")
