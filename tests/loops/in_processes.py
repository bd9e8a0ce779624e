"""Reinforcement learning of two steps, as any number of processes does it. Run as a module under a launcher it is one of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from coalign.core.runs import Run, is_main_process
from coalign.training.processes import end_processes
from tests.loops import led_in_processes
from tests.loops.reinforced import asked, learn, loop_of

METHODS: dict[str, dict[str, Any]] = {
    # 3 prompts of 4 samples are 6 forward passes of 2 responses: 3 for each of two processes, and the prompts are not even
    "grpo": {"beta": 0.1, "updates": 2},
    "rloo": {"beta": 0.1, "dynamic_sampling": True},
    "ppo": {"beta": 0.1, "updates": 2},
}
SHARED: dict[str, Any] = {
    "prompts_per_step": 3,
    "batch_size": 2,
    "max_steps": 2,
    "optimizer": "sgd",
    "learning_rate": 0.1,
}


def train(folder: Path, method: str, processes: int) -> Run:
    loop = loop_of(
        folder / f"{method}-{processes}", method, **{**SHARED, **METHODS[method]}, held_out=asked(3, "h")
    )
    _, model = learn(loop)
    if is_main_process():
        model.save_pretrained(str(loop.run.model))
    return loop.run


if __name__ == "__main__":
    for one in METHODS:
        train(Path(sys.argv[1]), one, int(os.environ["WORLD_SIZE"]))
    led_in_processes.run_loop(led_in_processes.CHOSEN, Path(sys.argv[1]), int(os.environ["WORLD_SIZE"]))
    end_processes()
