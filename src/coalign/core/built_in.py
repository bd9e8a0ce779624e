"""Methods that belong to no one paper: `coalign run NAME` finds them beside systems and objectives.

Each is a module with a configuration and a run, as a system is (`coalign.core.system`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class BuiltIn:
    """A method by name.

    Attributes:
        module: with `Config` and `run`.
        summary: what it does, in one line.
    """

    module: str
    summary: str


BUILT_IN: dict[str, BuiltIn] = {
    "reward-model": BuiltIn(
        "coalign.training.reward_models.fit",
        "Train a reward model: a scalar head on any language model or encoder, from pairs, rankings or thumbs.",
    ),
}


def load_built_in(name: str) -> ModuleType | None:
    """The module of the method `name` (case and underscores do not matter), None where there is none of that name."""
    found = BUILT_IN.get(name.lower().replace("_", "-"))
    return importlib.import_module(found.module) if found else None
