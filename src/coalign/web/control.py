"""Runs that are started, continued, stopped and deleted from the workbench.

A run is a process of its own, `coalign run METHOD --config FILE --out FOLDER`, which goes on when the workbench ends. What it
was started with and what it prints lie in `.started/` beside the run folders. What a page can ask for is less than what a
command line can: no code of files, no code of a model's repository, no programs without a sandbox.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError, RunError
from coalign.core.files import write_text
from coalign.core.options import build, defaults, option, options_of, required
from coalign.core.own_code import names_code
from coalign.core.runs import Run, new_run_path
from coalign.core.secrets import redacted
from coalign.core.yaml_text import parse_yaml
from coalign.platform.methods import find
from coalign.web.local import json_object

if TYPE_CHECKING:
    from fastapi import FastAPI

STARTED = ".started"
"""Folder beside the run folders: the configurations and the output of runs that a page started."""
STARTING = 60.0
"""Seconds until a started process has its run folder, at most."""
STOPPING = 20.0
"""Seconds that a run may take to save after an interrupt."""
SHOWN = 8000
"""Last bytes of the output that a page shows."""
COMMAND = (sys.executable, "-m", "coalign")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TAKEN = {"trust_remote_code": ("false",), "sandbox": ("auto", "bubblewrap", "namespaces")}
"""Options by which a run can execute what others wrote, and their values, in small letters, by which it does not."""
_OF_MODULES = ("function", "property")
"""Where code can be that of an installed module, `module:name`."""
_GIVEN = re.compile(r"\b(trust[_-]remote[_-]code|sandbox)[\"']?\s*[:=]\s*[\"']?(\w+)", re.IGNORECASE)
"""The same options inside of a text, such as a reward with its arguments."""


@dataclass(kw_only=True)
class Start:
    """What a page asks for."""

    method: str = required("name of a method")
    options: str = required("its options, as YAML", split=False)
    name: str = option("", "of the run folder; by default the method, the date and a number")


def start(root: Path, asked: Start) -> Run:
    """Start a run in a process of its own, once its options are known to be usable.

    Raises:
        ConfigError: an unknown method, options that it does not take or that a page may not give, or a name that is no
            folder's; what the process said, where it ended before it had a run folder.
        RunError: there is such a run already.
    """
    config_class = _config_class(asked.method)
    try:
        values = parse_yaml(asked.options) or {}
    except ValueError as error:
        raise ConfigError(f"options: not YAML ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError("options: expected a line NAME: VALUE for each")
    _assert_harmless(values)
    build(config_class, values, where="options")
    if asked.name and not _NAME.fullmatch(asked.name):
        raise ConfigError(f"name: {asked.name!r} is not usable, expected letters, digits, dots and dashes")
    folder = root / asked.name if asked.name else new_run_path(asked.method, root)
    if (folder / "status.json").exists():
        raise RunError(
            f"{folder.name}: there is such a run already; continue it from its page, or give another name."
        )
    file = _place(root, folder.name, ".yaml")
    write_text(file, asked.options)
    return _launch(root, asked.method, file, folder)


def go_on(root: Path, run: Run) -> Run:
    """Continue a run that was interrupted or failed, with its own configuration.

    Raises:
        RunError: a process works in it.
        ConfigError: as of `start`.
    """
    run.assert_idle()
    method = str(run.status().get("method"))
    _config_class(method)
    _assert_harmless(run.config())
    return _launch(root, method, run.path / "config.yaml", run.path)


def stop(run: Run) -> None:
    """Interrupt the process that works in a run folder, as Ctrl-C does, and end it where it does not save and end itself.

    Raises:
        RunError: none does on this machine, or it is another user's.
    """
    process = run.process
    if process is None or process == os.getpid():
        raise RunError(f"{run.path.name}: no process of this machine works in it.")
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32" and number == signal.SIGINT:
            continue  # which reaches groups of a console alone there
        try:
            os.kill(process, number)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise RunError(f"{run.path.name}: process {process} is another user's.") from error
        if _waited(STOPPING, lambda: run.process != process):
            break
    if run.process is None and run.status().get("state") == "running":
        run.set_status(state="interrupted")


def output(root: Path, name: str) -> str:
    """The end of what the process of a run printed, where a page started it; else nothing."""
    try:
        with _place(root, name, ".log").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - SHOWN))
            data = file.read()
    except OSError:
        return ""
    return redacted(data.decode("utf-8", "replace")).strip()


def template(method: str) -> str:
    """The options of a method as YAML to fill in: those that must be given, and the others behind `#` with their defaults.

    Raises:
        ConfigError: there is no such method, or it is code of a file: no page that is only looked at imports any.
    """
    config_class = _config_class(method)
    lines = [f"{one.name}:  # {one.help}" for one in options_of(config_class) if one.required]
    lines += [f"# {name}: {_in_yaml(value)}" for name, value in defaults(config_class).items()]
    return "\n".join(lines) + "\n"


def add_control(app: FastAPI, root: Path, known: Callable[[str], Run]) -> None:
    """The requests that change something. Each is a POST of JSON, which `local_app` takes from its own pages alone.

    Args:
        known: finds a run by its name, among those that are listed.
    """
    from starlette.concurrency import run_in_threadpool

    def route(path: str) -> Any:
        def decorate(work: Any) -> Any:
            async def answer(request: Any) -> Any:
                from starlette.responses import JSONResponse

                body = await json_object(request)
                return JSONResponse(await run_in_threadpool(work, request.path_params.get("name"), body))

            app.add_route(path, answer, methods=["POST"])
            return work

        return decorate

    @route("/api/runs")
    def started(name: None, body: dict[str, Any]) -> dict[str, str]:
        return {"name": start(root, build(Start, body, where="request")).path.name}

    @route("/api/runs/{name}/continue")
    def continued(name: str, body: dict[str, Any]) -> dict[str, str]:
        return {"name": go_on(root, known(name)).path.name}

    @route("/api/runs/{name}/stop")
    def stopped(name: str, body: dict[str, Any]) -> dict[str, str]:
        stop(known(name))
        return {"state": known(name).state}

    @route("/api/runs/{name}/delete")
    def deleted(name: str, body: dict[str, Any]) -> dict[str, str]:
        known(name).delete()
        for ending in (".yaml", ".log"):
            _place(root, name, ending).unlink(missing_ok=True)
        return {"name": name}


def _config_class(method: str) -> type:
    """The configuration of a method; of a file's code none is loaded."""
    if names_code(method):
        raise ConfigError(f"method: {method} is code of a file; start it on the command line.")
    return find(method)[1].Config


def _assert_harmless(value: Any, name: str = "options") -> None:
    """Refuse, anywhere in the values, what would execute code of others, also where it is written in a text."""
    if isinstance(value, Mapping):
        for one, below in value.items():
            _assert_harmless(str(one), name)
            _assert_harmless(below, str(one))
        return
    if isinstance(value, list):
        for one in value:
            _assert_harmless(one, name)
        return
    text = str(value)
    for option_of, setting in [(name, text), *_GIVEN.findall(text)]:
        taken = _TAKEN.get(option_of.lower().replace("-", "_"))
        if taken is not None and setting.strip().lower() not in taken:
            raise ConfigError(
                f"{option_of}: {setting} is not taken from a page; start this run on the command line."
            )
    of_module = (name in _OF_MODULES and ":" in text) or re.search(r"\bfunction\s*:\s*[\w.]+:\w", text)
    if of_module or re.search(r"\.py(?!\w)", text):
        raise ConfigError(f"{name}: {value} is code of a file; start this run on the command line.")


def _launch(root: Path, method: str, file: Path, folder: Path) -> Run:
    log = _place(root, folder.name, ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*COMMAND, "run", method, "--config", str(file), "--out", str(folder)]
    before = _written(folder)
    with log.open("wb") as printed:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, start_new_session=True
        )
    _waited(STARTING, lambda: process.poll() is not None or _written(folder) != before)
    if process.poll() and _written(folder) == before:
        raise ConfigError(output(root, folder.name) or f"The process ended with {process.returncode}.")
    return Run(folder)


def _written(folder: Path) -> int:
    """When the run's status was written; 0 where it was not yet."""
    try:
        return (folder / "status.json").stat().st_mtime_ns
    except OSError:
        return 0


def _place(root: Path, name: str, ending: str) -> Path:
    return root / STARTED / f"{name}{ending}"


def _waited(seconds: float, ended: Callable[[], bool]) -> bool:
    """Whether it ended within so many seconds."""
    until = time.monotonic() + seconds
    while not ended():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _in_yaml(value: Any) -> str:
    """A value on one line; text without quotes where it is read back as it is."""
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and parse_yaml(f"a: {value}") == {"a": value}:
            return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
