"""Stages within one run: methods of `coalign run`, one after the other in this process, each in a run folder of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core import options
from coalign.core.errors import ConfigError
from coalign.core.runs import Run
from coalign.platform.methods import find

STAGES = "stages"
"""Folder of the stages in the run's."""


@dataclass(frozen=True)
class Stage:
    """A method with its configuration.

    Attributes:
        method: that `coalign run` knows.
    """

    name: str
    method: str
    config: Any
    implementation: Any


def plan_stage(
    name: str, method: str, shared: Any, changes: Mapping[str, Any], given: Sequence[str] = ()
) -> Stage:
    """A stage with its configuration, validated; nothing is loaded.

    Args:
        shared: a configuration that gives the options which it has in common with the method.
        changes: values in place of these.
        given: the user's, each as KEY=VALUE, in place of both.

    Raises:
        ConfigError: an option that the method does not have, or a value that it does not take.
    """
    _, implementation = find(method)
    where = f"stage {name}"
    own = {key.strip().replace("-", "_"): value for key, _, value in (one.partition("=") for one in given)}
    try:
        config = implementation.Config.of(shared, **changes)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    checked = options.build(implementation.Config, {**options.to_dict(config), **own}, where=where)
    return Stage(name, method, checked if own else config, implementation)


def run_stage(run: Run, stage: Stage) -> Run:
    """Run a stage under `stages/NAME`, or go on with it; what is done is not repeated. The last line of its training is told in
    the events of `run` too.

    Raises:
        RunError: the folder holds the stage under other options.
    """
    one = Run(run.path / STAGES / stage.name)
    if (one.path / "status.json").exists() and one.state == "done" and not one.differing(stage.config):
        return one
    one = Run.start(one.path, stage.method, stage.config, seed=getattr(stage.config, "seed", None))
    stage.implementation.run(stage.config, one)
    told = [event for event in one.events("train") if "loss" in event]
    if told and not any(event["stage"] == stage.name for event in run.events("train")):
        last = {key: value for key, value in told[-1].items() if key not in ("time", "event", "stage")}
        run.log("train", stage=stage.name, **last)
    one.set_status(state="done", error=None)
    return one
