"""Interruptions of a run: at chosen writes in this process, and of a process of its own at random moments."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from coalign.core import files
from coalign.core.runs import Run
from tests.contract.artefacts import artefacts, assert_close


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@contextlib.contextmanager
def watched(seen: Callable[[Path, bytes], None]) -> Iterator[None]:
    """Call `seen` with the file and the first bytes of it right before rows are appended to it or it is put in place."""
    write_all, sync = files._write_all, files._sync

    def appending(file: IO[bytes], data: bytes) -> None:
        seen(Path(file.name), data)
        write_all(file, data)

    def placing(path: Path) -> None:
        seen(path.parent.parent / path.name, b"")
        sync(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_write_all", appending)
        patch.setattr(files, "_sync", placing)
        yield


def assert_killed_processes_end_like(
    undisturbed: Run, method: str, folder: Path, *, kills: int, seed: int = 0
) -> None:
    """SIGKILL a process of `method` so many times, each after a random time; the attempt after the last one must end
    with the undisturbed figures. Works in the folder that holds the run's data.
    """
    options = Path(f"{method}.yaml")
    options.write_text(json.dumps(undisturbed.config()), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "coalign.cli.main", "run", method),
        "--config",
        str(options),
        "--out",
        str(folder),
    ]
    draw = random.Random(seed)
    for _ in range(kills):
        with contextlib.suppress(subprocess.TimeoutExpired):  # on which the process is killed
            subprocess.run(command, capture_output=True, timeout=draw.uniform(2, 12), check=True)
    subprocess.run(command, capture_output=True, check=True)
    other = (
        "adapter_config.json",
    )  # lists the modules in the order of a set, which differs between processes
    assert_close(artefacts(folder, but=other), artefacts(undisturbed.path, but=other))
