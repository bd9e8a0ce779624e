"""Settings of a study as text: `beta=0.1,0.3` for every objective that has it, `dpo.beta=0.1,0.3` for one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.core.options import options_of
from coalign.training.objective import get_objective
from coalign.training.options import TrainingOptions

NOT_VARIED = ("seed", "eval_fraction", "eval_steps", "report_to", "logging_steps", "save_steps")
"""Training options that a study sets itself, or that change no result."""

Grid = dict[str, list[Any]]


def parse_grid(entries: Iterable[str], objectives: Sequence[str], *, where: str) -> dict[str, Grid]:
    """Objective to setting to values.

    A name without an objective goes to every objective that has such a constant, or to all where it is a training
    option (`learning_rate`, `epochs`, ...). A value without a name belongs to the name before it, so that a list
    that was split at its commas is read alike.

    Raises:
        ConfigError: an unknown objective or setting (the nearest is named), or a name without values.
    """
    grids: dict[str, Grid] = {name: {} for name in objectives}
    targets: list[tuple[str, str]] = []
    for text in (part.strip() for entry in entries for part in entry.split(",")):
        name, equals, value = text.partition("=")
        if equals:
            targets = _targets(name.strip(), objectives, where)
            text = value.strip()
        if not targets or not text:
            raise ConfigError(
                f"{where}: {text or name!r} is not a setting, expected name=value or objective.name=value"
            )
        for objective, setting in targets:
            values = grids[objective].setdefault(setting, [])
            if (one := _value(text)) not in values:
                values.append(one)
    return grids


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of values, names in order; one empty combination for an empty grid."""
    return [
        dict(zip(grid.keys(), values, strict=True)) for values in itertools.product(*map(list, grid.values()))
    ]


def _targets(name: str, objectives: Sequence[str], where: str) -> list[tuple[str, str]]:
    objective, dot, setting = name.rpartition(".")
    chosen = [objective.replace("-", "_")] if dot else list(objectives)
    setting = setting.replace("-", "_")
    if dot and chosen[0] not in objectives:
        raise ConfigError(
            f"{where}: {objective!r} is not among the objectives. {suggest(chosen[0], objectives, 'There are: ' + ', '.join(objectives))}"
        )
    known = {one: _settings(one) for one in chosen}
    found = [(one, setting) for one in chosen if setting in known[one]]
    if not found:
        every = sorted(set().union(*known.values()))
        raise ConfigError(
            f"{where}: {name!r} is not a setting of {', '.join(chosen)}. {suggest(setting, every, 'There are: ' + ', '.join(every))}"
        )
    return found


def _settings(objective: str) -> set[str]:
    training = {one.name for one in fields(TrainingOptions)}.difference(NOT_VARIED)
    return training | {one.name for one in options_of(get_objective(objective).constants)}


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
