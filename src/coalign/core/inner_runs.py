"""Runs inside a run's folder: a method at work in this process, with a folder that is as whole as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coalign.core.faults import keep_traceback
from coalign.core.runs import Run


def finished(folder: Path, method: str, implementation: Any, config: Any) -> Run:
    """A run of a method in `folder`: the one that is there where it is done, else begun or gone on with.

    Args:
        implementation: what has `run(config, run)`.

    Raises:
        RunError: the folder holds a run of another method or under other options.
    """
    known = Run(folder)
    if (folder / "status.json").exists() and known.state == "done" and not known.differing(config):
        return known
    run = Run.start(folder, method, config, seed=getattr(config, "seed", None))
    try:
        implementation.run(config, run)
    except KeyboardInterrupt:
        run.set_status(state="interrupted")
        raise
    except Exception as error:
        run.set_status(state="failed", error=f"{type(error).__name__}: {error}")
        keep_traceback(error, run.path)
        raise
    run.set_status(state="done", error=None)
    return run
