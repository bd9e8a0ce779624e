"""Recipes: the steps of a pipeline by name, as a command line or a YAML file has them.

exact, near, length min=5 max=400, quality, top by=quality share=0.1

- exact
- near: {threshold: 0.85}
- length: {min: 5, max: 400}
- quality
- top: {by: quality, share: 0.1}
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.core.options import build, options_of, parse_value
from coalign.core.yaml_text import load_yaml
from coalign.loops.curation.label_step import LabelStep
from coalign.loops.curation.named_steps import STEPS, Context, NamedStep
from coalign.loops.curation.response_step import ResponseStep
from coalign.loops.steps.kinds import Step

KNOWN: dict[str, type[NamedStep]] = {**STEPS, **{one.kind: one for one in (LabelStep, ResponseStep)}}
"""Every step by its name."""


def parse_recipe(values: Sequence[Any]) -> list[NamedStep]:
    """The steps of a recipe. Nothing is loaded.

    Args:
        values: each a text (`length min=5`), a mapping of a kind to its arguments, or a YAML file of such a list.

    Raises:
        ConfigError: every problem at once, each with its place.
    """
    problems: list[str] = []
    found: list[NamedStep] = []
    for place, value in _unfolded(values):
        try:
            kind, arguments = _read(value, place)
            found.append(build(KNOWN[kind], arguments, where=f"{place}: {kind}"))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    if not found:
        raise ConfigError("steps: none, expected at least one.", hint=f"Known: {', '.join(KNOWN)}.")
    return found


def make_steps(recipe: Sequence[NamedStep], context: Context) -> list[Step]:
    """The steps, each with a name of its own: a kind that comes again is numbered."""
    names: list[str] = []
    for one in recipe:
        wanted = one.name or one.kind
        again = sum(name == wanted or name.startswith(f"{wanted} ") for name in names)
        names.append(f"{wanted} {again + 1}" if again else wanted)
    return [one.make(name, context) for one, name in zip(recipe, names, strict=True)]


def _unfolded(values: Sequence[Any]) -> list[tuple[str, Any]]:
    """Each step with its place; files are read."""
    found: list[tuple[str, Any]] = []
    for number, value in enumerate(values, start=1):
        if isinstance(value, str) and Path(value).suffix in (".yaml", ".yml"):
            found += [
                (f"{value}: step {place}", one) for place, one in enumerate(_file(Path(value)), start=1)
            ]
        else:
            found.append((f"steps: step {number}", value))
    return found


def _file(path: Path) -> list[Any]:
    loaded = load_yaml(path)
    if isinstance(loaded, dict) and set(loaded) == {"steps"}:
        loaded = loaded["steps"]
    if not isinstance(loaded, list):
        raise ConfigError(f"{path}: holds a {type(loaded).__name__}, expected a list of steps.")
    return loaded


def _read(value: Any, place: str) -> tuple[str, dict[str, Any]]:
    """Kind and arguments of a step."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((kind, arguments),) = value.items()
        if arguments is not None and not isinstance(arguments, Mapping):
            raise ConfigError(f"{place}: {kind}: {arguments!r}, expected a mapping of its arguments.")
        return _known(str(kind), place), {str(key): one for key, one in (arguments or {}).items()}
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{place}: {value!r}, expected a name, or a mapping of a name to its arguments.")
    try:
        kind, *rest = shlex.split(value)
    except ValueError as error:
        raise ConfigError(f"{place}: {value!r} cannot be read ({error}).") from error
    known = {one.name: one for one in options_of(KNOWN[_known(kind, place)])}
    arguments: dict[str, Any] = {}
    for part in rest:
        name, equals, text = part.partition("=")
        if not equals:
            raise ConfigError(f"{place}: {kind}: {part!r}, expected NAME=VALUE.")
        if name == "weights":
            parts = [one.rpartition(":") for one in text.split(";") if one]
            arguments[name] = {value: weight for value, _, weight in parts}
        elif name in known and known[name].is_list:
            arguments[name] = [one.strip() for one in text.split(";") if one.strip()]
        else:
            arguments[name] = parse_value(known[name], text) if name in known else text
    return kind, arguments


def _known(kind: str, place: str) -> str:
    if kind not in KNOWN:
        advice = suggest(kind, KNOWN, f"Known: {', '.join(KNOWN)}.")
        raise ConfigError(f"{place}: {kind!r} is no step. {advice}")
    return kind
