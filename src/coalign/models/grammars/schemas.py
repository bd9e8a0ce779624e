"""JSON schemas as grammars, where what the grammar allows is what the schema means.

The grammar library (llguidance) refuses most of what it cannot follow; `json_schema_grammar` also refuses what it would
leave out or round, so that a text that is whole is an instance of the schema as it was given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.extras import require
from coalign.core.files import parse_json

EXTRA = "grammar"
COMPILING = {
    # Compact, or as people and models write JSON: a space, or a line break and its indentation.
    "whitespace_pattern": r" |\n[ ]{0,40}",
    "whitespace_flexible": True,
    # Without \u a key has one spelling: else a declared property could come again, unchecked, as "\u0061".
    "json_allowed_escapes": '"\\bfnrt',
    "coerce_one_of": False,
    "lenient": False,
}
"""How a schema is compiled, whatever it says under `x-guidance`."""
_ANNOTATIONS = {
    "$anchor", "$comment", "$id", "$schema", "contentEncoding", "contentMediaType", "contentSchema", "default", "deprecated",
    "description", "discriminator", "example", "examples", "externalDocs", "readOnly", "title", "writeOnly", "xml",
}  # fmt: skip
_ONE = {"additionalProperties", "items", "additionalItems"}
_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_MAPS = {"$defs", "definitions", "patternProperties", "properties"}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_PLAIN = {
    "$ref", "const", "enum", "format", "maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties",
    "pattern", "required", "type",
}  # fmt: skip
_KNOWN = _ANNOTATIONS | _ONE | _LISTS | _MAPS | _BOUNDS | _PLAIN
_HARMLESS = {
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "minContains": (0,),
    "nullable": (False,),
}
"""Keywords that are not followed, at the values at which they say nothing."""
_EXACT = 2**53
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f\ud800-\udfff]")
_DEEPEST = 100


@dataclass(frozen=True)
class Grammar:
    """What a text must be.

    Attributes:
        text: the grammar in the form of the library (Lark).
        schema: the JSON schema that it stands for, as JSON.
    """

    text: str
    schema: str

    def or_begun_by(self, head: str) -> Grammar:
        """This, or any text that begins with `head`."""
        rules = f"start: begun | answer\nbegun: {json.dumps(head)} /(.|\\n)*/\nanswer:"
        return Grammar(self.text.replace("start:", rules, 1), self.schema)


def json_schema_grammar(schema: Any, name: str = "schema") -> Grammar:
    """The grammar of a JSON schema (2020-12, and what of draft 7 is written otherwise).

    Properties come in the order in which the schema names them, others after them.

    Args:
        schema: a mapping or a truth value.
        name: what errors call it.

    Raises:
        ConfigError: it is no schema, nothing can be an instance of it, or it says what a grammar does not follow; the
            place and the keyword are named.
        MissingExtraError: the extra `grammar` is not installed.
    """
    library: Any = require("llguidance", EXTRA)
    try:
        found = next(_problems(schema, "", 0), None)
    except RecursionError:
        found = ("", "nested too deeply")
    if found is not None:
        raise ConfigError(f"{name}{found[0]}: {found[1]}.")
    if schema is False:
        raise ConfigError(f"{name}: false allows nothing.")
    cleaned = _cleaned({} if schema is True else schema)
    compiled = {**cleaned, "x-guidance": COMPILING}
    grammar = library.LLMatcher.grammar_from_json_schema(compiled)
    if problem := library.LLMatcher.validate_grammar(grammar):
        raise ConfigError(f"{name}: {_said(problem)}.")
    return Grammar(f"start: %json {json.dumps(compiled)}\n", json.dumps(schema, sort_keys=True))


def json_object_grammar() -> Grammar:
    """The grammar of any JSON object."""
    return json_schema_grammar({"type": "object"})


def read_schema(path: Path) -> Grammar:
    """The grammar of the schema in a file.

    Raises:
        ConfigError: as `json_schema_grammar`, or a file that holds none.
    """
    try:
        schema = parse_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON ({error}).") from error
    return json_schema_grammar(schema, str(path))


def _problems(schema: Any, place: str, depth: int) -> Iterator[tuple[str, str]]:
    """(place, what is not followed there) of everything that the library would leave out or round."""
    if isinstance(schema, bool):
        return
    if depth > _DEEPEST:
        yield place, "nested too deeply"
    if not isinstance(schema, Mapping):
        yield place, f"is {_shown(schema)}, expected a schema"
        return
    for key, value in schema.items():
        here = f"{place}/{key}"
        if key in _HARMLESS and value in _HARMLESS[key]:
            continue
        if key not in _KNOWN and not key.startswith("x-"):
            yield here, "is not supported: what is sampled could not be held to it"
        elif key in _ONE and not isinstance(value, list):
            yield from _problems(value, here, depth + 1)
        elif key in _LISTS | _ONE:
            yield from _each(value, list, here, depth)
        elif key in _MAPS:
            yield from _each(value, Mapping, here, depth)
        elif key in ("const", "enum", "required") or (key in _BOUNDS and not isinstance(value, bool)):
            yield from _unwritable(value, here)
        elif key == "minProperties" and not _counts_keys(schema):
            yield (
                here,
                "above 1 is supported where additionalProperties is false: another key might come twice",
            )


def _each(value: Any, kind: type, place: str, depth: int) -> Iterator[tuple[str, str]]:
    """The problems of the schemas in a list or a mapping, whose keys are texts that must be written."""
    if not isinstance(value, kind):
        yield place, f"is {_shown(value)}, expected {'a list' if kind is list else 'an object'}"
        return
    named: Any = value.items() if isinstance(value, Mapping) else enumerate(value)
    for name, one in named:
        if isinstance(name, str):
            yield from _unwritable(name, f"{place}/{name}")
        yield from _problems(one, f"{place}/{name}", depth + 1)


def _unwritable(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Numbers that would be rounded and texts with characters that the grammar has no spelling for."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) > _EXACT:
        yield place, f"{value} is beyond 2^53, where numbers are rounded"
    elif isinstance(value, str) and _UNWRITABLE.search(value):
        yield place, f"{_shown(value)} holds a control character"
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _unwritable(key, place)
            yield from _unwritable(one, place)
    elif isinstance(value, list):
        for one in value:
            yield from _unwritable(one, place)


def _counts_keys(schema: Mapping[str, Any]) -> bool:
    """Whether at least `minProperties` different keys come, though one that is not declared may come twice."""
    least, required = schema["minProperties"], schema.get("required")
    if not isinstance(least, int) or least <= max(1, len(required) if isinstance(required, list) else 0):
        return True
    return schema.get("additionalProperties") is False and not schema.get("patternProperties")


def _cleaned(schema: Any) -> Any:
    """The schema without keywords that say nothing and without options of the library."""
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _HARMLESS or key.startswith("x-"):
            continue
        if key in _MAPS:
            found[key] = {name: _cleaned(one) for name, one in value.items()}
        elif key in _ONE | _LISTS:
            found[key] = list(map(_cleaned, value)) if isinstance(value, list) else _cleaned(value)
        else:
            found[key] = value
    return found


def _said(problem: str) -> str:
    """What the library said, in a line and in our words where its own name an option of its."""
    text = " ".join(problem.split())
    if "coerce_one_of" in text:
        return "oneOf is not supported where more than one of its schemas may hold; anyOf is"
    return text.removeprefix("WARNING: ").rstrip(".")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
