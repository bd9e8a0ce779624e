"""Chat messages out of what files hold: message lists, Anthropic HH transcripts, prompts shared by two dialogues."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

from coalign.core.files import parse_json
from coalign.data.records import Message, Messages, Reply

ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    **{role: role for role in ROLES},
}
_OBSERVED = ("observation", "function")
"""Roles that other formats give what a tool returned."""
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SENTENCE_END = re.compile(r"[.?!:。？！：]|\n")
_START = re.compile(r"\s*(Human|Assistant):")
_SURROGATE = re.compile("[\ud800-\udfff]")
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
            return f"the number {shorten(str(value))}"
        case str():
            return f"the text {shorten(value)!r}"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"


def shorten(text: str, width: int = 40) -> str:
    """The text, or its start and three dots."""
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
    """Messages: a list of `{"role", "content"}` (or ShareGPT's `{"from", "value"}`, or Capybara's `{"input", "output"}`),
    one such mapping alone, or either written as text (JSON, or Python's notation as pandas writes it to CSV).

    Raises:
        FieldError: naming the message that cannot be used.
    """
    value = from_text(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise FieldError(describe(value), "a list of messages")
    if not value:
        raise FieldError("an empty list", "at least one message")
    if all(isinstance(one, dict) and "input" in one and "output" in one for one in value):
        value = [
            {"role": role, "content": one[key]}
            for one in value
            for role, key in (("user", "input"), ("assistant", "output"))
        ]
    return [_parse_message(one, position) for position, one in enumerate(value)]


_MESSAGE_KEYS = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
_BETWEEN = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|\}\s+\{""", re.DOTALL)
"""Text in quotes, or the gap between two mappings: a NumPy array of them, as pandas and datasets write it to CSV, has
white space in place of commas.
"""
_WRITTEN = re.compile(r"\s*\[?\s*\{\s*['\"]")


def are_messages(value: Any) -> bool:
    """Whether `value` is a list of messages, or one message alone."""
    ones = [value] if isinstance(value, dict) else value
    return (
        isinstance(ones, list)
        and bool(ones)
        and all(isinstance(one, dict) and any(keys <= one.keys() for keys in _MESSAGE_KEYS) for one in ones)
    )


def from_text(value: Any) -> Any:
    """Messages that were written as text, read again; every other value as it is.

    Raises:
        FieldError: it is written like messages, and cannot be read.
    """
    if not isinstance(value, str) or not _WRITTEN.match(value):
        return value
    try:
        found = parse_json(value)
    except ValueError:
        try:
            found = ast.literal_eval(_BETWEEN.sub(lambda one: one[1] or "}, {", value.strip()))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            head = value.lstrip()[:60]
            if ("role" in head and "content" in value) or ("from" in head and "value" in head):
                raise FieldError(
                    f"messages written as text that cannot be read ({shorten(value)!r})",
                    "a list of messages, or their JSON",
                ) from None
            return value
    return found if are_messages(found) else value


def is_transcript(value: Any) -> TypeGuard[str]:
    """Whether `value` is a dialogue in the Anthropic HH form: text that starts with a turn and has the assistant's."""
    return (
        isinstance(value, str) and bool(_START.match(value)) and "\n\nAssistant:" in f"\n\n{value.lstrip()}"
    )


def is_dialogue(value: Any) -> TypeGuard[str]:
    """Whether `value` is a transcript that the human begins: one that holds its own prompt."""
    return is_transcript(value) and "\n\nHuman:" in f"\n\n{value.lstrip()}"[:8]


def shares_prompt(chosen: Any, rejected: Any, words: int | None = None) -> bool:
    """Whether two responses, given as text or as messages, begin with something that can be their prompt: a sentence,
    or so many words.
    """
    if is_dialogue(chosen) and is_dialogue(rejected):
        return True
    try:
        chosen, rejected = from_text(chosen), from_text(rejected)
    except FieldError:
        return True  # a bad record of its own
    if isinstance(chosen, str) and isinstance(rejected, str):
        shared = split_shared_text(chosen, rejected)[0]
        return bool(_SENTENCE_END.search(shared)) or len(shared.split()) >= (words or math.inf)
    both = isinstance(chosen, list) and isinstance(rejected, list) and bool(chosen) and bool(rejected)
    return bool(both) and chosen[0] == rejected[0] and len(chosen) > 1


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
    if last["role"] == "user" and not last["content"].strip():
        raise FieldError("the user's last message is empty", "text")
    return messages


def split_reply(messages: Messages) -> tuple[Messages, str]:
    """A conversation as (everything before the reply, the text of its last message).

    The reply is the last message, or, where tools were called, all that follows the user's last turn.

    Raises:
        FieldError: the last message is not the assistant's, or empty; what is before cannot be a prompt.
    """
    if messages[-1]["role"] != "assistant":
        raise FieldError(
            f"the last message is from the {messages[-1]['role']}",
            "a conversation that ends with the assistant",
        )
    asked = next((n for n in range(len(messages), 0, -1) if messages[n - 1]["role"] == "user"), 0)
    start = asked if asked and uses_tools(messages[asked:]) else len(messages) - 1
    return check_prompt(messages[:start]), reply_of(messages[-1], messages[start:-1])


def uses_tools(reply: Messages) -> bool:
    """Whether the messages of a reply are the assistant's and what tools returned to it."""
    return {one["role"] for one in reply} == {"assistant", "tool"} and reply[0]["role"] == "assistant"


def reply_of(message: Message, steps: Sequence[Message] = ()) -> str:
    """The text of the assistant's message; a `Reply` where it says more than text, or came after `steps`.

    Raises:
        FieldError: there is nothing in it.
    """
    fields = {key: value for key, value in message.items() if key not in ("role", "content")}
    text = parse_text(message["content"], allow_empty=bool(fields))
    return Reply(text, fields, steps) if fields or steps else text


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
            replies.append(reply_of(conversation[-1]))
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
    place = f"message {position + 1}"
    if not isinstance(value, dict):
        raise FieldError(f"{place} is {describe(value)}", "a mapping with role and content")
    said = {key: one for key, one in value.items() if one is not None and one != [] and one != {}}
    sharegpt = "from" in said and "role" not in said
    role = said.pop("from" if sharegpt else "role", None)
    content = said.pop("value" if sharegpt else "content", None)
    if sharegpt:
        if role == "function_call":
            content, said["tool_calls"] = None, _written_calls(content, place)
        role = _SHAREGPT_ROLES.get(str(role), role)
    role = "tool" if role in _OBSERVED else role
    if role not in ROLES:
        raise FieldError(f"the role of {place} is {describe(role)}", f"one of: {', '.join(ROLES)}")
    if content is None and said.get("tool_calls"):
        content = ""
    if isinstance(content, list):
        content = _joined_parts(content, place)
    if not isinstance(content, str):
        raise FieldError(f"the content of {place} is {describe(content)}", "text")
    if "tool_calls" in said:
        said["tool_calls"] = [parsed_call(one) for one in said["tool_calls"]]
    weight = said.pop("weight", None)
    if weight is not None and weight != 1:
        raise FieldError(
            f"the weight of {place} is {describe(weight)}",
            "no weight, or 1: the last reply alone is trained on",
        )
    return cast(Message, {"role": role, "content": content, **said})


def parsed_call(call: Any) -> Any:
    """A call whose arguments are JSON text, as OpenAI's clients write them, with the mapping that templates take."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return {**call, "function": {**function, "arguments": parse_json(function["arguments"])}}
    except ValueError:
        return call


def _joined_parts(parts: list[Any], place: str) -> str:
    """Content given as parts, where all of them are text."""
    for part in parts:
        if not (isinstance(part, dict) and isinstance(part.get("text"), str)):
            found = (
                f"a part of type {part.get('type', 'unknown')}" if isinstance(part, dict) else describe(part)
            )
            raise FieldError(f"the content of {place} has {found}", "text, or parts of text")
    return "".join(part["text"] for part in parts)


def _written_calls(content: Any, place: str) -> list[dict[str, Any]]:
    """ShareGPT's `function_call`: one call, or several, as JSON text with `name` and `arguments`."""
    try:
        found = parse_json(content) if isinstance(content, str) else content
    except ValueError:
        found = None
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(one, dict) and "name" in one for one in calls):
        raise FieldError(
            f"the function call of {place} is {describe(content)}", "JSON with name and arguments"
        )
    return [{"type": "function", "function": one} for one in calls]


def _turns(text: str) -> list[tuple[str, str]]:
    pieces = _TURN.split("\n\n" + text.lstrip())
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return [(_SPEAKERS[speaker], content.strip()) for speaker, content in pairs]


def _roles(messages: Messages) -> str:
    return f"{len(messages)} messages ({', '.join(one['role'] for one in messages)})"


def folded_system(messages: Messages) -> Messages:
    """The messages for a template without a system role: the system text begins the first user's message, on a line of
    its own.
    """
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    system, first, *rest = messages
    return [cast(Message, {**first, "content": f"{system['content']}\n{first['content']}"}), *rest]


def half_pair(value: Any, field: str = "row") -> tuple[str, str, str] | None:
    """Field, problem and expectation of the first text with half of a surrogate pair, which is no valid text: it cannot
    be written as UTF-8, nor tokenised.
    """
    match value:
        case str():
            found = _SURROGATE.search(value)
            if found is None:
                return None
            field = field.encode("utf-8", "backslashreplace").decode()
            return field, f"half a surrogate pair (\\u{ord(found.group()):04x})", "valid text"
        case dict():
            parts = [
                (part, key if field == "row" else field) for key, one in value.items() for part in (key, one)
            ]
        case list():
            parts = [(one, field) for one in value]
        case _:
            return None
    return next(filter(None, (half_pair(one, str(name)) for one, name in parts)), None)
