"""One step of three trainings as any number of processes does it. Run as a module under a launcher it is one of them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from coalign.cli.running.run import execute, find
from coalign.core.options import build
from coalign.core.runs import Run, is_main_process
from coalign.training.processes import end_processes
from tests.preference.tiny_runs import SMALL, pairs, save_tiny_model, write

STEP = {
    "optimizer": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.25, "max_steps": 1, "save_steps": 0,
    "schedule": "constant", "warmup_ratio": 0.0, "gradient_accumulation": 2,
}  # fmt: skip
LORA: dict[str, Any] = {"tuning": "lora"}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"tuning": "full", "show_answers": 0},
    "dpo": {**LORA, "show_answers": 0},
    "reward-model": LORA,
}


def material(folder: Path) -> None:
    save_tiny_model(folder / "tiny")
    write(folder / "rows.jsonl", pairs(12))


def config_of(method: str, folder: Path, processes: int, **options: Any) -> Any:
    """Options of a step over eight of the records, however many processes share it."""
    given = {"model": str(folder / "tiny"), "data": [str(folder / "rows.jsonl")], **METHODS[method]}
    return build(find(method)[1].Config, {**SMALL, **STEP, "batch_size": 4 // processes, **given, **options})


def train(folder: Path, processes: int) -> dict[str, Run]:
    """The runs, each in a folder of its own beside the data."""
    runs = {}
    for method in METHODS:
        config = config_of(method, folder, processes)
        run = runs[method] = Run.start(folder / f"{method}-{processes}", method, config, seed=0)
        find(method)[1].run(config, run)
    return runs


def fail_in_the_second_process(folder: Path) -> None:
    """A training whose second process raises inside its first step, while the first waits for its gradients."""
    from coalign.training.trainer import ObjectiveTask

    loss = ObjectiveTask.loss

    def failing(*given: Any) -> Any:
        if is_main_process():
            return loss(*given)
        (folder / "failed").write_text(str(time.time()))
        raise RuntimeError("only here")

    ObjectiveTask.loss = failing  # type: ignore[method-assign]
    execute("sft", find("sft")[1], config_of("sft", folder, 2), folder / "failing")


if __name__ == "__main__":
    where = Path(sys.argv[1])
    train(where, int(os.environ["WORLD_SIZE"]))
    fail_in_the_second_process(where)
    end_processes()
