"""Trainings of two processes that one of them spoils, as `coalign run` does them. Run as a module under a launcher it is one of
them: `FOLDER RECIPE WHAT`.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from coalign.cli.main import main
from coalign.core.runs import is_main_process
from coalign.training.checkpoints import WholeCheckpoints
from coalign.training.module_trainer import Hooks
from coalign.training.trainer import ObjectiveTask

STEPS = 6
STEP = 3
"""After which it happens."""


class After(TrainerCallback):
    """Does something in the second process."""

    def __init__(self, what: str) -> None:
        self._what = what

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        if is_main_process() or state.global_step != STEP:
            return
        if self._what == "leaves":
            control.should_training_stop = True
        elif self._what == "dies" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)


def spoil(what: str) -> None:
    """Let the second process leave early, die or raise after a step; or the disk be full for the first one."""
    begin = Hooks.on_train_begin

    def on_train_begin(self: Any, *given: Any, **named: Any) -> None:
        self.trainer.add_callback(After(what))
        begin(self, *given, **named)

    Hooks.on_train_begin = on_train_begin  # type: ignore[method-assign]
    loss = ObjectiveTask.loss

    def failing(self: Any, model: Any, batch: Any, state: TrainerState) -> Any:
        if what == "raises" and not is_main_process() and state.global_step == STEP:
            raise RuntimeError("only here")
        return loss(self, model, batch, state)

    ObjectiveTask.loss = failing  # type: ignore[method-assign]

    def full(self: Any, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "optimizer.pt"))

    if what == "full":
        WholeCheckpoints.save_more = full  # type: ignore[method-assign]
        for one in WholeCheckpoints.__subclasses__():
            one.save_more = full  # type: ignore[attr-defined]


def words(folder: Path, name: str, **changes: Any) -> list[str]:
    options = {
        "data": folder / "more.jsonl",
        "model": folder / "tiny",
        "device": "cpu",
        "tuning": "full",
        "batch-size": 2,
        "max-steps": STEPS,
        "save-steps": 2,
        "show-answers": 0,
        "max-length": 200,
        "learning-rate": 1e-3,
        "out": folder / name,
        **changes,
    }
    return ["run", "sft", *(str(word) for key, value in options.items() for word in (f"--{key}", value))]


if __name__ == "__main__":
    where, asked, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    spoil(kind)
    sys.argv = ["coalign", *words(where, f"{kind}-{asked}", **({"limit": 1} if kind == "few" else {}))]
    main()
