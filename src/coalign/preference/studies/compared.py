"""The constants of several objectives in one configuration, for systems that compare them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.options import Option, build, option, options_of
from coalign.training.objective import get_objective


def any_constants(names: Sequence[str]) -> Any:
    """A dataclass with the constants of all objectives `names`, None where the default of the chosen one holds.

    A configuration class inherits from it and calls `chosen_constants` in `__post_init__`.
    """
    owners: dict[str, list[tuple[str, Option]]] = defaultdict(list)
    for name in names:
        for one in options_of(get_objective(name).constants):
            owners[one.name].append((name, one))
    fields = [
        (constant, found[0][1].type | None, option(None, _help(found), source="the objective"))
        for constant, found in owners.items()
    ]
    made: Any = dataclasses.make_dataclass(
        "AnyConstants", fields, kw_only=True, namespace={"__group__": "Objective"}
    )
    return made


def chosen_constants(config: Any, name: str, names: Sequence[str]) -> Any:
    """The constants of the objective `name` from `config`, whose fields then show the defaults that were filled in.

    Args:
        config: an instance of a class that inherits from `any_constants(names)`.

    Raises:
        ConfigError: a constant was given that the objective does not have, or one out of its range.
    """
    own = [one.name for one in options_of(get_objective(name).constants)]
    others = {one.name for other in names for one in options_of(get_objective(other).constants)}
    foreign = [one for one in sorted(others.difference(own)) if getattr(config, one) is not None]
    if foreign:
        raise ConfigError(
            "\n".join(f"--{one.replace('_', '-')}: {name} has no such constant" for one in foreign),
            hint=f"Constants of {name}: {', '.join(sorted(own))}. Leave the others out, or choose another --objective.",
        )
    given = {one: getattr(config, one) for one in own if getattr(config, one) is not None}
    constants = build(get_objective(name).constants, given, where=name)
    for one in own:
        setattr(config, one, getattr(constants, one))
    return constants


def _help(found: Sequence[tuple[str, Option]]) -> str:
    """What the constant is to each objective, and its default there."""
    clauses: dict[tuple[str, Any], list[str]] = defaultdict(list)
    for name, one in found:
        clauses[one.help, one.default].append(name)
    return "; ".join(f"{text} ({', '.join(names)}: {default})" for (text, default), names in clauses.items())
