"""Tools by name, and calls of them: checked, run at the same time, each answer as text of a bounded length."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import ConfigError
from coalign.data.tools.parsing import Call
from coalign.data.tools.schemas import Checker

ERROR = "Error: "
"""What leads an observation of a call that failed."""
MOST_AT_ONCE = 8


class ToolError(Exception):
    """Why a call failed, for the model to read."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        schema: `{"type": "function", "function": {"name", "description", "parameters"}}`.
        run: arguments, which fit the schema, to what is observed; what it raises is observed too.
        close: ends what it holds.
    """

    schema: dict[str, Any]
    run: Callable[[dict[str, Any]], Any]
    close: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        return self.schema["function"]["name"]


class Toolbox:
    """Tools that a model may call.

    Args:
        most_characters: of an observation; of a longer one the beginning is kept, and the model is told.

    Raises:
        ConfigError: two tools of one name, a schema that is none, or no tool.
        MissingExtraError: jsonschema is not installed.
    """

    def __init__(self, tools: Sequence[Tool], *, most_characters: int = 4000) -> None:
        if not tools:
            raise ConfigError("tools: none are given, expected at least one.")
        self.schemas = [one.schema for one in tools]
        self._checker = Checker(self.schemas)
        self._tools = {one.name: one for one in tools}
        self._most = most_characters

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    def answer(self, calls: Sequence[Call]) -> list[str]:
        """What each call returns, as text, in their order; they run at the same time. Nothing is raised: an error is an
        observation that begins with `Error: `.
        """
        if len(calls) == 1:
            return [self._answer(calls[0])]
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            return list(pool.map(self._answer, calls))

    def close(self) -> None:
        """End what the tools hold (processes)."""
        for one in self._tools.values():
            one.close()

    def _answer(self, call: Call) -> str:
        problem = self._checker.problem(call)
        if problem is not None:
            return f"{ERROR}{problem}"
        try:
            text = as_text(self._tools[call.name].run(dict(call.arguments or {})))
        except ToolError as error:
            text = f"{ERROR}{error}"
        except Exception as error:  # a tool is anybody's code
            text = f"{ERROR}{type(error).__name__}: {error}"
        if len(text) <= self._most:
            return text
        return f"{text[: self._most]}\n... and {len(text) - self._most} characters more"


def as_text(value: Any) -> str:
    """A result as text: text as it is, everything else as JSON, or as Python writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
