"""One pipeline for every cell of a grid of settings; stages that the varied settings do not reach are shared by all cells."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.names import suggest
from coalign.core.runs import Run
from coalign.platform.pipeline.description import Pipeline, Stage, references_replaced, stage_folder

SEED = "seed"
"""The setting whose values are repetitions of a cell: they are averaged."""


@dataclass(frozen=True)
class Cell:
    """One choice of the varied settings.

    Attributes:
        values: of the varied settings, the seed among them.
        stages: name of a stage of the pipeline to its name in the expanded one.
    """

    values: Mapping[str, Any]
    stages: Mapping[str, str]

    @property
    def point(self) -> tuple[tuple[str, Any], ...]:
        """The varied settings without the seed: cells of one point are repetitions."""
        return tuple((name, value) for name, value in self.values.items() if name != SEED)


def cells_of(grid: Mapping[str, Sequence[Any]], most: int | None, seed: int) -> list[dict[str, Any]]:
    """Every combination of the values, or `most` of them drawn with the seed, in the order of the grid."""
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if most is None or most >= len(combinations):
        return combinations
    kept = sorted(random.Random(seed).sample(range(len(combinations)), most))
    return [combinations[index] for index in kept]


def expanded(pipeline: Pipeline, choices: Sequence[Mapping[str, Any]]) -> tuple[Pipeline, list[Cell]]:
    """The pipeline in which every stage stands once for each different choice of the settings that reach it.

    Raises:
        ConfigError: a varied setting that the pipeline does not have, or that reaches no stage.
    """
    varied = list(choices[0]) if choices else []
    for name in varied:
        if name not in pipeline.settings:
            known = ", ".join(pipeline.settings) or "none"
            raise ConfigError(
                f"{pipeline.place}: has no setting {name!r} to vary. {suggest(name, pipeline.settings, f'Known: {known}.')}"
            )
    reach = _reach(pipeline, varied)
    unread = [name for name in varied if not any(name in one for one in reach.values())]
    if unread:
        raise ConfigError(f"{pipeline.place}: no stage reads the setting {unread[0]}.")
    made: dict[tuple[Any, ...], Stage] = {}
    cells = []
    for choice in choices:
        names: dict[str, str] = {}
        for stage in pipeline.stages:
            mine = [name for name in varied if name in reach[stage.name]]
            key = (stage.name, *((name, repr(choice[name])) for name in sorted(mine)))
            if key not in made:
                # by its choice, so that a grid may grow in the same folder
                digest = hashlib.sha256(repr(key[1:]).encode()).hexdigest()[:6]
                name = f"{stage.name}-{digest}" if mine else stage.name
                options = references_replaced(stage.options, {one: choice[one] for one in mine}, names)
                after = tuple(names[one] for one in stage.after)
                made[key] = replace(stage, name=name, options=options, after=after)
            names[stage.name] = made[key].name
        cells.append(Cell(dict(choice), names))
    return replace(pipeline, stages=tuple(made.values())), cells


def _reach(pipeline: Pipeline, varied: Sequence[str]) -> dict[str, set[str]]:
    """For each stage the varied settings that it reads, or that a stage before it reads."""
    reach: dict[str, set[str]] = {}
    for stage in pipeline.stages:
        own = {name for name, _ in stage.references() if name in varied}
        reach[stage.name] = own.union(*(reach[one] for one in pipeline.needs(stage)))
    return reach


@dataclass(frozen=True)
class Point:
    """What repetitions of one choice reached.

    Attributes:
        values: of the varied settings, without the seed.
        figures: of each repetition that is done.
        cells: the repetitions.
    """

    values: Mapping[str, Any]
    figures: Sequence[float]
    cells: Sequence[Cell]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.figures) if self.figures else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the repetitions."""
        return statistics.stdev(self.figures) if len(self.figures) > 1 else None


def points_of(cells: Sequence[Cell], folder: Path, stage: str, figure: str) -> list[Point]:
    """What every choice reached by a figure of a stage, in the order of the grid.

    Raises:
        ConfigError: a stage that is done has no such figure; those that it has are listed.
    """
    grouped: dict[tuple[tuple[str, Any], ...], list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.point, []).append(cell)
    points = []
    for point, mine in grouped.items():
        found = [_figure(stage_folder(folder, cell.stages[stage]), figure) for cell in mine]
        points.append(Point(dict(point), [one for one in found if one is not None], mine))
    return points


def best_of(points: Sequence[Point], lower: bool) -> Point | None:
    """The point of the best mean, the first of equals."""
    measured = [one for one in points if one.mean is not None]
    return (min if lower else max)(measured, key=lambda one: one.mean or 0.0, default=None)


def figures_of(folder: Path) -> dict[str, float]:
    """The finite figures that a run states."""
    found = Run(folder).status().get("figures") or {}
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _figure(folder: Path, name: str) -> float | None:
    if not (folder / "status.json").exists() or Run(folder).summary()["state"] != "done":
        return None
    known = figures_of(folder)
    if name not in known:
        raise ConfigError(
            f"--by: {folder.name} has no figure {name!r}. {suggest(name, known, '')}".rstrip(),
            hint=f"It has: {', '.join(known) or 'none'}.",
        )
    return known[name]
