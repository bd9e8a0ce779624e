"""The flag `--threads`, and what is done where nobody gives it."""

from __future__ import annotations

import os
from typing import Any

import click

from coalign.core.machine.cores import THREADS, watch


def _settle(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    """Before PyTorch is loaded, which reads the variable then."""
    if value is not None:
        os.environ[THREADS] = str(value)
    watch()


_FLAG: dict[str, Any] = {
    "type": click.IntRange(min=1),
    "metavar": "N",
    "expose_value": False,
    "callback": _settle,
    "help": "Threads on the CPU.  [default: OMP_NUM_THREADS, else the cores that other programs leave free]",
}
takes_threads = click.option("--threads", **_FLAG)
"""Gives a command that computes `--threads N`. It holds for this process and those that it starts, and is no part of the
configuration. Where it is missing, what other programs take of the cores is looked at while work goes on.
"""


def threads_flag() -> click.Option:
    """The same for commands that are made from a list of flags."""
    return click.Option(["--threads"], **_FLAG)
