"""Run folders: one folder a run, complete enough to repeat, continue and read it.

config.yaml        the whole configuration
environment.json   versions, hardware, seed, commit, command
data.json          the files of data by a hash of their content
events.jsonl       what happened: one JSON object a line with `time`, `event` and its fields
status.json        method, state (running, interrupted, done, failed), headline figures
artefacts/         what stages produced (JSON Lines, JSON)
checkpoints/       training checkpoints
model/             the resulting model or adapter in Hugging Face layout, with a model card
report.html        the report
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from coalign.core import options
from coalign.core.errors import RunError
from coalign.core.files import (
    append_rows,
    atomic_path,
    parse_json,
    read_rows,
    remove_stale,
    write_json,
    write_text,
)
from coalign.core.inputs import assert_unchanged, fingerprints
from coalign.core.processes import locks
from coalign.core.secrets import redacted_arguments, redacted_values

PACKAGES = ("coalign", "torch", "transformers", "peft", "accelerate", "datasets", "numpy", "tokenizers")
_SAID = ("events.jsonl", "rejects.jsonl", "eval_rejects.jsonl", "traceback.log", "vllm-server.log")
_STARTED = {*_SAID, "artefacts", "config.yaml", "data.json", "environment.json", "status.json"}
"""What lies in the folder of a run that has made nothing."""
_NO_WORK = {"rejects.jsonl"}
_TO_READ = {"rejects.jsonl", "eval_rejects.jsonl", "vllm-server.log"}
"""What messages about a failed start send the user to."""
_LOCK = ".lock"
_working: Path | None = None

T = TypeVar("T")
STATES = ("running", "interrupted", "done", "failed", "unreadable")


class Run:
    """An open run folder. Make one with `Run.start`, read one with `Run.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._replaced: str | None = None
        self._is_new = False

    @property
    def artefacts(self) -> Path:
        return self.path / "artefacts"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def publish_model(self, folder: Path | str, *, replace: bool = False) -> None:
        """Copy a model folder to `model`, at once or not at all; where there is one already, only to replace it."""
        if replace or not self.model.exists():
            with atomic_path(self.model) as path:
                shutil.copytree(folder, path)

    def publish_records(self, path: Path) -> None:
        """Name the file of records that the run made: what the run folder stands for where records are read."""
        self.set_status(records=str(path.relative_to(self.path)))

    @property
    def records(self) -> Path | None:
        """The file of records that the run made, None where it made none (or none yet)."""
        name = self.status().get("records")
        return None if name is None else self.path / name

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @classmethod
    def start(cls, path: Path, method: str, config: Any, *, seed: int | None = None) -> Run:
        """Create the folder, or continue it when it holds the same method and configuration. A start that made nothing
        (its data or its model could not be read) holds nothing back: the folder then takes another one.

        Under a launcher (`torchrun`, `accelerate launch`) the first process does this and writes status and events;
        the others wait for it.

        Raises:
            RunError: the folder belongs to another method or configuration (the differing keys are named), it
                holds files of something else, its data has changed since, or another process is working in it.
        """
        run = cls(path)
        if not is_main_process():
            _wait_for(path / "status.json")
            return run
        if (path / "status.json").exists() and not run._starts_over(method, config):
            _lock(path)
            run._assert_same_data(config)
            if run._changed(config):
                run._replaced = (path / "config.yaml").read_text(encoding="utf-8")
                options.save(config, path / "config.yaml")
            remove_stale(path)
            run.log("resumed")
            run.set_status(state="running")
            return run
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file, not a folder.", hint="Give an empty or a new folder.")
        if path.exists() and not _STARTED.issuperset(_visible(path)):
            raise RunError(
                f"{path} holds files but is not a run folder.", hint="Give an empty or a new folder."
            )
        run._is_new = not (path / "status.json").exists()
        run.artefacts.mkdir(parents=True, exist_ok=True)
        _lock(path)
        for name in _SAID:  # by a start under another configuration
            (path / name).unlink(missing_ok=True)
        options.save(config, path / "config.yaml")
        write_json(path / "environment.json", environment(seed))
        write_json(path / "data.json", fingerprints(options.to_dict(config)))
        write_json(path / "status.json", {"method": method, "state": "running", "started": _now()})
        run.log("started", method=method)
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open an existing run for reading.

        Raises:
            RunError: `path` is not a run folder.
        """
        if not (path / "status.json").exists():
            raise RunError(f"{path} is not a run folder.", hint="`coalign runs` lists the runs under ./runs.")
        return cls(path)

    def status(self) -> dict[str, Any]:
        """What `status.json` holds.

        Raises:
            RunError: the file cannot be read.
        """
        return _mapping(self.path / "status.json")

    @property
    def state(self) -> str:
        """`running`, `interrupted`, `done` or `failed`. A run whose process was killed is interrupted."""
        state = str(self.status().get("state", "interrupted"))
        return "interrupted" if state == "running" and not locks.is_held(self.path / _LOCK) else state

    def set_status(self, **fields: Any) -> None:
        """Merge fields into `status.json` (`state`, `headline`, `figures`, ...)."""
        if not is_main_process():
            return
        write_json(self.path / "status.json", {**self.status(), **redacted_values(fields), "updated": _now()})

    def summary(self) -> dict[str, str]:
        """Method, state, time, place and headline (or error); a damaged folder is `unreadable`."""
        try:
            status, state = self.status(), self.state
        except RunError:
            status, state = {}, "unreadable"
        if state not in STATES:
            state = "unreadable"
        return {
            "method": str(status.get("method", "?")),
            "state": state,
            "started": str(status.get("started", "?")),
            "path": str(self.path),
            "headline": str(status.get("headline") or status.get("error") or ""),
        }

    def config(self) -> dict[str, Any]:
        return options.load_file(self.path / "config.yaml")

    def put_back_config(self) -> None:
        """Put the configuration back that this start replaced: the run cannot go on with the new one."""
        if self._replaced is not None and is_main_process():
            write_text(self.path / "config.yaml", self._replaced)

    def environment(self) -> dict[str, Any]:
        return _mapping(self.path / "environment.json")

    def log(self, event: str, **fields: Any) -> None:
        """Append an event to `events.jsonl`."""
        if not is_main_process():
            return
        row = {"time": round(time.time(), 3), "event": event, **redacted_values(fields)}
        append_rows(self.path / "events.jsonl", [row])

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        file = self.path / "events.jsonl"
        try:
            rows = read_rows(file, repair=True)
        except OSError as error:
            raise RunError(f"{file}: cannot be read ({error.strerror}).") from error
        return [row for row in rows if isinstance(row, dict) and event in (None, row.get("event"))]

    def _assert_same(self, method: str, config: Any) -> None:
        other = self.status().get("method")
        if other != method:
            raise RunError(f"{self.path} is a run of {other}, not of {method}.", hint="Give another --out.")
        lines = [f"  {key}: {old!r} there, {new!r} now" for key, (old, new) in self.differing(config).items()]
        if lines:
            raise RunError(
                f"{self.path} was started with another configuration:\n" + "\n".join(lines),
                hint="Run with the same options to continue it, or give another --out.",
            )

    def differing(self, config: Any) -> dict[str, tuple[Any, Any]]:
        """Options that keep the run from going on with `config`: the value that it was started with, the value now."""
        may_change = {name for kind in type(config).__mro__ for name in vars(kind).get("__may_change__", ())}
        return {key: pair for key, pair in self._changed(config).items() if key not in may_change}

    def _changed(self, config: Any) -> dict[str, tuple[Any, Any]]:
        """Options that have another value than the run was started with: the value there, the value now."""
        # Options that the version which began the run did not have are at their defaults.
        old = {**options.defaults(type(config)), **self.config()}
        new = redacted_values(options.to_dict(config))  # as it was written
        return {key: (old.get(key), value) for key, value in new.items() if old.get(key) != value}

    def _assert_same_data(self, config: Any) -> None:
        """Work that was done goes on with the data that it was done with; before any is done data may be mended."""
        kept = self.path / "data.json"
        if not self._has_work():
            write_json(kept, fingerprints(options.to_dict(config)))
        elif kept.exists():  # runs of earlier versions have none
            assert_unchanged(_mapping(kept), self.path)

    def _starts_over(self, method: str, config: Any) -> bool:
        """Whether the folder is given to another method or configuration, having made nothing under its own.

        Raises:
            RunError: it is another one, and something was made.
        """
        done = self.status().get("state") == "done"
        try:
            self._assert_same(method, config)
        except RunError:
            if done or self._has_work() or not _STARTED.issuperset(_visible(self.path)):
                raise
            return True
        return False

    def assert_idle(self) -> None:
        """Refuse to go on while somebody works in the folder.

        Raises:
            RunError: a living process does.
        """
        if locks.is_held(self.path / _LOCK):
            raise RunError(f"A process is working in {self.path}.", hint="Stop it first.")

    @property
    def process(self) -> int | None:
        """The process of this machine that works in the folder, None where none does."""
        return locks.holder(self.path / _LOCK)

    def delete(self) -> None:
        """Remove the folder and everything in it.

        Raises:
            RunError: a living process works in it, or it cannot be removed (a link to a folder elsewhere is not).
        """
        self.assert_idle()
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be removed ({error}).") from error

    def withdraw(self) -> bool:
        """Remove the folder again where this process began it and made nothing in it, nor anything to look into; whether that
        was done.
        """
        there = _visible(self.path)
        if not self._is_new or self._has_work() or not (_STARTED - _TO_READ).issuperset(there):
            return False
        shutil.rmtree(self.path, ignore_errors=True)
        return not self.path.exists()

    def _has_work(self) -> bool:
        made = [*self.artefacts.rglob("*"), *self.checkpoints.rglob("*"), *self.model.rglob("*")]
        return any(one.is_file() and one.name not in _NO_WORK for one in made)


def new_run_path(method: str, root: Path = Path("runs")) -> Path:
    """A fresh `runs/<method>-<date>-<n>`."""
    stem = f"{method}-{datetime.now(UTC).strftime('%Y%m%d')}"
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return root / f"{stem}-{number}"


def list_runs(root: Path) -> Iterator[Run]:
    """The runs directly under `root`, oldest first."""
    if not root.is_dir():
        return
    folders = [path for path in root.iterdir() if (path / "status.json").exists()]
    for path in sorted(folders, key=lambda one: (one / "status.json").stat().st_mtime):
        yield Run(path)


def working_folder() -> Path | None:
    """The run folder that this process began to work in last; None where it works in none."""
    return _working


def model_folder(name: str | Path) -> Path:
    """The folder that a run left its model in, by the run's folder; any other folder is itself."""
    given = Path(name).expanduser()
    return given / "model" if (given / "status.json").is_file() else given


def load_config(run: Run, config_class: type[T]) -> T:
    """The configuration of a run as an instance of its class."""
    return options.build(config_class, run.config(), where=str(run.path / "config.yaml"))


def environment(seed: int | None = None) -> dict[str, Any]:
    """What a run depends on besides its configuration. Holds no secrets: flags that look like one are masked."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": _commit(),
        "seed": seed,
        "command": redacted_arguments(sys.argv),
        "started": _now(),
    }


def is_main_process() -> bool:
    """Whether this process writes: the only one, or the first under a launcher."""
    return os.environ.get("RANK", "0") == "0"


def _wait_for(path: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise RunError(
                f"{path} did not appear within {seconds:.0f} s: the first process has not started the run.",
                hint="Look at the first process's messages. All processes need the same --out.",
            )
        time.sleep(0.05)


def _mapping(path: Path) -> dict[str, Any]:
    """What a JSON file of the folder holds.

    Raises:
        RunError: it cannot be read, or is no mapping.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: cannot be read (a {type(value).__name__}, expected a mapping).")
    return value


def _visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def _lock(folder: Path) -> None:
    """Hold the folder for this process until it ends, however it ends."""
    global _working
    if not locks.hold(folder / _LOCK):
        raise RunError(f"Another process is working in {folder}.", hint="Wait for it, or give another --out.")
    _working = folder


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """Of an installed package, None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree, when coalign runs from a checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    except OSError:
        return None
    return result.stdout.strip() or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


__all__ = ["Run", "environment", "list_runs", "load_config", "new_run_path"]
