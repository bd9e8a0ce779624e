"""A place for tools in a template that has none, or in messages: the format of Hermes and Qwen, written in Jinja so that it is
saved with the model, and any server that renders the template has it too.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from coalign.data.records import Messages

CALL, CALL_END = "<tool_call>", "</tool_call>"
RETURNED = "<tool_response>"
"""What leads an observation: a model that writes it itself invents one, so decoding stops there."""
_MARK = "{%- set tools_lead = "


def with_place_for_tools(template: str, *, knows_system: bool = True) -> str:
    """A chat template that writes tools, calls and what they return although the given one does not.

    Messages of conversations without tools reach the given template as they are.

    Args:
        template: Jinja.
        knows_system: it takes a system message; else the tools lead the first turn of the user.
    """
    if template.startswith(_MARK):
        return template
    return f"{_MARK}'{'system' if knows_system else 'user'}' -%}}\n{_prelude()}{template}"


def written_into(messages: Messages, tools: Sequence[Any], *, knows_system: bool = True) -> Messages:
    """The messages with tools, calls and what they return as text: for servers and methods that take text alone."""
    text = _compiled(knows_system).render(messages=messages, tools=list(tools) or None)
    return json.loads(text)


@functools.cache
def _prelude() -> str:
    return resources.files("coalign.data.tools").joinpath("fallback.jinja").read_text(encoding="utf-8")


@functools.cache
def _compiled(knows_system: bool) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(with_place_for_tools("{{ messages | tojson }}", knows_system=knows_system))
