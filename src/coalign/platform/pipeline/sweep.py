"""A sweep: one run, or one pipeline, for every choice of some settings, under one budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import CoalignError
from coalign.core.limits import Count, Seed
from coalign.core.options import option, required
from coalign.core.runs import Run
from coalign.platform.pipeline.chain import ChainOptions, run_chain
from coalign.platform.pipeline.description import Pipeline, pipeline_of
from coalign.platform.pipeline.grid import Cell, Point, cells_of, expanded, points_of
from coalign.platform.pipeline.sweep_report import write_sweep_report

METHOD = "sweep"
"""What `status.json` of a sweep's run calls it."""


@dataclass(kw_only=True)
class SweepOptions(ChainOptions):
    """Options of a sweep. A grid may grow in the same folder."""

    __may_change__ = ("grid", "by", "lower", "cells", "seed", "options")

    grid: dict[str, list[Any]] = required("settings to their values")
    by: str = required("the figure by which choices are compared, or STAGE.FIGURE")
    lower: bool = option(False, "less of it is better")
    cells: Count | None = option(None, "so many choices, drawn from the grid")
    seed: Seed = option(0, "of this draw")
    options: dict[str, Any] = option({}, "options of the method that are not varied")

    @property
    def stage(self) -> str | None:
        """The stage whose figure decides; None: the last."""
        return self.by.partition(".")[0] if "." in self.by and self.file.suffix in (".yaml", ".yml") else None

    @property
    def figure(self) -> str:
        return self.by.partition(".")[2] if self.stage else self.by


def method_pipeline(method: str, options: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> Pipeline:
    """A pipeline of one stage, whose settings are the varied options."""
    settings = {name: values[0] for name, values in grid.items()}
    given = {**options, **{name: f"${{{name}}}" for name in grid}}
    stage = {"run": method, "options": given}
    return pipeline_of({"settings": settings, "stages": {"run": stage}}, f"sweep of {method}")


def plan_sweep(pipeline: Pipeline, config: SweepOptions) -> tuple[Pipeline, list[Cell], str]:
    """The expanded pipeline, its cells, and the stage whose figure decides.

    Raises:
        ConfigError: a setting or stage that is not there.
    """
    whole, cells = expanded(pipeline, cells_of(config.grid, config.cells, config.seed))
    stage = pipeline.stage(config.stage).name if config.stage else pipeline.stages[-1].name
    return whole, cells, stage


def run_sweep(
    pipeline: Pipeline, config: SweepOptions, run: Run, say: Callable[[str], None] = lambda text: None
) -> list[Point]:
    """Run every cell that is not done, and report; what failed is left out of the comparison.

    Raises:
        CoalignError: nothing could be compared, or a stage failed (after all others are done).
    """
    whole, cells, stage = plan_sweep(pipeline, config)
    failure: CoalignError | None = None
    try:
        run_chain(whole, ChainOptions.of(config, keep_going=True), run, say)
    except CoalignError as error:
        failure = error
    points = points_of(cells, run.path, stage, config.figure)
    write_sweep_report(
        run,
        config,
        points,
        title=f"{pipeline.name[:1].upper()}{pipeline.name[1:]}",
        stage=stage,
        figure=config.figure,
        lower=config.lower,
    )
    if failure is not None:
        raise failure
    return points
