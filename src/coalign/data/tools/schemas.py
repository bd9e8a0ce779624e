"""JSON schemas of functions: whether tools are described so that models and servers take them, and calls that fit them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.extras import require
from coalign.data.tools.parsing import Call
from coalign.data.tools.written import function_of

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def assert_tools(tools: Sequence[Any]) -> list[str]:
    """The names of tools.

    Raises:
        ConfigError: one is not described as OpenAI's API and Transformers' templates take it, or a name stands twice.
    """
    names: list[str] = []
    for place, tool in enumerate(tools):
        where = f"tools[{place}]"
        if not isinstance(tool, Mapping) or tool.get("type") != "function":
            raise ConfigError(f'{where}: expected {{"type": "function", "function": ...}}.')
        function = tool.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{where}.function.name: is {name!r}, expected letters, digits, '_', '.' and '-', at most 64."
            )
        parameters = function_of(tool).get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise ConfigError(f"{where}.function.parameters: expected a JSON schema.")
        if name in names:
            raise ConfigError(f"{where}.function.name: {name!r} stands twice.")
        names.append(name)
    return names


class Checker:
    """Checks arguments against the schemas of tools, by `jsonschema`.

    Raises:
        ConfigError: a schema is none.
        MissingExtraError: jsonschema is not installed.
    """

    def __init__(self, tools: Sequence[Any]) -> None:
        library: Any = require("jsonschema", "tools")
        self._validators: dict[str, Any] = {}
        for name, tool in zip(assert_tools(tools), tools, strict=True):
            schema = function_of(tool).get("parameters") or {"type": "object"}
            kind = library.validators.validator_for(schema, default=library.Draft202012Validator)
            try:
                kind.check_schema(schema)
            except library.SchemaError as error:
                raise ConfigError(
                    f"{name}: its parameters are no JSON schema ({error.message} at {error.json_path})."
                ) from error
            self._validators[name] = kind(schema)

    def problem(self, call: Call) -> str | None:
        """Why a call cannot be run, for the model to read; None where it can."""
        if call.problem:
            return call.problem
        if call.name not in self._validators:
            return f"there is no function {call.name!r}, expected one of: {', '.join(self._validators)}"
        errors = sorted(
            self._validators[call.name].iter_errors(call.arguments), key=lambda one: one.json_path
        )
        return (
            "; ".join(f"{one.json_path.replace('$', 'arguments', 1)}: {one.message}" for one in errors[:3])
            or None
        )
