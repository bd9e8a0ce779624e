"""The processes of a launcher (`accelerate launch`, `torchrun`)."""

from __future__ import annotations

import sys


def end_processes() -> None:
    """Leave the process group, where there is one: the last act of a command or script.

    A process that exits inside a group can be aborted by the threads that its back end still runs.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
