"""Chat messages out of what files hold: message lists, Anthropic HH transcripts, prompts shared by two dialogues."""

from __future__ import annotations

import re
from typing import Any, TypeGuard

from coalign.data.records import Message, Messages

ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
}
_TURN = re.compile(r"\n\n(Human|Assistant):")
_START = re.compile(r"\s*(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class FieldError(ValueError):
    """What is wrong with one field.

    `field` overrides the name of the column that was being read; `position` is the place in a column that is a list.
    """

    def __init__(
        self, problem: str, expected: str, field: str | None = None, position: int | None = None
    ) -> None:
        super().__init__(f"{problem}, expected {expected}")
        self.problem = problem
        self.expected = expected
        self.field = field
        self.position = position


def describe(value: Any) -> str:
    """A value in a few words, for messages: `the number 3`, `true`, `a list`."""
    match value:
        case None:
            return "missing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {shorten(value)!r}"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"


def shorten(text: str, width: int = 40) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def parse_text(value: Any, *, allow_empty: bool = False) -> str:
    """`value` when it is text with something in it.

    Raises:
        FieldError: not text, empty, or only white space.
    """
    if not isinstance(value, str):
        raise FieldError(describe(value), "text")
    if not allow_empty and not value.strip():
        raise FieldError("empty" if not value else "only white space", "text")
    return value


def parse_messages(value: Any) -> Messages:
    """A list of `{"role", "content"}` (or ShareGPT's `{"from", "value"}`).

    Raises:
        FieldError: naming the message that cannot be used.
    """
    if not isinstance(value, list):
        raise FieldError(describe(value), "a list of messages")
    if not value:
        raise FieldError("an empty list", "at least one message")
    return [_parse_message(one, position) for position, one in enumerate(value)]


def is_transcript(value: Any) -> TypeGuard[str]:
    """Whether `value` is a dialogue in the Anthropic HH form: text that starts with a turn and has the assistant's."""
    return (
        isinstance(value, str) and bool(_START.match(value)) and "\n\nAssistant:" in f"\n\n{value.lstrip()}"
    )


def parse_transcript(text: str) -> Messages:
    """The turns of an Anthropic HH dialogue.

    White space around a turn is dropped. Turns of the same speaker that follow each other are one message, joined
    by an empty line: chat templates want speakers to alternate. A marker inside a line (`  Human:`) is text.
    """
    messages: Messages = []
    for role, content in _turns(text):
        if messages and messages[-1]["role"] == role:
            messages[-1] = {"role": role, "content": f"{messages[-1]['content']}\n\n{content}".strip()}
        else:
            messages.append({"role": role, "content": content})
    return messages


def render_transcript(messages: Messages) -> str:
    """Messages in the Anthropic HH form, ready for the assistant to go on: for models without a chat template."""
    names = {"user": "Human", "assistant": "Assistant"}
    turns = [f"\n\n{names.get(one['role'], one['role'].capitalize())}: {one['content']}" for one in messages]
    return "".join(turns) + "\n\nAssistant:"


def check_prompt(messages: Messages) -> Messages:
    """`messages` when a response may follow.

    Raises:
        FieldError: the last message is not from the user (or a tool), or it is empty.
    """
    if not messages:
        return messages
    last = messages[-1]
    if last["role"] not in ("user", "tool"):
        raise FieldError(
            f"the last message is from the {last['role']}", "a prompt that ends with the user's turn"
        )
    if not last["content"].strip():
        raise FieldError("the user's last message is empty", "text")
    return messages


def split_reply(messages: Messages) -> tuple[Messages, str]:
    """A conversation as (everything before its last message, the text of that message).

    Raises:
        FieldError: the last message is not the assistant's, or empty; what is before cannot be a prompt.
    """
    if messages[-1]["role"] != "assistant":
        raise FieldError(
            f"the last message is from the {messages[-1]['role']}",
            "a conversation that ends with the assistant",
        )
    return check_prompt(messages[:-1]), parse_text(messages[-1]["content"])


def split_pair(chosen: Messages, rejected: Messages) -> tuple[Messages, str, str]:
    """Two conversations as (prompt, chosen reply, rejected reply).

    The prompt is the longest run of messages that both share and that ends with the user's turn. What follows must
    be one message of the assistant in both: two conversations that part earlier, and in which the user speaks again,
    do not answer the same prompt.

    Raises:
        FieldError: the tails are not single replies, or a reply is empty.
    """
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    while shared > 0 and chosen[shared - 1]["role"] not in ("user", "tool"):
        shared -= 1
    for name, tail in (("chosen", chosen[shared:]), ("rejected", rejected[shared:])):
        if len(tail) != 1 or tail[0]["role"] != "assistant":
            raise FieldError(
                f"chosen and rejected part at message {shared + 1}, after which {name} has {_roles(tail)}",
                "the same conversation up to one last reply of the assistant",
                field=name,
            )
    replies = []
    for name, conversation in (("chosen", chosen), ("rejected", rejected)):
        try:
            replies.append(parse_text(conversation[-1]["content"]))
        except FieldError as error:
            raise FieldError(f"the last reply is {error.problem}", error.expected, field=name) from error
    return chosen[:shared], replies[0], replies[1]


def split_shared_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two texts as (shared start, rest of chosen, rest of rejected); cut at a white space, which the rests keep."""
    if chosen == rejected:
        return "", chosen, rejected
    differing = (
        place for place, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other
    )
    end = next(differing, min(len(chosen), len(rejected)))
    while end > 0 and not (chosen[end : end + 1].isspace() and rejected[end : end + 1].isspace()):
        end -= 1
    return chosen[:end], chosen[end:], rejected[end:]


def _parse_message(value: Any, position: int) -> Message:
    if not isinstance(value, dict):
        raise FieldError(f"message {position + 1} is {describe(value)}", "a mapping with role and content")
    sharegpt = "from" in value and "role" not in value
    role = _SHAREGPT_ROLES.get(str(value["from"]), value["from"]) if sharegpt else value.get("role")
    content = value.get("value" if sharegpt else "content")
    if role not in ROLES:
        raise FieldError(
            f"the role of message {position + 1} is {describe(role)}", f"one of: {', '.join(ROLES)}"
        )
    if not isinstance(content, str):
        raise FieldError(f"the content of message {position + 1} is {describe(content)}", "text")
    return {"role": role, "content": content}


def _turns(text: str) -> list[tuple[str, str]]:
    pieces = _TURN.split("\n\n" + text.lstrip())
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return [(_SPEAKERS[speaker], content.strip()) for speaker, content in pairs]


def _roles(messages: Messages) -> str:
    return f"{len(messages)} messages ({', '.join(one['role'] for one in messages)})"
