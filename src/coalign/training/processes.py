"""The processes of a launcher (`accelerate launch`, `torchrun`)."""

from __future__ import annotations

import os
import sys

from coalign.core.errors import ConfigError


def assert_one_process(what: str) -> None:
    """Refuse to work under a launcher of several processes.

    Args:
        what: does and needs one process, for the message (`d2o samples`).

    Raises:
        ConfigError: there is more than one process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{what} in one process.", hint="Start it without a launcher.")


def end_processes() -> None:
    """Leave the process group, where there is one: the last act of a command or script.

    A process that exits inside a group can be aborted by the threads that its back end still runs.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
