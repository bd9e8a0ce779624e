"""What a chat template leaves out of tools, calls and observations: found in the text that it writes, not by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from coalign.data.records import Message, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "coalignprobe"


def function_of(tool: Any) -> Mapping[str, Any]:
    """The function of a tool or of a call, with or without OpenAI's `{"type": "function", "function": ...}` around it."""
    inner = tool.get("function") if isinstance(tool, Mapping) else None
    return inner if isinstance(inner, Mapping) else tool if isinstance(tool, Mapping) else {}


def missing_tool(text: str, tools: Sequence[Any]) -> str | None:
    """The name of the first tool that a prompt's text does not have; None where all are there."""
    names = [str(function_of(one).get("name", "")) for one in tools]
    return next((one for one in names if one not in text), None)


def missing_call(text: str, calls: Sequence[Any]) -> str | None:
    """The first name, argument or value of calls that a text does not have in any usual writing; None where all are there."""
    squeezed = _squeezed(text)
    for call in calls:
        function = function_of(call)
        for part in (function.get("name", ""), *_leaves(function.get("arguments"))):
            if not any(_squeezed(one) in squeezed for one in _writings(part)):
                return str(part)
    return None


def missing_message(text: str, messages: Sequence[Message]) -> int | None:
    """The place of the first observation that a prompt's text does not have."""
    squeezed = _squeezed(text)
    for place, one in enumerate(messages):
        if one["role"] == "tool" and not any(
            _squeezed(said) in squeezed for said in _writings(one["content"])
        ):
            return place
    return None


def writes_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's chat template writes tools, calls of them and what these return, tried on all three."""
    if not tokenizer.chat_template:
        return False
    name, value, said = f"{_PROBE}a", f"{_PROBE}b", f"{_PROBE}c"
    schema = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    tool = {"type": "function", "function": {"name": name, "description": "?", "parameters": schema}}
    call = {"id": "123456789", "type": "function", "function": {"name": name, "arguments": {"word": value}}}
    asked = [{"role": "user", "content": "?"}]
    called = [
        *asked,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": said, "name": name, "tool_call_id": "123456789"},
    ]

    def written(messages: Any, tools: Any) -> str:
        return cast(
            str,
            tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True),
        )

    try:
        offered, whole = written(asked, [tool]), written(cast(Messages, called), None)
    except Exception:  # a template is a program: it may fail in any way
        return False
    return name in offered and all(one in whole for one in (name, value, said))


def _leaves(value: Any) -> Iterator[Any]:
    """Keys and values of arguments; the whole text where they are none."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield key
            yield from _leaves(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)
    elif value is not None and value != "":
        yield value


def _writings(value: Any) -> Iterator[str]:
    """How templates write a value: as it is, as JSON, as Python, and as JSON in JSON."""
    yield str(value)
    for one in (json.dumps(value, ensure_ascii=False), json.dumps(value), repr(value)):
        bare = one[1:-1] if isinstance(value, str) else one
        yield bare
        yield json.dumps(bare, ensure_ascii=False)[1:-1]


def _squeezed(text: str) -> str:
    return "".join(text.split())
