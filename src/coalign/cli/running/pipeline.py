"""`coalign pipeline`: methods one after the other from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coalign.cli.advice import FileGroup
from coalign.cli.flags import key_values
from coalign.cli.threads import takes_threads
from coalign.core.errors import ConfigError
from coalign.core.progress import duration
from coalign.core.runs import Run, new_run_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coalign.platform.pipeline.chain import Step
    from coalign.platform.pipeline.description import Pipeline

_FILE = click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
_OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Run folder of the pipeline; an existing one is continued.  [default: a new one under ./runs]",
)
_SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A value in place of a setting of the file.",
)
_SKIP = click.option(
    "--skip", multiple=True, metavar="STAGE", help="Leave a stage out; what it made before is used."
)
_UNTIL = click.option("--until", metavar="STAGE", help="The last stage to run.")


@click.group(cls=FileGroup)
def pipeline() -> None:
    """Run methods one after the other: a YAML file of stages, whose results go on to the next by name."""


@pipeline.command()
@takes_threads
@_FILE
@_OUT
@_SET
@_SKIP
@_UNTIL
@click.option(
    "--again",
    multiple=True,
    metavar="STAGE",
    help="Delete what a stage and all that needs it made, and run them anew.",
)
@click.option(
    "--keep-going", is_flag=True, help="After a failure go on with stages that do not need the failed one."
)
def run(
    file: Path,
    out: Path | None,
    settings: tuple[str, ...],
    skip: tuple[str, ...],
    until: str | None,
    again: tuple[str, ...],
    keep_going: bool,
) -> None:
    """Run the stages of FILE, or go on with them: the same command with the same --out goes on where it stopped.

    Everything is checked before the first stage starts. Each stage is a run folder DIR/stages/NAME.
    """
    from coalign.cli.running.run import true_status
    from coalign.platform.pipeline.chain import METHOD, ChainOptions, forget, plan, run_chain
    from coalign.platform.pipeline.report import write_pipeline_report

    changes = _changes(settings)
    found = _read(file, changes)
    folder = out or new_run_path(file.stem)
    if again:
        for name in forget(found, folder, again):
            click.echo(f"Deleted what {name} made.", err=True)
    plan(found, folder, skip, until)
    chain = ChainOptions(file=file, settings=changes, skip=[*skip], until=until, keep_going=keep_going)
    opened = Run.start(folder, METHOD, chain)
    click.echo(f"Run folder: {folder}", err=True)
    with true_status(opened, f"To continue: coalign pipeline run {file} --out {folder}"):
        try:
            run_chain(found, chain, opened, lambda text: click.echo(text, err=True))
        finally:
            steps = plan(found, folder, skip, until)
            write_pipeline_report(found, chain, opened, steps)
    opened.set_status(state="done", error=None)
    click.echo(_table(found, steps))
    click.echo(f"Report: {opened.report}", err=True)


@pipeline.command(name="plan")
@_FILE
@_OUT
@_SET
@_SKIP
@_UNTIL
def show_plan(
    file: Path, out: Path | None, settings: tuple[str, ...], skip: tuple[str, ...], until: str | None
) -> None:
    """Say what FILE would run, on what, and how long its stages took the last time. Nothing is started."""
    from coalign.core.options import to_dict
    from coalign.platform.pipeline.chain import plan

    found = _read(file, _changes(settings))
    folder = out or new_run_path(file.stem)
    steps = plan(found, folder, skip, until)
    for step in steps:
        click.echo(
            f"{step.name}: coalign run {step.stage.method}" + (" (left out)" if step.config is None else "")
        )
        if step.config is not None:
            values = to_dict(step.config)
            for name in step.stage.options:
                key = str(name).replace("-", "_")
                click.echo(f"    {key}: {values[key]}")
    click.echo("")
    click.echo(_table(found, steps))


@pipeline.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def status(folder: Path) -> None:
    """Say how far a pipeline's run is."""
    from coalign.platform.pipeline.chain import METHOD, ChainOptions, plan

    opened = Run.open(folder)
    if opened.status().get("method") != METHOD:
        raise ConfigError(f"{folder} is no run of a pipeline.", hint="`coalign runs` tells of other runs.")
    from coalign.core.runs import load_config

    config = load_config(opened, ChainOptions)
    found = _read(config.file, config.settings)
    click.echo(f"{found.name}: {opened.state}")
    click.echo(_table(found, plan(found, folder, config.skip, config.until)))


def _read(file: Path, changes: dict[str, Any]) -> Pipeline:
    from coalign.platform.pipeline.description import read_pipeline

    return read_pipeline(file, changes)


def _changes(settings: Sequence[str]) -> dict[str, Any]:
    from coalign.core.yaml_text import parse_yaml

    try:
        return {
            name: parse_yaml(value) if isinstance(value, str) else value
            for name, value in key_values(settings, "--set").items()
        }
    except ValueError as error:
        raise ConfigError(f"--set: {error}") from error


def _table(found: Pipeline, steps: Sequence[Step]) -> str:
    from coalign.cli.results.runs import table
    from coalign.platform.pipeline.chain import last_time

    def took(step: Step) -> str:
        if step.seconds:
            return duration(step.seconds)
        earlier = last_time(step.stage.method, Path("runs"))
        return f"last time {duration(earlier)}" if earlier else ""

    return table(
        [
            {
                "stage": step.name,
                "method": step.stage.method,
                "state": step.state,
                "needs": ", ".join(sorted(found.needs(step.stage))),
                "time": took(step),
                "result": Run(step.folder).summary()["headline"].partition("\n")[0]
                if step.state == "done"
                else "",
            }
            for step in steps
        ]
    )
