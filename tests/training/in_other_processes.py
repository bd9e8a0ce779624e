"""Checkpoints of DeepSpeed of two processes continued in one and in four, and of four in two. Run under a launcher."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from coalign.core.errors import ConfigError
from coalign.core.runs import is_main_process
from coalign.training.processes import end_processes, process_count, process_index
from tests.training.in_processes import again, several, stopped


def main(folder: Path, recipe: str) -> None:
    processes = process_count()
    if processes == 2:
        again(folder, 2, name="from-4", written=4)
        return
    again(folder, processes, name=f"to-{processes}")
    if processes == 1:
        return
    again(folder, processes, name="adapted-to-4", tuning="lora")
    try:
        again(folder, processes, name="by-sgd", optimizer="sgd")
    except ConfigError as error:
        (folder / f"refused-{process_index()}").write_text(str(error))
    run = several(folder, recipe, name="four", processes=processes)
    if is_main_process():
        stopped(run, folder / "from-4")
    torch.distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    end_processes()
