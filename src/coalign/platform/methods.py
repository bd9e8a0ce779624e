"""Every method by name: a system of the catalogue, a method of no one paper, an objective, or one of the user's."""

from __future__ import annotations

import contextlib
from typing import Any

from coalign.core.built_in import BUILT_IN, load_built_in
from coalign.core.catalogue import Entry, entries, get
from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.core.own_code import names_code
from coalign.core.system import load_system


def find(method: str) -> tuple[Entry | None, Any]:
    """A method's catalogue entry, where it is a system, and what implements it.

    Raises:
        ConfigError: there is none, or the system is planned.
    """
    if names_code(method):
        from coalign.training.learning import learner

        return None, learner(method)
    try:
        entry = get(method)
    except ConfigError:
        return None, load_built_in(method) or _objective(method)
    return entry, load_system(entry.slug)


def _objective(name: str) -> Any:
    from coalign.training.learning import learner

    with contextlib.suppress(ConfigError):
        return learner(name)
    advice = suggest(name, methods(), "`coalign methods` and `coalign objectives` list them.")
    raise ConfigError(f"{name!r} is neither a method nor an objective. {advice}")


def methods() -> list[str]:
    """Names that `coalign run` knows, those of planned systems too."""
    from coalign.training.objective import all_objectives

    objectives = (one.replace("_", "-") for one in all_objectives())
    return [*(entry.slug for entry in entries()), *BUILT_IN, *objectives]
