"""Options of commands whose model may call tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coalign.core.errors import ConfigError
from coalign.core.options import Count, Positive, option
from coalign.core.own_code import names_code
from coalign.core.processes.sandbox import SandboxOptions

if TYPE_CHECKING:
    from coalign.models.tools.toolbox import Tool, Toolbox


@dataclass(kw_only=True)
class ToolOptions(SandboxOptions):
    """Which tools a model may call, and within what limits."""

    __group__ = "Tools"

    tools: list[str] = option(
        [],
        "what the model may call: python (in the sandbox), search:FOLDER (a folder of text), file.py:function (of your own)",
    )
    max_steps: Count = option(8, "rounds of calls, after which an answer is asked for", only_with="tools")
    tool_seconds: Positive = option(
        10.0, "seconds that a call of your own function may take", only_with="tools"
    )
    tool_memory_mb: Count = option(
        4096, "memory that the process of your own function may take, in MB", only_with="tools"
    )
    tool_characters: Count = option(
        4000, "characters of an observation that the model sees, at most", only_with="tools"
    )

    def open_tools(self) -> Toolbox:
        """The tools.

        Raises:
            ConfigError: one that cannot be had, by name.
            SandboxError: nothing here holds code that `python` would run.
            MissingExtraError: the extra `tools` is not installed.
        """
        from coalign.models.tools.toolbox import Toolbox

        return Toolbox([self._open(one) for one in self.tools], most_characters=self.tool_characters)

    def _open(self, text: str) -> Tool:
        from coalign.models.tools.functions import function_tool
        from coalign.models.tools.given import python_tool, search_tool

        kind, _, place = text.partition(":")
        if text == "python":
            return python_tool(self)
        if kind == "search" and place:
            return search_tool(place)
        if names_code(text):
            return function_tool(text, seconds=self.tool_seconds, memory_mb=self.tool_memory_mb)
        raise ConfigError(f"tools: {text!r} is no tool, expected python, search:FOLDER or file.py:function.")
