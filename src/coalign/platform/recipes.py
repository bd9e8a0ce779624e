"""Systems that are pipelines: which stages there are follows from what a configuration gives, each is a run of a method.

A system names its stages with what it says of their options; every option of the whole that a stage's method has too
(model, device, batch size, seed, ...) goes to it, and `--stage NAME.OPTION=VALUE` has the last word. The stages run in this
process, each in a run folder of its own under `stages/`, checked before the first starts; what is done is not done again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError
from coalign.core.files import FULL, write_json
from coalign.core.inner_runs import finished
from coalign.core.names import suggest
from coalign.core.options import OptionGroup, option, options_of, to_dict
from coalign.core.runs import Run
from coalign.core.yaml_text import parse_yaml
from coalign.models.options import TRAINING, ModelOptions
from coalign.platform.methods import find
from coalign.platform.pipeline.chain import ChainOptions, Step, plan, run_chain
from coalign.platform.pipeline.description import Pipeline, pipeline_of
from coalign.training.processes import assert_one_process

OWN_FILES: Mapping[str, Any] = {"kind": None, "column": None, "limit": None, "split": "train"}
"""Options of a stage that reads what another one wrote: how the user's own files are read is not meant for these."""
UNTRAINED: Mapping[str, Any] = {
    one.name: one.default for one in options_of(ModelOptions) if one.name in TRAINING
}
"""Options of a stage that only samples: those of training are not meant for it."""


@dataclass(frozen=True)
class Part:
    """A stage of a recipe.

    Attributes:
        options: what the recipe says of it, over what the whole configuration says; `${NAME}` is the result of a stage.
        publishes: its model is the recipe's, unless a later one publishes too.
        shares: options of the whole go to it.
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    publishes: bool = False
    after: Sequence[str] = ()
    shares: bool = True


@dataclass(kw_only=True)
class RecipeOptions(OptionGroup):
    """Options of every recipe."""

    __group__ = "Stages"

    skip: list[str] = option([], "stages to leave out; what they made before is used")
    stage: list[str] = option(
        [], "an option of one stage, as NAME.OPTION=VALUE; may be given several times", split=False
    )
    keep_going: bool = option(False, "after a failure go on with the stages that do not need the failed one")


def run_recipe(config: Any, run: Run, parts: Sequence[Part], *, name: str) -> list[Step]:
    """Run the stages that are not done, publish the last model, and return the stages as they are.

    Args:
        config: the whole configuration, with `RecipeOptions`.
        parts: the stages that are wanted; of those that publish a model the last one counts.
        name: of the system, for messages.

    Raises:
        ConfigError: no stage; an option that a stage does not have or cannot use; several processes.
        CoalignError: a stage failed; what the others made stays.
    """
    assert_one_process(f"{name} runs its stages one after the other,")
    pipeline = recipe(config, parts, name)
    chain = ChainOptions(file=Path(name), skip=[*config.skip], keep_going=config.keep_going)
    run_chain(pipeline, chain, run, lambda text: run.log("recipe", text=text), start=_here)
    steps = plan(pipeline, run.path, config.skip)
    write_json(
        run.artefacts / "stages.json",
        {
            one.name: {"method": one.stage.method, "figures": Run(one.folder).status().get("figures")}
            for one in steps
            if one.state == "done"
        },
    )
    publish_model(parts, steps, run)
    return steps


def recipe(config: Any, parts: Sequence[Part], name: str) -> Pipeline:
    """The stages as a pipeline.

    Raises:
        ConfigError: as `run_recipe`.
    """
    if not parts:
        raise ConfigError(f"{name}: nothing to do.", hint="Give data of one of its stages at least.")
    said = to_dict(config)
    given = _of_stages(config.stage, [one.name for one in parts])
    stages = {}
    for one in parts:
        _, implementation = find(one.method)
        known = {each.name for each in options_of(implementation.Config)}
        unknown = next((each for each in given.get(one.name, {}) if each not in known), None)
        if unknown is not None:
            near = suggest(unknown, known, f"`coalign run {one.method} --help` lists them.")
            raise ConfigError(f"--stage {one.name}.{unknown}: {one.method} has no such option. {near}")
        common = {
            each: said[each]
            for each in known & said.keys() - {"data"}
            if one.shares and config.changed([each])
        }
        options = {**common, **one.options, **given.get(one.name, {})}
        stages[one.name] = {
            "run": one.method,
            "options": {
                key: str(value) if isinstance(value, Path) else value for key, value in options.items()
            },
            **({"after": list(one.after)} if one.after else {}),
        }
    return pipeline_of({"name": name, "stages": stages}, name)


def publish_model(parts: Sequence[Part], steps: Sequence[Step], run: Run) -> None:
    """Put the model of the last stage that publishes one into the run's folder, as links where the disk has them."""
    made = {one.name: one.folder / "model" for one in steps if (one.folder / "model").is_dir()}
    source = next((made[one.name] for one in reversed(parts) if one.publishes and one.name in made), None)
    if source is None:
        return
    shutil.rmtree(run.model, ignore_errors=True)
    shutil.copytree(source, run.model, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    with suppress(OSError):
        os.link(source, target)
        return
    try:
        shutil.copy2(source, target)
    except OSError as error:
        if error.errno in FULL:
            error.filename = target
        raise


def _of_stages(texts: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Stage to its options, out of NAME.OPTION=VALUE; values are YAML.

    Raises:
        ConfigError: a text of another form, or a stage that there is not.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        stage, dot, name = place.partition(".")
        if not (equals and dot and name):
            raise ConfigError(f"--stage {text}: expected NAME.OPTION=VALUE.")
        if stage not in names:
            near = suggest(stage, names, f"Stages: {', '.join(names)}.")
            raise ConfigError(f"--stage {text}: there is no stage {stage!r}. {near}")
        try:
            found.setdefault(stage, {})[name.replace("-", "_")] = parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"--stage {text}: {error}") from error
    return found


def _here(step: Step, run: Run) -> int:
    """Run a stage in this process, and tell the end of its training in the recipe's events; 0, since what fails is raised."""
    entry, implementation = find(step.stage.method)
    done = finished(step.folder, entry.slug if entry else step.stage.method, implementation, step.config)
    told = [one for one in done.events("train") if "loss" in one]
    if told:
        last = {key: value for key, value in told[-1].items() if key not in ("time", "event")}
        run.log("train", **{**last, "stage": step.name})
    return 0
