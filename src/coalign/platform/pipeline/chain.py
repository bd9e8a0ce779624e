"""A pipeline at work: its stages checked before the first starts, run one after the other, continued where they stopped."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from coalign.core import options
from coalign.core.errors import CoalignError, ConfigError, RunError
from coalign.core.files import write_text
from coalign.core.options import OptionGroup, Positive, option, options_of, required
from coalign.core.processes.children import ending_with
from coalign.core.runs import Run, list_runs
from coalign.core.secrets import redacted_values
from coalign.data.files.shards import SUFFIXES
from coalign.platform.methods import find
from coalign.platform.pipeline.description import Pipeline, Stage, stage_folder

METHOD = "pipeline"
"""What `status.json` of a pipeline's run calls it."""
_DONE, _FAILED = "done", "failed"
_SAVING = 10.0
"""Seconds that a stage has to end by itself."""


@dataclass(kw_only=True)
class ChainOptions(OptionGroup):
    """Options of a run of a pipeline. All may change when it goes on: each stage watches its own."""

    __may_change__ = ("file", "settings", "skip", "until", "keep_going", "hours")

    file: Path = required("the pipeline")
    settings: dict[str, Any] = option({}, "values in place of the file's settings")
    skip: list[str] = option([], "stages to leave out; what they made before is used")
    until: str | None = option(None, "the last stage to run")
    keep_going: bool = option(False, "after a failure go on with the stages that do not need the failed one")
    hours: Positive | None = option(None, "start no further stage after so many hours")


@dataclass(frozen=True)
class Step:
    """A stage with its configuration, in the run of a pipeline.

    Attributes:
        config: an instance of the method's `Config`.
        state: `done`, `interrupted`, `failed`, `running`, `left out`, or `waits`.
        seconds: that it has taken so far.
    """

    stage: Stage
    folder: Path
    config: Any
    state: str
    seconds: float

    @property
    def name(self) -> str:
        return self.stage.name


def plan(
    pipeline: Pipeline, folder: Path, skip: Collection[str] = (), until: str | None = None
) -> list[Step]:
    """The stages as they would run in `folder`, in order, each with its configuration, validated.

    Args:
        folder: of the pipeline's run; it need not exist.
        skip: stages to leave out.
        until: the last stage.

    Raises:
        ConfigError: an unknown stage or method, options that cannot be used, a file that is not there, a stage that needs
            one that is left out and has made nothing, or one that was done under other options.
    """
    left_out = _left_out(pipeline, skip, until)
    absent = {name for name in left_out if _state(stage_folder(folder, name)) != _DONE}
    steps = []
    for stage in pipeline.stages:
        where = stage_folder(folder, stage.name)
        if stage.name in left_out:
            state = _state(where)
            steps.append(Step(stage, where, None, state if state == _DONE else "left out", _seconds(where)))
            continue
        config = _config(pipeline, stage, folder, absent)
        _assert_unchanged(pipeline, stage, where, config)
        steps.append(Step(stage, where, config, _state(where), _seconds(where)))
    return steps


def run_chain(
    pipeline: Pipeline,
    chain: ChainOptions,
    run: Run,
    say: Callable[[str], None] = lambda text: None,
    start: Callable[[Step, Run], int] | None = None,
) -> None:
    """Run the stages that are not done, each in a process of its own.

    What a stage has made stays, whatever becomes of the others; the next start goes on with the stage that was stopped,
    where it was stopped.

    Args:
        say: told what begins and what has ended.
        start: runs a stage and returns its exit code, in place of a process.

    Raises:
        CoalignError: a stage failed, named with its folder; with `keep_going` once all others are done.
    """
    steps = plan(pipeline, run.path, chain.skip, chain.until)
    lost: set[str] = set()
    end = math.inf if chain.hours is None else time.monotonic() + 3600 * chain.hours
    for number, step in enumerate(steps, 1):
        if step.config is None:
            continue
        head = f"[{number}/{len(steps)}] {step.name}: {step.stage.method}"
        if step.state == _DONE:
            say(f"{head}: done before.")
            continue
        if time.monotonic() > end:
            say(f"{head}: not started, since {chain.hours:g} hours have passed.")
            lost.add(step.name)
            continue
        missing = pipeline.needs(step.stage) & lost
        if missing:
            say(f"{head}: left out, since {' and '.join(sorted(missing))} is not done.")
            lost.add(step.name)
            continue
        say(f"{head}: {'goes on' if step.folder.exists() else 'starts'} in {step.folder}")
        began = time.monotonic()
        code = (start or _run_stage)(step, run)
        run.log("stage", name=step.name, code=code, seconds=round(time.monotonic() - began, 1))
        if code == 0 and _state(step.folder) == _DONE:
            continue
        if not chain.keep_going:
            raise _failure(step, code)
        say(f"{head}: failed.")
        lost.add(step.name)
    failed = [one for one in steps if one.name in lost and _state(one.folder) == _FAILED]
    if failed:
        raise _failure(failed[0], 1)


def forget(pipeline: Pipeline, folder: Path, names: Collection[str]) -> list[str]:
    """Delete what stages have made, and what was made of it; the names of those that had made something.

    Raises:
        ConfigError: there is no such stage.
        RunError: a process works in one.
    """
    gone = pipeline.with_those_that_need(names)
    found = [Run(stage_folder(folder, name)) for name in sorted(gone) if _is_run(stage_folder(folder, name))]
    for one in found:
        one.assert_idle()
    for one in found:
        one.delete()
    return [one.path.name for one in found]


def last_time(method: str, root: Path) -> float | None:
    """Seconds that the latest undisturbed run of a method took, under a folder of runs; None where there is none."""
    found = [
        seconds
        for run in list_runs(root)
        if run.summary()["method"] == method and run.state == _DONE and (seconds := _undisturbed(run))
    ]
    return found[-1] if found else None


def _left_out(pipeline: Pipeline, skip: Iterable[str], until: str | None) -> set[str]:
    left_out = {pipeline.stage(name).name for name in skip}
    if until is not None:
        names = [one.name for one in pipeline.stages]
        left_out |= {*names[names.index(pipeline.stage(until).name) + 1 :]}
    return left_out


def _config(pipeline: Pipeline, stage: Stage, folder: Path, absent: Collection[str]) -> Any:
    place = f"{pipeline.place}: stages.{stage.name}"
    try:
        _, implementation = find(stage.method)
    except ConfigError as error:
        raise ConfigError(f"{place}.run: {error.message}", hint=error.hint) from error
    given = pipeline.options_of(stage, folder, absent)
    config = options.build(implementation.Config, given, where=f"{place}.options")
    if redacted_values(options.to_dict(config)) != options.to_dict(config):
        raise ConfigError(
            f"{place}.options: hold a key.", hint="Give keys in the environment, not in a file."
        )
    _assert_there(given, implementation.Config, folder, f"{place}.options")
    return config


def _assert_there(given: Mapping[str, Any], config_class: type, folder: Path, place: str) -> None:
    """Files that the user names exist; what a stage will make is not looked for."""
    paths = {one.name for one in options_of(config_class) if "path" in one.type_name}
    made = str(folder / "stages")
    for name, value in given.items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str) or text.startswith(made):
                continue
            path = text.partition(",")[0]
            named = name in paths or (path.endswith(SUFFIXES) and "*" not in path and "://" not in path)
            if named and path != "-" and not Path(path).expanduser().exists():
                raise ConfigError(f"{place}.{name}: {path}: no such file.")


def _assert_unchanged(pipeline: Pipeline, stage: Stage, where: Path, config: Any) -> None:
    if _state(where) != _DONE:
        return  # a run that is not done says so itself when it starts
    differing = Run(where).differing(config)
    if differing:
        lines = "\n".join(f"  {key}: {old!r} there, {new!r} now" for key, (old, new) in differing.items())
        raise ConfigError(
            f"{pipeline.place}: stages.{stage.name}: was done with other options:\n{lines}",
            hint=f"--again {stage.name} runs it anew, and all that needs it; or give another --out.",
        )


def _run_stage(step: Step, run: Run) -> int:
    """Run a stage in a child process that ends when this one does; its exit code."""
    file = run.artefacts / f"{step.name}.yaml"
    write_text(file, options.to_yaml(step.config))
    launch = step.stage.launch or (sys.executable, "-m")
    command = [*launch, "coalign", "run", step.stage.method, "--config", str(file), "--out", str(step.folder)]
    try:
        child = subprocess.Popen(command, preexec_fn=ending_with(os.getpid()))
    except OSError as error:
        raise CoalignError(f"{step.name}: {command[0]} cannot be started ({error.strerror}).") from error
    try:
        return child.wait()
    except BaseException:
        _end(child)
        raise


def _end(child: subprocess.Popen[bytes]) -> None:
    """An interrupt from a terminal reaches the child as well, which saves and ends; another is passed on, then forced."""
    for seconds, force in ((_SAVING, child.terminate), (_SAVING, child.kill)):
        try:
            child.wait(timeout=seconds)
            return
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            force()
    child.wait()


def _failure(step: Step, code: int) -> CoalignError:
    error = Run(step.folder).status().get("error") if _is_run(step.folder) else None
    ended = f"was ended by signal {-code}" if code < 0 else f"failed{f': {error}' if error else '.'}"
    return CoalignError(
        f"Stage {step.name} ({step.stage.method}) {ended}",
        hint=f"Its folder: {step.folder}. What the others made is kept; the same command goes on.",
    )


def _is_run(folder: Path) -> bool:
    return (folder / "status.json").exists()


def _state(folder: Path) -> str:
    return Run(folder).summary()["state"] if _is_run(folder) else "waits"


def _seconds(folder: Path) -> float:
    """That a stage has taken, its earlier starts included."""
    pipeline = folder.parent.parent
    if not (pipeline / "events.jsonl").exists():
        return 0.0
    return sum(one["seconds"] for one in Run(pipeline).events("stage") if one["name"] == folder.name)


def _undisturbed(run: Run) -> float | None:
    """Seconds from a run's start to its end, where it was not stopped between."""
    try:
        if run.events("resumed"):
            return None
        status = run.status()
        started, ended = (datetime.fromisoformat(status[name]) for name in ("started", "updated"))
    except (KeyError, ValueError, RunError):
        return None
    return (ended - started).total_seconds()
