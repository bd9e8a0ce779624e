"""Functions of the user as tools: described by signature and docstring, run in a process that can be ended."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.own_code import load_code
from coalign.core.processes.worker import Worker
from coalign.models.tools.toolbox import Tool, ToolError


def function_tool(text: str, *, seconds: float, memory_mb: int) -> Tool:
    """The function that `file.py:name` or `module:name` names, as a tool.

    Its schema is what `transformers.utils.get_json_schema` makes of its type hints and of its docstring in Google's form.
    It runs in a process of its own, which is ended when a call takes too long, and is started again for the next one.

    Args:
        seconds: that a call may take.
        memory_mb: that the process may take, in MB of 2^20 bytes of address space (on POSIX).

    Raises:
        ConfigError: there is no such function, or its hints or docstring do not describe it.
    """
    from transformers.utils.chat_template_utils import (
        DocstringParsingException,
        TypeHintParsingException,
        get_json_schema,
    )

    function = load_code(text, "tools")
    if not callable(function):
        raise ConfigError(f"tools: {text} is not a function.")
    try:
        schema = get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException, AttributeError, ValueError) as error:
        raise ConfigError(
            f"tools: {text} cannot be described ({str(error).splitlines()[0]}).",
            hint="Give every argument a type hint, and the function a docstring with a line for each below `Args:`.",
        ) from error
    place, _, name = text.partition(":")
    named = f"{Path(place).resolve()}:{name}" if place.endswith(".py") else text
    runner = _Runner(named, schema["function"]["name"], seconds, memory_mb)
    return Tool(schema, runner.run, runner.close)


class _Runner:
    """Calls of one function, one after the other."""

    def __init__(self, code: str, name: str, seconds: float, memory_mb: int) -> None:
        self._code, self._name, self._seconds, self._memory = code, name, seconds, memory_mb
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def run(self, arguments: dict[str, Any]) -> str:
        with self._lock:
            if self._worker is None or not self._worker.ready:
                self._worker = Worker(
                    "coalign.models.tools.function_process", [self._code, str(self._memory)]
                )
            if not self._worker.ready:
                raise ToolError(f"{self._name} could not be started")
            began = time.monotonic()
            answer = self._worker.ask(arguments, self._seconds)
            took = time.monotonic() - began
        if answer is None:
            late = took >= self._seconds
            why = f"took longer than {self._seconds:g} s and was ended" if late else "ended without an answer"
            raise ToolError(f"{self._name} {why}")
        if "error" in answer:
            raise ToolError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        if self._worker is not None:
            self._worker.end()
