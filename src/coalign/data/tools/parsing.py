"""Calls in what a model wrote, in the writings of the common families of open models.

- Hermes, Qwen, and the fallback (`coalign.data.tools.fallback`): `<tool_call>{"name": ..., "arguments": ...}</tool_call>`;
  Qwen3-Coder: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`.
- Mistral: `[TOOL_CALLS][{"name": ..., "arguments": ...}]` and `[TOOL_CALLS]NAME[ARGS]{...}`.
- Llama 3.1: the whole answer is `{"name": ..., "parameters": ...}`, after `<|python_tag|>` or not, several apart by `;`.

JSON without a marker around it is a call only if it names a tool that was offered: decoding drops markers that are special
tokens, and an answer may be JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from coalign.core.files import parse_json
from coalign.data.tools.fallback import CALL, CALL_END, RETURNED

MARKERS = (CALL, "[TOOL_CALLS]", "<|python_tag|>")
"""What leads calls, wherever it stands."""
_HERMES = re.compile(rf"{CALL}(.*?)(?:{CALL_END}|(?={CALL})|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"\s*<function=([^>\s]+)>(.*)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_NAMED = re.compile(r"\[TOOL_CALLS\]\s*([^\s\[{]+)\s*(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\])?\s*(?=\{)")


@dataclass(frozen=True)
class Call:
    """A call that a model wrote.

    Attributes:
        name: of the function; empty where none can be read.
        arguments: None where they cannot be read.
        written: the arguments, or the whole call where no name can be read, as the model wrote them.
        problem: why it cannot be run as it is, and what was expected; None where it can be read.
    """

    name: str
    arguments: dict[str, Any] | None
    written: str
    problem: str | None = None

    def message(self, identity: str) -> dict[str, Any]:
        """As the assistant's message holds it; arguments that cannot be read as text."""
        given: Any = self.written if self.arguments is None else self.arguments
        return {"id": identity, "type": "function", "function": {"name": self.name, "arguments": given}}


@dataclass(frozen=True)
class Parsed:
    """What a model said, and the calls in it.

    Attributes:
        content: the text before and between the calls, without white space around it.
    """

    content: str
    calls: list[Call] = field(default_factory=list)


def parse_calls(text: str, names: Collection[str]) -> Parsed:
    """The calls in a text. What is written like a call and cannot be read is one with a problem: nothing is raised.

    Args:
        text: what the model said; what follows an observation that it invented is cut off.
        names: of the tools that were offered.
    """
    text = text.partition(RETURNED)[0]
    if CALL in text:
        calls = [_of_block(one[1]) for one in _HERMES.finditer(text)]
        return Parsed(_HERMES.sub("", text).strip(), calls)
    if "[TOOL_CALLS]" in text:
        before, _, rest = text.partition("[TOOL_CALLS]")
        return Parsed(before.strip(), _of_mistral(f"[TOOL_CALLS]{rest}"))
    before, marker, rest = text.partition("<|python_tag|>")
    bare = rest if marker else text
    found = _values(bare.strip())
    if found and all(_name_of(one) in names for one in found):
        return Parsed(before.strip() if marker else "", [_of_value(one, bare) for one in found])
    if marker:
        return Parsed(before.strip(), [_unreadable(bare, 'JSON with "name" and "parameters"')])
    return Parsed(text.strip())


def may_be_call(text: str) -> int | None:
    """Where a call may begin in a text that is not finished: the place from which a stream holds back; None where nowhere."""
    places = [text.find(one) for one in (*MARKERS, RETURNED)]
    if text.lstrip()[:1] in ("{", "["):
        places.append(0)
    for marker in (*MARKERS, RETURNED):
        for size in range(min(len(marker) - 1, len(text)), 0, -1):
            if text.endswith(marker[:size]):
                places.append(len(text) - size)
                break
    found = [place for place in places if place >= 0]
    return min(found, default=None)


def _of_block(block: str) -> Call:
    coder = _FUNCTION.match(block)
    if coder:
        given: dict[str, Any] = {}
        for key, value in _PARAMETER.findall(coder[2]):
            given[key] = _read(value, value)
        return Call(coder[1], given, json.dumps(given, ensure_ascii=False))
    found = _values(block.strip())
    if len(found) != 1:
        return _unreadable(block, 'one JSON object with "name" and "arguments"')
    return _of_value(found[0], block)


def _of_mistral(text: str) -> list[Call]:
    named = list(_NAMED.finditer(text))
    if named:
        ends = [*(one.start() for one in named[1:]), len(text)]
        pieces = [(one[1], text[one.end() : end].strip()) for one, end in zip(named, ends, strict=True)]
        return [_of_value({"name": name, "arguments": written}, written) for name, written in pieces]
    found = _values(text.removeprefix("[TOOL_CALLS]").strip())
    if not found:
        return [_unreadable(text, 'a JSON list of objects with "name" and "arguments"')]
    return [_of_value(one, text) for one in found]


def _of_value(value: Any, text: str) -> Call:
    """A call out of what JSON held."""
    name = _name_of(value)
    if name is None:
        return _unreadable(text, 'a JSON object with "name" and "arguments"')
    inner = value.get("function")
    value = inner if isinstance(inner, Mapping) else value
    given = value.get("arguments", value.get("parameters", {}))
    written = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    given = _read(given, None) if isinstance(given, str) else {} if given is None else given
    if not isinstance(given, dict):
        problem = f"the arguments of {name} are not a JSON object ({written[:60]!r}), expected one"
        return Call(name, None, written, problem)
    return Call(name, given, written)


def _name_of(value: Any) -> str | None:
    inner = value.get("function") if isinstance(value, Mapping) else None
    value = inner if isinstance(inner, Mapping) else value
    name = value.get("name") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) and name else None


def _values(text: str) -> list[Any]:
    """The JSON values of a text that is nothing else: a list's members, or values apart by `;` or lines; none where it
    cannot be read.
    """
    found: list[Any] = []
    decoder = json.JSONDecoder()
    while text:
        try:
            value, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return []
        found += value if isinstance(value, list) else [value]
        text = text[end:].lstrip(" \t\r\n;,")
    return found


def _read(text: str, otherwise: Any) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return otherwise


def _unreadable(text: str, expected: str) -> Call:
    shown = " ".join(text.split())[:60]
    return Call("", None, text.strip(), f"the call cannot be read ({shown!r}), expected {expected}")
